"""What every derainer keeps to; RGSUD_CONTRACT_DERAINER=mypackage.myfile:MyNet names yours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from trainer.kinds import PartSettings
from trainer.models.registry import DERAINERS, build_derainer, load_derainer, serialise_derainer

EXAMPLES = Path(__file__).parent / "examples"
OWN: dict[str, Any] = {
    "nafnet": {"name": "nafnet", "width": 4, "encoder": [1, 1], "middle": 1, "decoder": [1, 1]},
    "a stranger's": {"name": "shallow_derainer:Shallow", "channels": 8},
}
YOURS = os.environ.get("RGSUD_CONTRACT_DERAINER")
CASES: dict[str, Any] = {"yours": yaml.safe_load(YOURS)} if YOURS else OWN


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield


@pytest.fixture(params=list(CASES))
def settings(request: pytest.FixtureRequest) -> PartSettings:
    chosen: PartSettings = DERAINERS.settings(CASES[request.param])
    return chosen


def _built(settings: PartSettings, **options: bool) -> nn.Module:
    torch.manual_seed(0)
    net = build_derainer(settings, **options)
    with torch.no_grad():  # as after some training: no weight that starts at zero is
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return net


def _derained(net: nn.Module, image: Tensor) -> Tensor:
    out = net(image)
    first: Tensor = out if isinstance(out, Tensor) else out[0]
    return first


def _image(net: nn.Module, n: int = 2) -> Tensor:
    """Not square; sides that divide by the multiple, with at least 32 pixels."""
    multiple = int(getattr(net, "multiple", 1))
    side = -(-32 // multiple) * multiple
    return torch.rand(n, 3, side, side + multiple, generator=torch.Generator().manual_seed(1))


def test_it_gives_images_of_the_same_shape(settings: PartSettings) -> None:
    net = _built(settings)
    image = _image(net)
    before = image.clone()
    derained = _derained(net, image)
    assert derained.shape == image.shape
    assert derained.dtype == torch.float32
    assert derained.isfinite().all()
    assert torch.equal(image, before)


def test_its_gradients_reach_all_parameters_and_the_image(settings: PartSettings) -> None:
    net = _built(settings)
    image = _image(net).requires_grad_()
    _derained(net, image).square().mean().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert image.grad is not None


def test_an_image_is_derained_alike_whatever_is_beside_it(settings: PartSettings) -> None:
    net = _built(settings).eval()
    image = _image(net)
    with torch.no_grad():
        torch.testing.assert_close(_derained(net, image)[:1], _derained(net, image[:1]), atol=1e-4, rtol=1e-4)


def test_if_it_can_start_as_identity_it_does(settings: PartSettings) -> None:
    net = build_derainer(settings, identity_start=True).eval()
    if not hasattr(net, "start_as_identity"):
        pytest.skip("it has no start_as_identity")
    image = _image(net)
    with torch.no_grad():
        torch.testing.assert_close(_derained(net, image), image)


def test_its_file_gives_it_back(settings: PartSettings, tmp_path: Path) -> None:
    net = _built(settings).eval()
    file = tmp_path / "derainer.safetensors"
    file.write_bytes(serialise_derainer(net, settings))
    again = load_derainer(file, settings.name)
    assert not again.training
    image = _image(net)
    with torch.no_grad():
        torch.testing.assert_close(_derained(again, image), _derained(net, image), atol=1e-6, rtol=1e-5)
    assert DERAINERS.settings(settings.model_dump(mode="json")) == settings

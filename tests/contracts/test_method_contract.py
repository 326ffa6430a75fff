"""What every method keeps to; RGSUD_CONTRACT_METHOD=mypackage.myfile:MyMethod names yours."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from tests.contracts.photographs import Scenes
from trainer.batch import Batch, Crop
from trainer.methods import METHODS, build_method
from trainer.methods.base import Method
from trainer.models.registry import build_derainer

EXAMPLES = Path(__file__).parent / "examples"
TINY: dict[str, Any] = {
    "generator": {"width": 8, "blocks": 1, "downscale": 2},
    "dem": {"width": 4, "levels": 1},
    "discriminator": {"width": 8, "layers": 2},
}
PLAIN: dict[str, Any] = {"overlay": "add", "discriminator": None}
OWN: dict[str, Any] = {
    "the paper's": TINY,
    "rain that is found": {"sources": {1: ["flat"], 2: ["reward_smooth", "flat"]}, "rain_gain": 2.0, **PLAIN},
    "rain that is rendered": {"sources": [{"name": "rendered", "maps": 2}], **PLAIN},
    "supervised": {"name": "supervised"},
    "a stranger's": {"name": "plain_method:Plain", "rain": {"name": "rendered", "maps": 2}},
}
YOURS = os.environ.get("RGSUD_CONTRACT_METHOD")
CASES: dict[str, Any] = {"yours": yaml.safe_load(YOURS)} if YOURS else OWN
N, CROP = 3, 32


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield


@pytest.fixture(params=list(CASES))
def given(request: pytest.FixtureRequest) -> Any:
    return CASES[request.param]


def _method(given: Any) -> Method:
    torch.manual_seed(0)
    derainer = build_derainer({"width": 4, "encoder": [1], "middle": 1, "decoder": [1]})
    made = build_method(METHODS.settings(given), derainer)
    for finding in made.begin(Scenes(), CROP, 0):
        assert finding.text
    return made


def _batch(made: Method, number: int, stage: int, rewarded: Tensor | None = None) -> Batch:
    images = torch.rand(3, N, 3, CROP, CROP, generator=torch.Generator().manual_seed(number))
    crops = [Crop(id, 0, 0, CROP, False) for id in Scenes().ids[:N]]
    batch = Batch(images[0], images[1], crops, images[2] if stage == 2 else None, rewarded)
    for source in made.drawing:
        batch.rain[source.name], batch.has[source.name] = source.draw(number, crops)
    return batch


def _weights(module: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in module.state_dict().values()]


@pytest.mark.parametrize("stage", [1, 2])
def test_a_step_teaches_the_derainer_and_gives_finite_scalars(given: Any, stage: int) -> None:
    made = _method(given)
    for number in range(3):
        before = _weights(made.derainer)
        losses = made.step(_batch(made, number, stage))
        assert losses
        for name, loss in losses.items():
            assert isinstance(loss, Tensor), name
            assert (loss.shape, loss.requires_grad) == ((), False), name
            assert loss.isfinite(), name
        assert any(not torch.equal(*pair) for pair in zip(before, _weights(made.derainer), strict=True))
    assert made.steps == 3
    assert all(value.isfinite().all() for value in _weights(made.derainer))


def test_crops_may_have_no_reward_yet(given: Any) -> None:
    made = _method(given)
    for number, some in enumerate(([True, False, False], [False] * N)):
        losses = made.step(_batch(made, number, 2, torch.tensor(some)))
        assert all(loss.isfinite() for loss in losses.values())


def test_averaged_weights_follow_the_derainer_and_do_not_learn(given: Any) -> None:
    made = _method(given)
    before = _weights(made.averaged)
    for number in range(2):
        made.step(_batch(made, number, 1))
    assert made.averaged.state_dict().keys() == made.derainer.state_dict().keys()
    assert any(not torch.equal(*pair) for pair in zip(before, _weights(made.averaged), strict=True))
    assert not any(parameter.requires_grad for parameter in made.averaged.parameters())
    assert not made.averaged.training


def test_a_restored_method_goes_on_bit_for_bit(given: Any) -> None:
    original = _method(given)
    for number, stage in enumerate((1, 2)):
        original.step(_batch(original, number, stage))
    restored = _method(given)
    restored.load_state_dict(copy.deepcopy(original.state_dict()))
    torch.manual_seed(99)  # a restart has another random state
    expected = [original.step(_batch(original, number, stage)) for number, stage in ((2, 1), (3, 2))]
    torch.manual_seed(7)
    found = [restored.step(_batch(restored, number, stage)) for number, stage in ((2, 1), (3, 2))]
    assert found == expected
    for name in ("derainer", "averaged"):
        pairs = zip(_weights(getattr(original, name)), _weights(getattr(restored, name)), strict=True)
        assert all(torch.equal(*pair) for pair in pairs), name


def test_its_settings_survive_the_runs_file(given: Any) -> None:
    settings = METHODS.settings(given)
    assert METHODS.settings(yaml.safe_load(yaml.safe_dump(settings.model_dump(mode="json")))) == settings

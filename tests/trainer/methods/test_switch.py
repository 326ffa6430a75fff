"""DEM's switch: which crop takes its rain from which source, and that the device is asked nothing for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rgsud_core.degradation.rain import RainModel
from tests.trainer.methods.small import N, batch, method, same, weights
from trainer.batch import Batch, Crop
from trainer.methods.rgsud import RGSUD
from trainer.methods.sources import SOURCES

WITHOUT_GAN: dict[str, Any] = {"overlay": "add", "discriminator": None}
ASKING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}
"""What lets the host wait for a device: a number, or a shape that depends on values."""


class Tracked(TorchDispatchMode):
    """Follows tensors, and whatever is computed from them; notes what the host wants to know of it."""

    def __init__(self, roots: Sequence[Tensor]) -> None:
        super().__init__()
        self.kept = list(roots)  # so that no address is used twice
        self.known = set(map(id, roots))
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [one for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor)]
        follows = any(id(one) in self.known for one in given)
        by_mask = func is torch.ops.aten.index.Tensor and any(
            one.dtype == torch.bool and id(one) in self.known for one in given[1:]
        )
        if follows and (func in ASKING or by_mask):
            self.asked.append(str(func))
        out = func(*args, **(kwargs or {}))
        if follows:
            made = [one for one in tree_leaves(out) if isinstance(one, Tensor)]
            self.kept += made
            self.known |= set(map(id, made))
        return out


def _light(number: int) -> Tensor:
    return 0.5 * torch.rand(N, 1, 32, 32, generator=torch.Generator().manual_seed(number))


def _batch(found: list[bool] | None = None, rewarded: list[bool] | None = None, number: int = 0) -> Batch:
    """With rain of `flat` and `rendered`; in stage 2 if it says who is rewarded."""
    O_r, B_u, B_rw = batch(number)
    rain = {"flat": _light(7), "rendered": _light(8)}
    has = {} if found is None else {"flat": torch.tensor(found)}
    stage2 = {} if rewarded is None else {"B_rw": B_rw, "rewarded": torch.tensor(rewarded)}
    return Batch(O_r, B_u, [], rain=rain, has=has, **stage2)


def _rain(made: RGSUD, given: Batch) -> Tensor:
    """F_r of each crop, N,3,32,32."""
    with torch.no_grad():
        return made.rain(made.prepare(given.images())).expand_as(given.O_r)


def _by_unet(made: RGSUD, given: Batch) -> Tensor:
    assert made.DEM is not None
    with torch.no_grad():
        return given.O_r - made.DEM.clean(given.O_r)


def test_crops_of_photographs_with_found_rain_take_it_and_the_others_that_of_the_unet() -> None:
    made, given = method(sources=["flat", "unet"]), _batch([True, False, True])
    rain, unet = _rain(made, given), _by_unet(made, given)
    torch.testing.assert_close(rain[[0, 2]], given.rain["flat"].expand_as(rain)[[0, 2]])
    torch.testing.assert_close(rain[1], unet[1])
    assert unet[1].any()


def test_crops_without_found_rain_take_rendered_rain() -> None:
    made, given = method(sources=["flat", "rendered"], **WITHOUT_GAN), _batch([False, False, True])
    rain = _rain(made, given)
    torch.testing.assert_close(rain[:2], given.rain["rendered"].expand_as(rain)[:2])
    torch.testing.assert_close(rain[2], given.rain["flat"].expand_as(rain)[2])
    assert {source.name for source in made.drawing} == {"flat", "rendered"}


def test_rewarded_crops_take_the_rain_before_their_reward() -> None:
    made = method(sources={1: ["unet"], 2: ["reward", "flat", "unet"]})
    given = _batch([True, False, False], [True, True, False])
    rain = _rain(made, given)
    assert given.B_rw is not None
    torch.testing.assert_close(rain[:2], (given.O_r - given.B_rw)[:2])
    torch.testing.assert_close(rain[2], _by_unet(made, given)[2])


def test_a_source_with_a_share_leaves_the_rest_to_the_next() -> None:
    sources = [{"name": "flat", "share": "50%"}, "rendered"]
    made, again = (method(sources=sources, **WITHOUT_GAN) for _ in range(2))
    taken: list[Tensor] = []
    for step in range(60):
        made.steps = again.steps = step
        chosen = made.prepare(_batch().images()).source
        assert chosen is not None
        taken.append(chosen)
        # Of the step alone, so that a resumed run chooses alike.
        assert torch.equal(chosen, again.prepare(_batch(number=9).images()).source)
    assert 0.4 < torch.stack(taken).float().mean() < 0.6
    assert len({tuple(one.tolist()) for one in taken}) > 3


def test_rendered_rain_alone_teaches() -> None:
    made = method(sources=["rendered"], **WITHOUT_GAN)
    before = weights(made.derainer)
    assert set(made.step(_batch())) == {"psnr", "ssim"}
    assert not same(before, weights(made.derainer))


@pytest.mark.parametrize("found", [[True, False, True], [True] * N], ids=["some", "all"])
def test_rain_that_is_added_can_be_told_from_real_rain_by_a_discriminator(found: list[bool]) -> None:
    made = method(sources=["flat", "unet"], overlay="add")
    assert made.G is None
    assert made.D is not None
    assert made.DEM is not None
    before = weights(made.D), weights(made.DEM)
    losses = made.step(_batch(found))
    assert {"adv", "D", "psnr", "ssim"} <= set(losses)
    assert not same(before[0], weights(made.D))
    assert not same(before[1], weights(made.DEM))
    assert not any(name.startswith("G") or name == "generator" for name in made.state_dict())


def _questions(made: RGSUD, given: Batch) -> list[str]:
    ready = made.prepare(given.images())
    images = [ready.O_r, ready.B_u, ready.B_rw, ready.gain, *ready.rain.values()]
    networks = [made.derainer, *(one for one in (made.G, made.DEM, made.D) if one is not None)]
    roots = [one for one in images if one is not None] + [p for net in networks for p in net.parameters()]
    with Tracked(roots) as tracked:
        losses = made.update(ready)
    assert all(id(loss) in tracked.known for loss in losses.values())
    return tracked.asked


@pytest.mark.parametrize("rewarded", [None, [True, False, True], [False] * N], ids=["1", "2", "none yet"])
@pytest.mark.parametrize(
    "changes",
    [
        {"self_reconstruction": 1.0, "clean_identity": 1.0, "rain_gain": 2.0, "discriminator_fakes": "all"},
        {"sources": {1: ["flat", "unet"], 2: ["reward", "flat", "unet"]}, "overlay": "add"},
        {"sources": ["flat", "rendered"], "overlay": "blend", "radiance": 0.7, "discriminator": None},
    ],
    ids=["the paper's", "added", "blended"],
)
def test_an_update_asks_no_tensor_a_question(changes: dict[str, Any], rewarded: list[bool] | None) -> None:
    assert _questions(method(**changes), _batch([True, False, True], rewarded)) == []


def test_a_question_would_be_seen() -> None:
    class Asking(RGSUD):
        def rain(self, batch: Batch) -> Tensor:
            rain = super().rain(batch)
            return rain if rain.mean() > 0 else -rain

    made = method(sources=["rendered"], **WITHOUT_GAN)
    made.__class__ = Asking
    assert _questions(made, _batch()) != []


def test_camera_changes_the_truth_with_the_rainy_crop() -> None:
    made = method(sources=["rendered"], camera={"pale": "100%", "compressed": "100%"}, **WITHOUT_GAN)
    given = _batch([True, True, True])
    prepared = made.prepare(given.images())
    assert prepared.gain is not None
    assert prepared.gain.shape == (3, 3, 1, 1)
    assert not torch.equal(prepared.B_u, given.B_u)
    assert made.step(given)["psnr"].isfinite()


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [({"dry": "100%"}, 0, 0), ({}, 0.001, 0.3), ({"dense": "100%"}, 0.001, 0.3)],
    ids=["dry", "sparse", "dense"],
)
def test_rendered_rain_is_as_its_settings_say(settings: dict[str, str], low: float, high: float) -> None:
    source = SOURCES.build(SOURCES.settings({"name": "rendered", "maps": 6, **settings}))
    list(source.prepare([], 64, 0, RainModel()))
    crops = [Crop("a", 0, 0, 64, False)] * 16
    rain, has = source.draw(3, crops)
    assert has.all()
    assert low <= rain.float().mean() / 255 <= high
    assert torch.equal(rain, source.draw(3, crops)[0])


def test_a_downpour_covers_more_than_a_shower() -> None:
    def covered(dense: str) -> float:
        source = SOURCES.build(SOURCES.settings({"name": "rendered", "maps": 12, "dense": dense}))
        list(source.prepare([], 64, 0, RainModel()))
        rain, _ = source.draw(0, [Crop("a", 0, 0, 64, False)] * 32)
        return float((rain > 5).float().mean())

    assert covered("100%") > 1.5 * covered("0%")

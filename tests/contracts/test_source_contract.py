"""What every source of rain keeps to; RGSUD_CONTRACT_SOURCE=mypackage.myfile:MySource names yours."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from rgsud_core.degradation.rain import RainModel
from tests.contracts.photographs import Scenes
from trainer.batch import Batch, Crop
from trainer.methods.sources import SOURCES, Source

EXAMPLES = Path(__file__).parent / "examples"
OWN: dict[str, Any] = {name: name for name in SOURCES.known} | {
    "rendered": {"name": "rendered", "maps": 3},
    "a stranger's": {"name": "drizzle_source:Drizzle", "drops": 10},
}
YOURS = os.environ.get("RGSUD_CONTRACT_SOURCE")
CASES: dict[str, Any] = {"yours": yaml.safe_load(YOURS)} if YOURS else OWN
CROP, MODEL = 32, RainModel()
CROPS = [Crop(id, 8, 8, CROP, False) for id in Scenes().ids]
"""One of each photograph; the last shows no rain."""


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield


@pytest.fixture(params=list(CASES))
def given(request: pytest.FixtureRequest) -> Any:
    return CASES[request.param]


@pytest.fixture
def source(given: Any) -> Source:
    return _prepared(given)


def _prepared(given: Any) -> Source:
    source = SOURCES.build(SOURCES.settings(given))
    for finding in source.prepare(Scenes(), CROP, 5, MODEL):
        assert finding.text
    return source


def _batch(source: Source, number: int, rewarded: Tensor | None = None) -> Batch:
    """Real crops as a step sees them; with rewards that have half of the light of the streaks."""
    cuts = [torch.from_numpy(crop.cut(Scenes().load(at))) for at, crop in enumerate(CROPS)]
    O_r = torch.stack(cuts).permute(0, 3, 1, 2)
    clean = O_r.clamp(max=70)
    batch = Batch(O_r, clean.flip(0), CROPS, None if rewarded is None else clean, rewarded)
    if source.draws:
        batch.rain[source.name], batch.has[source.name] = source.draw(number, CROPS)
    return batch.images()


def test_what_is_drawn_is_of_the_number_alone(given: Any, source: Source) -> None:
    if not source.draws:
        pytest.skip("it draws nothing")
    state = torch.get_rng_state()
    drawn = {number: source.draw(number, CROPS) for number in (0, 1, 7)}
    assert torch.equal(torch.get_rng_state(), state)
    elsewhere = pickle.loads(pickle.dumps(_prepared(given)))
    for number in (7, 0, 1):
        rain, found = elsewhere.draw(number, CROPS)
        assert torch.equal(rain, drawn[number][0])
        assert torch.equal(found, drawn[number][1])
        assert (rain.dtype, rain.shape) == (torch.uint8, (len(CROPS), 1, CROP, CROP))
        assert (found.dtype, found.shape) == (torch.bool, (len(CROPS),))
    assert not torch.equal(drawn[0][0], drawn[7][0])


@pytest.mark.parametrize("rewarded", [None, [True] * 4, [True, False, True, False]])
def test_it_says_on_the_host_which_crops_it_has_rain_for(source: Source, rewarded: list[bool] | None) -> None:
    batch = _batch(source, 0, None if rewarded is None else torch.tensor(rewarded))
    has = source.has(batch, MODEL)
    assert (has.dtype, has.shape, has.device.type) == (torch.bool, (len(CROPS),), "cpu")


def _rain(source: Source, number: int, rewarded: list[bool]) -> tuple[Tensor, Tensor]:
    batch = _batch(source, number, torch.tensor(rewarded))
    has = source.has(batch, MODEL)
    return source.rain(batch, lambda image: image * 0.5), has


def test_its_rain_is_light_or_opacity_or_a_residual(source: Source) -> None:
    rain, has = _rain(source, 0, [True] * 4)
    assert rain.dtype == torch.float32
    assert rain.shape == (len(CROPS), 3 if source.residual else 1, CROP, CROP)
    assert rain.isfinite().all()
    assert rain.min() >= (-1 if source.residual else 0)
    assert rain.max() <= 1
    assert has.any()
    assert rain[has].any()


def test_it_serves_all_only_where_it_has_rain_for_all(source: Source) -> None:
    nobody = [False] * 4
    if source.serves_all:
        rains = [_rain(source, number, nobody)[0].flatten(1).any(dim=1) for number in range(6)]
        assert torch.stack(rains).any(dim=0).all()
    else:
        assert not source.has(_batch(source, 0), MODEL).all()
        assert not source.has(_batch(source, 0, torch.tensor(nobody)), MODEL).all()

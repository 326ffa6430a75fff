"""The recycler's queue, and the rewards it leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from iqa_service.errors import ScorerBusy, ScorerError
from iqa_service.scorers.base import Candidate
from pool_store.client import Pool, open_pool
from pool_store.schemas import Lineage
from tests.patience import PATIENCE
from trainer.batch import Crop
from trainer.recycling.recycler import Recycler
from trainer.recycling.rewards import Combination, RewardReader


class Brightness:
    """Scores an image by its mean; may be held up, or fail."""

    name = "brightness"
    fingerprint = "brightness"

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.fails = False
        self.busy_times = 0

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        self.open.wait(PATIENCE)
        if self.fails:
            raise ScorerError("the scorer is away: start it")
        if self.busy_times:
            self.busy_times -= 1
            raise ScorerBusy("the scorer", 0.01)
        return np.array([candidate.image.mean() / 100 for candidate in candidates], np.float32)

    def close(self) -> None: ...


def _candidate(id: str, level: int) -> tuple[Candidate, Lineage]:
    image = np.full((16, 20, 3), level, np.uint8)
    image[0, 0] = 0
    return Candidate(id, image), Lineage(run="r", step=level, stage=1, time=time.time())


@pytest.fixture(params=[1, 3])
def keep(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def pool(tmp_path: Path, keep: int) -> Iterator[Pool]:
    opened = open_pool(f"embedded:{tmp_path}/pool", fingerprint="brightness", keep=keep)
    yield opened
    opened.close()


@pytest.mark.parametrize("synchronous", [True, False])
def test_the_best_candidates_are_kept(pool: Pool, keep: int, synchronous: bool) -> None:
    recycler = Recycler(Brightness(), pool, synchronous=synchronous)
    for level in (50, 200, 100, 10, 150):
        recycler.submit(*_candidate("a", level))
    recycler.close()
    entry = pool.entries(["a"])["a"]
    assert [round(c.log_odds, 1) for c in entry.candidates] == [2.0, 1.5, 1.0][:keep]
    assert pool.stats().offers == 5
    assert recycler.counts.scored == 5
    assert recycler.counts.replaced == entry.replacements


@pytest.mark.parametrize("sources", [True, False])
def test_rainy_images_stand_beside_their_rewards(pool: Pool, sources: bool) -> None:
    recycler = Recycler(Brightness(), pool, sources=sources)
    candidate, lineage = _candidate("a", 50)
    rainy = candidate.image + np.uint8(20)
    recycler.submit(Candidate("a", candidate.image, rainy), lineage)
    recycler.submit(*_candidate("b", 70))
    recycler.close()
    assert pool.source("b") is None
    found = pool.source("a")
    assert (found is not None) == sources
    assert found is None or np.array_equal(found, rainy)


def test_a_full_queue_drops_the_oldest_and_counts_it(pool: Pool) -> None:
    scorer = Brightness()
    scorer.open.clear()
    recycler = Recycler(scorer, pool, queue=2, batch=1)
    recycler.submit(*_candidate("held", 10))
    while recycler._waiting:
        time.sleep(0.001)
    for level in range(20, 25):
        recycler.submit(*_candidate(str(level), level))
    scorer.open.set()
    recycler.close()
    assert {entry.id for entry in pool.scan()} == {"held", "23", "24"}
    assert recycler.counts.dropped == 3


def test_a_scorer_that_is_away_costs_candidates_and_not_the_run(pool: Pool) -> None:
    scorer = Brightness()
    scorer.fails = True
    recycler = Recycler(scorer, pool)
    recycler.submit(*_candidate("a", 100))
    assert recycler.flush(PATIENCE)
    assert recycler.problem == "the scorer is away: start it"
    scorer.fails = False
    recycler.submit(*_candidate("a", 50))
    assert recycler.flush(PATIENCE)
    recycler.close()
    assert recycler.problem is None
    assert recycler.counts.lost == 1
    assert set(pool.entries(["a"])) == {"a"}


def test_a_scorer_with_a_fault_of_its_own_does_not_end_recycling(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Brightness()
    recycler = Recycler(scorer, pool)
    with monkeypatch.context() as faulty:
        faulty.setattr(scorer, "score", lambda _: 1 / 0)
        recycler.submit(*_candidate("a", 100))
        assert recycler.flush(PATIENCE)
    assert recycler.problem == "ZeroDivisionError: division by zero"
    recycler.submit(*_candidate("a", 50))
    assert recycler.flush(PATIENCE)
    recycler.close()
    assert (recycler.problem, recycler.counts.lost) == (None, 1)
    assert set(pool.entries(["a"])) == {"a"}


def test_a_scorer_without_room_is_asked_again(pool: Pool) -> None:
    scorer = Brightness()
    scorer.busy_times = 3
    recycler = Recycler(scorer, pool)
    recycler.submit(*_candidate("a", 100))
    assert recycler.flush(PATIENCE)
    recycler.close()
    assert recycler.problem is None
    assert (recycler.counts.scored, recycler.counts.lost) == (1, 0)
    assert set(pool.entries(["a"])) == {"a"}


def test_a_scorer_that_never_has_room_costs_candidates_and_holds_up_nobody(pool: Pool) -> None:
    scorer = Brightness()
    scorer.busy_times = 1_000_000
    recycler = Recycler(scorer, pool, queue=2, batch=1)
    for level in range(40):
        recycler.submit(*_candidate(str(level), level))
    assert recycler.flush(PATIENCE)
    recycler.close()
    assert recycler.counts.scored == 0
    assert recycler.counts.lost >= 1
    assert recycler.counts.lost + recycler.counts.dropped == 40
    assert "has no room" in (recycler.problem or "")


def test_a_synchronous_recycler_lets_errors_through(pool: Pool) -> None:
    scorer = Brightness()
    scorer.fails = True
    with pytest.raises(ScorerError):
        Recycler(scorer, pool, synchronous=True).submit(*_candidate("a", 100))


def test_reward_crops_follow_the_box_and_notice_replacements(pool: Pool, keep: int) -> None:
    recycler = Recycler(Brightness(), pool, synchronous=True)
    reader = RewardReader(pool, "best", 1 << 20)
    crops = [Crop("a", 0, 0, 8, False), Crop("none", 0, 0, 8, False), Crop("a", 0, 0, 8, True)]
    recycler.submit(*_candidate("a", 100))
    rewards, exists = reader.crops(crops)
    assert exists.tolist() == [True, False, True]
    assert rewards.shape == (3, 3, 8, 8)
    assert rewards[0, 0, 3, 3] == pytest.approx(100 / 255)
    # The black corner of the image says where the box lies and that it is mirrored.
    assert rewards[0, :, 0, 0].tolist() == [0, 0, 0]
    assert rewards[2, :, 0, 7].tolist() == [0, 0, 0]
    assert torch.all(rewards[1] == 0)
    recycler.submit(*_candidate("a", 200))
    assert reader.crops(crops)[0][0, 0, 3, 3] == pytest.approx(200 / 255)


def test_the_kept_are_combined_in_every_pixel(pool: Pool, keep: int) -> None:
    recycler = Recycler(Brightness(), pool, synchronous=True)
    for level in (100, 200, 151):
        recycler.submit(*_candidate("a", level))
    combined: dict[Combination, float] = {"mean": (100 + 200 + 151) / 3, "minimum": 100}
    for reward, level in combined.items():
        rewards, _ = RewardReader(pool, reward, 1 << 20).crops([Crop("a", 4, 4, 8, False)])
        expected = 200 if keep == 1 else level
        assert rewards[0, 0, 0, 0].item() == pytest.approx(expected / 255)


def test_a_small_cache_still_answers(pool: Pool) -> None:
    recycler = Recycler(Brightness(), pool, synchronous=True)
    for id, level in (("a", 100), ("b", 200)):
        recycler.submit(*_candidate(id, level))
    reader = RewardReader(pool, "best", 1)
    for _ in range(2):
        rewards, _ = reader.crops([Crop("a", 4, 4, 8, False), Crop("b", 4, 4, 8, False)])
        assert rewards[:, 0, 0, 0].tolist() == pytest.approx([100 / 255, 200 / 255])

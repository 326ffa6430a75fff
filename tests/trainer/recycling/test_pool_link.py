"""A pool that does not answer costs figures and rewards, not steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pool_store.client import Pool, open_pool
from pool_store.errors import PoolError, PoolUnavailable
from pool_store.schemas import Lineage, Offer
from tests.patience import PATIENCE, wait_until
from trainer.batch import Crop
from trainer.recycling.pool_link import PoolLink
from trainer.recycling.rewards import RewardReader


class Frail:
    """A pool that can be made to fail, or to hang until it is well again."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.failing = False
        self.begun: list[str] = []
        self.well = threading.Event()
        self.well.set()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._pool, name)

        def call(*args: Any) -> Any:
            self.begun.append(name)
            assert self.well.wait(PATIENCE), "a pool that hangs was waited for"
            if self.failing:
                raise PoolUnavailable("the pool is away: look")
            return method(*args)

        return call


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Frail]:
    opened = open_pool(f"embedded:{tmp_path}/pool", fingerprint="x")
    yield Frail(opened)
    opened.close()


def _enter(pool: Frail, id: str, value: int, log_odds: float) -> None:
    digest = pool.put_image(np.full((8, 8, 3), value, np.uint8))
    lineage = Lineage(run="r", step=1, stage=1, worker=0, time=1.0)
    pool.offer(Offer(id=id, log_odds=log_odds, fingerprint="x", digest=digest, lineage=lineage))


def _crops(*ids: str) -> list[Crop]:
    return [Crop(id=id, top=0, left=0, size=4, flip=False) for id in ids]


def _until(happened: Callable[[], object]) -> None:
    wait_until(happened, "it does not happen")


def test_figures_are_the_last_known_while_the_pool_is_away(pool: Frail) -> None:
    link = PoolLink(pool)  # type: ignore[arg-type]
    pool.failing = True
    assert link.stats() is None
    assert link.problem == "the pool is away: look"
    pool.failing = False
    _enter(pool, "a", 1, 1.0)
    assert (known := link.stats()) is not None
    assert known.entries == 1
    assert link.problem is None
    pool.well.clear()
    assert link.stats() == known
    assert link.problem == "the pool does not answer: check its service"
    for _ in range(100):
        link.sweep(1.0)
    _until(lambda: "sweep" in pool.begun)
    pool.well.set()
    _until(lambda: link.stats() is not None and link.problem is None)
    assert pool.begun.count("sweep") == 1  # the others found it under way
    link.close()


def test_one_that_waits_lets_errors_through(pool: Frail) -> None:
    pool.failing = True
    with pytest.raises(PoolError, match="away"):
        PoolLink(pool, blocking=True).stats()  # type: ignore[arg-type]
    with pytest.raises(PoolError, match="away"):
        RewardReader(pool, "best", 1 << 20, blocking=True).crops(_crops("a"))  # type: ignore[arg-type]


def test_known_rewards_stand_in_while_the_pool_is_away(pool: Frail) -> None:
    reader = RewardReader(pool, "best", 1 << 20)  # type: ignore[arg-type]
    _enter(pool, "a", 51, 1.0)
    reader.prepare(_crops("a", "b"))
    rewards, exist = reader.crops(_crops("a", "b"))
    assert exist.tolist() == [True, False]
    torch.testing.assert_close(rewards[0], torch.full((3, 4, 4), 0.2))
    for away in ("fails", "hangs"):
        pool.failing = away == "fails"
        if away == "hangs":
            pool.well.clear()
        for ids in (("b", "a"), ("a", "b"), ("b",)):
            found = reader.crops(_crops(*ids))[1]
            assert found.tolist() == [id == "a" for id in ids]
        assert reader.problem is not None
        pool.failing = False
        pool.well.set()
        _until(lambda: reader.crops(_crops("a"))[1].all() and reader.problem is None)
    _enter(pool, "a", 102, 2.0)
    torch.testing.assert_close(reader.crops(_crops("a"))[0][0], torch.full((3, 4, 4), 0.4))
    reader.close()


def test_a_sweep_that_takes_long_is_no_trouble(pool: Frail) -> None:
    begun, ended = threading.Event(), threading.Event()

    def sweep(_: float) -> None:
        begun.set()
        assert ended.wait(PATIENCE)

    pool.sweep = sweep  # type: ignore[attr-defined]
    link = PoolLink(pool)  # type: ignore[arg-type]
    link.sweep(1.0)
    assert begun.wait(PATIENCE)
    try:
        assert link.stats() is not None  # while it is under way
        assert link.problem is None
    finally:
        ended.set()
        link.close()

"""Another client acts between any two steps of a restore, a drop, a sweep or a batch: whatever the moment,
what it was told holds."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pool_store.client import Pool
from pool_store.engine.connection import Server
from pool_store.errors import PoolError
from pool_store.schemas import Lineage, Offer
from rgsud_core.images import Image
from tests.pool_store.conftest import SCORER, Backend

HOUR = 3600.0


class Scene:
    """One pool, two clients, and what each was told."""

    def __init__(self, backend: Backend, picture: Callable[[int], Image]) -> None:
        self.backend, self.picture = backend, picture
        self.offered: set[tuple[str, float, str]] = set()
        self.pool, self.rival = backend.open(history=2), backend.open(history=2)
        for number in range(3):
            self.offer(self.pool, f"id{number}", 0.0, number)
        self.before = self.pool.dump()
        for number in range(3):
            self.offer(self.pool, f"id{number}", 1.0 + number, 10 + number)
        self.offer(self.pool, "new", 0.0, 20)

    def make(self, pool: Pool, id: str, log_odds: float, number: int) -> Offer:
        """Puts an image, and makes its offer, each of a run of its own."""
        digest = pool.put_image(self.picture(number))
        lineage = Lineage(run=f"{id} {log_odds} {digest}", step=number, stage=1 + number % 3, time=0.0)
        offer = Offer(id=id, log_odds=log_odds, fingerprint=SCORER, digest=digest, lineage=lineage)
        self.offered.add((id, log_odds, digest))
        return offer

    def offer(self, pool: Pool, id: str, log_odds: float, number: int) -> None:
        """Fails unless the candidate enters."""
        assert pool.offer(self.make(pool, id, log_odds, number)).status == "replaced"

    def check(self) -> dict[str, float]:
        """That the pool is whole, each candidate with its own image and origin; its scores."""
        pool = self.backend.open(history=2)
        entries = list(pool.scan())
        for entry in entries:
            for held in entry.candidates:
                assert (entry.id, held.log_odds, held.digest) in self.offered
                assert held.lineage.run == f"{entry.id} {held.log_odds} {held.digest}"
        scores = {entry.id: entry.best.log_odds for entry in entries}
        stats, dump = pool.stats(), pool.dump()
        assert stats.entries == len(entries) == sum(stats.histogram.counts) == len(dump["entries"])
        assert math.isclose((stats.mean_log_odds or 0) * len(entries), sum(scores.values()), abs_tol=1e-9)
        assert pool.verify().whole
        pool.restore(dump)
        assert pool.dump() == dump
        return scores


RIVALS: dict[str, Callable[[Scene, Pool], None]] = {}


def rival(act: Callable[[Scene, Pool], None]) -> Callable[[Scene, Pool], None]:
    RIVALS[act.__name__] = act
    return act


@rival
def offers(scene: Scene, pool: Pool) -> None:
    scene.offer(pool, "id0", 50.0, 30)
    scene.offer(pool, "unseen", 60.0, 31)


@rival
def puts_what_is_about_to_go(scene: Scene, pool: Pool) -> None:
    scene.offer(pool, "id0", 50.0, 0)


@rival
def restores(scene: Scene, pool: Pool) -> None:
    pool.restore(scene.before)


@rival
def sweeps(scene: Scene, pool: Pool) -> None:
    pool.sweep(HOUR)


@rival
def drops(scene: Scene, pool: Pool) -> None:
    pool.drop()


@rival
def drops_and_makes_anew(scene: Scene, pool: Pool) -> None:
    pool.drop()
    successor = scene.backend.open(history=2)
    for number in range(3):
        scene.offer(successor, f"id{number}", 70.0, number)


def restore(scene: Scene) -> None:
    scene.pool.restore(scene.before)


def drop(scene: Scene) -> None:
    scene.pool.drop()


def sweep(scene: Scene) -> None:
    scene.pool.sweep(HOUR)


def batch(scene: Scene) -> None:
    made = [scene.make(scene.pool, f"id{number}", 40.0, 40 + number) for number in range(2)]
    scene.pool.offer_many(made)


def expected(act: str, rival: str, moment: int | str) -> dict[str, float] | None:
    """The scores in the end, where they do not depend on the moment."""
    old = dict.fromkeys(("id0", "id1", "id2"), 0.0)
    new = {"id0": 1.0, "id1": 2.0, "id2": 3.0, "new": 0.0}
    match act, rival, moment:
        case _, "drops_and_makes_anew", "after":
            return dict.fromkeys(old, 70.0)
        case _, "drops", "after":
            return {}
        case "sweep", "offers", _:
            return new | {"id0": 50.0, "unseen": 60.0}
        case "sweep", "puts_what_is_about_to_go", _:
            return new | {"id0": 50.0}
        case ("sweep" | "restore", "restores", _) | ("restore", "sweeps", _):
            return old
        case "sweep", "sweeps", _:
            return new
        case "restore", "offers", "after":
            return old | {"id0": 50.0, "unseen": 60.0}
        case "batch", "offers", _:
            return new | {"id0": 50.0, "unseen": 60.0, "id1": 40.0}
        case "batch", "sweeps", _:
            return new | {"id0": 40.0, "id1": 40.0}
    return None


@contextlib.contextmanager
def interrupted(server: Any, moment: int, act: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Acts at one step of the work with a server; gives whether that many were taken."""
    steps = itertools.count()
    plain = Server.answering
    acted = False

    @contextlib.contextmanager
    def answering(self: Server) -> Iterator[None]:
        nonlocal acted
        if self is server and not acted and next(steps) == moment:
            acted = True
            act()
        with plain(self):
            yield

    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(Server, "answering", answering)
        yield lambda: acted


@pytest.mark.slow
@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("act", [restore, drop, sweep, batch], ids=lambda act: act.__name__)
def test_at_any_moment(
    tcp: Backend, picture: Callable[[int], Image], act: Callable[[Scene], None], rival: str
) -> None:
    for moment in itertools.count():
        scene = Scene(tcp, picture)
        told: list[str] = []

        def interfere(scene: Scene = scene, told: list[str] = told) -> None:
            try:
                RIVALS[rival](scene, scene.rival)
                told.append("done")
            except (PoolError, AssertionError) as error:
                told.append(str(error))

        with interrupted(scene.pool.server, moment, interfere) as acted:  # type: ignore[attr-defined]
            with contextlib.suppress(PoolError):  # where the rival has removed the pool
                act(scene)
            last = not acted()
        if last:
            interfere()
        scores = scene.check()
        wanted = expected(act.__name__, rival, "after" if last else moment)
        assert wanted is None or scores == wanted, (moment, told)
        if rival == "drops_and_makes_anew" and told == ["done"] and act is not restore:
            assert [scores[f"id{number}"] for number in range(3)] == [70.0] * 3
        scene.backend.open(history=2).drop()
        if last:
            assert moment > 0
            break

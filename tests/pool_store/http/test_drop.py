"""While a pool is removed nothing of its name is made, read or removed again; then all of it is gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pool_store.client import Pool
from pool_store.engine.images import Blobs
from pool_store.errors import PoolMissing
from pool_store.schemas import Offer
from tests.pool_store.conftest import Backend

REFUSED = (("PUT", ""), ("GET", ""), ("DELETE", ""), ("GET", "/stats"), ("POST", "/sweep"), ("GET", "/dump"))


@pytest.mark.parametrize(("method", "path"), REFUSED)
def test_requests_wait_until_a_pool_is_removed(
    demo: TestClient, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    clear, answers = Blobs.clear, []

    def slow(self: Blobs, going: Callable[[], bool]) -> None:
        body = {"PUT": {"fingerprint": "f"}, "POST": {}}.get(method)
        answers.append(demo.request(method, f"/v1/pools/demo{path}", json=body))
        answers.append(demo.get("/v1/pools"))
        answers.append(demo.get("/metrics"))
        answers.append(demo.put("/v1/pools/other", json={"fingerprint": "f"}))
        clear(self, going)

    monkeypatch.setattr(Blobs, "clear", slow)
    assert demo.delete("/v1/pools/demo").status_code == 204
    asked, listed, measured, other = answers
    assert (asked.status_code, "retry-after" in asked.headers) == (503, True)
    assert "the pool 'demo' is being removed: try again" in asked.json()["detail"]
    assert listed.json() == {"pools": []}
    assert (measured.status_code, other.status_code) == (200, 201)
    assert demo.put("/v1/pools/demo", json={"fingerprint": "f"}).status_code == 201


@pytest.mark.parametrize("again", ["make", "drop", "open"])
def test_a_removal_that_was_interrupted_is_ended_by_the_next(
    tcp: Backend, make_offer: Callable[..., Offer], monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    pool = tcp.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    with monkeypatch.context() as killing:
        killing.setattr(Blobs, "clear", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pool.drop()
    assert tcp.files()

    def left(pool: Pool) -> tuple[int, list[Path]]:
        return pool.stats().entries, tcp.files()

    match again:
        case "drop":
            pool.drop()
        case "open":
            with pytest.raises(PoolMissing, match="there is no pool 'main'"):
                tcp.open(None)
    assert left(tcp.open()) == (0, [])

"""How much the service takes, and what it says of more."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as Pillow

from pool_store.engine.images import digest_of, encode
from pool_store.engine.pools import PoolHost
from pool_store.http.app import create_app
from pool_store.http.limits import IDS_A_REQUEST, OFFERS_A_REQUEST, Limits
from rgsud_core.http.limits import TokenBucket
from tests.pool_store.answers import raw, sentence
from tests.pool_store.servers import serving

V1 = "/v1/pools/demo"
ZERO = "0" * 64


@pytest.fixture
def narrow(pool_host: PoolHost) -> Callable[..., TestClient]:
    def make(**limits: Any) -> TestClient:
        client = TestClient(create_app(pool_host, limits=Limits(**limits)), "http://localhost")
        client.put(V1, json={"fingerprint": "f"})
        return client

    return make


def test_a_body_is_limited_with_and_without_its_length(narrow: Callable[..., TestClient]) -> None:
    client = narrow(body=1000)
    url, headers = f"{V1}/blobs/{ZERO}", {"content-type": "image/webp"}
    sentence(client.put(url, content=b"x" * 1000, headers=headers), 415)
    assert "larger than 1000 bytes" in sentence(client.put(url, content=b"x" * 1001, headers=headers), 413)
    sent = []

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            sent.append(1)
            yield b"x" * 100

    assert "larger than 1000 bytes" in sentence(client.put(url, content=chunks(), headers=headers), 413)


def test_a_body_that_stops_is_not_waited_for(demo: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgsud_core.http.limits.STALLED_SECONDS", 0.2)
    lines = (f"PUT {V1}/blobs/{ZERO} HTTP/1.1", "Host: localhost", "Content-Type: image/webp")
    with serving(demo.app) as port:
        status, _, body = raw(port, *lines, "Content-Length: 100", body=b"x" * 10)
    assert (status, b"nothing came for 0.2 s" in body) == (408, True)
    assert demo.get(V1).status_code == 200


def test_a_snapshot_has_a_limit_of_its_own(narrow: Callable[..., TestClient]) -> None:
    client = narrow(body=100, dump=10_000)
    headers = {"content-type": "application/x-ndjson"}
    assert client.put(f"{V1}/dump", content=b"x" * 10_000, headers=headers).status_code == 422
    sentence(client.put(f"{V1}/dump", content=b"x" * 10_001, headers=headers), 413)


def test_pixels_are_limited(narrow: Callable[..., TestClient]) -> None:
    client = narrow(pixels=100)
    png = io.BytesIO()
    Pillow.fromarray(np.ones((6, 10, 3), np.uint8)).save(png, "PNG")
    said = sentence(client.put(f"{V1}/sources/a", content=png.getvalue()), 413)
    assert "10x6 is too large: the pool takes 50 pixels" in said  # PNG is encoded anew
    for shape, status in (((10, 10, 3), 201), ((10, 11, 3), 413)):
        image = np.zeros(shape, np.uint8)
        url = f"{V1}/blobs/{digest_of(image)}"
        answer = client.put(url, content=encode(image), headers={"content-type": "image/webp"})
        assert answer.status_code == status


def test_batches_and_ids_are_limited(demo: TestClient) -> None:
    assert demo.post(f"{V1}/entries", json={"ids": ["a"] * IDS_A_REQUEST}).status_code == 200
    said = sentence(demo.post(f"{V1}/entries", json={"ids": ["a"] * (IDS_A_REQUEST + 1)}), 422)
    assert f"at most {IDS_A_REQUEST} items" in said
    lineage = {"run": "run", "step": 1, "stage": 1, "time": 0.0}
    offer = {"id": "a", "log_odds": 0.0, "fingerprint": "f", "digest": ZERO, "lineage": lineage}
    answer = demo.post(f"{V1}/offers", json={"offers": [offer] * (OFFERS_A_REQUEST + 1)})
    assert f"at most {OFFERS_A_REQUEST} items" in sentence(answer, 422)
    for id in ("", "..", "a/../b", "/a", "a/", ".a", "a\\b", "a\nb", "x" * 257):
        sentence(demo.post(f"{V1}/entries", json={"ids": [id]}), 422)


def test_the_rate_is_limited(narrow: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgsud_core.http.limits.time", SimpleNamespace(monotonic=lambda: 100.0))
    client = narrow(rate=2)
    answers = [client.get("/v1/pools") for _ in range(8)]
    assert [answer.status_code for answer in answers[:3]] == [200] * 3
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "more than 2 requests a second" in sentence(refused, 429)
    assert int(refused.headers["retry-after"]) >= 1


def test_a_token_bucket_fills_by_time_and_address(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    bucket = TokenBucket(10)
    assert [bucket.wait("a") for _ in range(20)] == [0.0] * 20
    assert bucket.wait("a") == pytest.approx(0.1)
    assert bucket.wait("b") == 0.0
    now += 0.11
    assert [bucket.wait("a") > 0 for _ in range(2)] == [False, True]
    now += 1000.0
    assert [bucket.wait("a") > 0 for _ in range(21)] == [False] * 20 + [True]


def test_no_route_parses_a_body_where_other_requests_wait_for_it(
    demo: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def parse(_: object) -> None:
        pytest.fail("a body was parsed on the event loop")

    monkeypatch.setattr("starlette.requests.Request.json", parse)
    taking = [
        (method, path.format(pool="demo", digest=ZERO, id="a"))
        for path, operations in demo.get("/openapi.json").json()["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation
    ]
    assert len(taking) > 6
    for method, path in taking:
        answer = demo.request(method, path, content=b"[[],[]]", headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500, path


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", f"blobs/{ZERO}"), ("PUT", "sources/a"), ("POST", "blobs")]
)
def test_an_image_is_no_json_whatever_its_content_type(demo: TestClient, method: str, path: str) -> None:
    body = b"[" + b",".join([b"[]"] * 40_000) + b"]"
    answer = demo.request(method, f"{V1}/{path}", content=body, headers={"content-type": "application/json"})
    assert (
        "no plain tar" in sentence(answer, 422) if path == "blobs" else "neither PNG" in sentence(answer, 415)
    )

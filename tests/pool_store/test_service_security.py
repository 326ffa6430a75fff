"""Who may do what, and what is refused whoever asks."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pool_store.blobs import digest_of, encode
from pool_store.errors import PoolError
from pool_store.host import PoolHost
from pool_store.http.limits import IDS_A_REQUEST, OFFERS_A_REQUEST, Limits, TokenBucket
from pool_store.http.security import Tokens
from pool_store.http.server import serve
from pool_store.service import create_app
from tests.pool_store.servers import serving

WRITER, READER = "w" * 32, "r" * 32
V1 = "/v1/pools/demo"
READING_POSTS = {"/v1/pools/{pool}/peek", "/v1/pools/{pool}/entries"}
FOR_ALL = {"/", "/healthz", "/readyz", "/openapi.json"}
ZERO = "0" * 64


@pytest.fixture
def service_port(demo: TestClient) -> Iterator[int]:
    """The port at which `demo` listens."""
    with serving(demo.app) as port:
        yield port


@pytest.fixture
def guarded(pool_host: PoolHost) -> TestClient:
    app = create_app(pool_host, Tokens([("write", WRITER), ("read", READER)]))
    client = TestClient(app, "http://pool.example")
    assert client.put(V1, json={"fingerprint": "f"}, headers=bearer(WRITER)).is_success
    return client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def sentence(answer: Any, status: int) -> str:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    return str(answer.json()["detail"])


def operations(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every method and path that the application has, from its routes and not from what it says of them."""
    for route in app.routes:
        contexts = getattr(route, "effective_route_contexts", None)
        for one in contexts() if contexts else [route]:
            path = getattr(one, "path_format", None) or one.path
            for method in getattr(one, "methods", None) or {"GET"}:
                yield method, path


def test_every_route_asks_for_its_scope(guarded: TestClient) -> None:
    assert isinstance(guarded.app, FastAPI)
    found = set(operations(guarded.app))
    assert {("PUT", "/v1/pools/{pool}"), ("POST", "/v1/pools/{pool}/offers"), ("GET", "/metrics")} <= found
    said = set(guarded.app.openapi()["paths"])
    assert said <= {path.replace(":path", "") for _, path in found}
    for method, path in sorted(found):
        url = path.replace("{pool}", "demo").replace("{digest}", ZERO)
        url = url.replace("{id:path}", "a").replace("{id}", "a")
        if path in FOR_ALL or path.startswith("/assets"):
            assert method in ("GET", "HEAD")
            assert guarded.request(method, url).status_code not in (401, 403)
            continue
        for headers in ({}, bearer("x" * 32), bearer(""), {"authorization": f"Basic {WRITER}"}):
            answer = guarded.request(method, url, headers=headers)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"].startswith("Bearer")
        reading = method in ("GET", "HEAD") or path in READING_POSTS
        status = guarded.request(method, url, headers=bearer(READER)).status_code
        assert (status in (401, 403)) is not reading, (method, path)
    # Nothing that was refused happened.
    assert guarded.get(V1, headers=bearer(READER)).json()["fingerprint"] == "f"
    for method, path in sorted(found):
        url = (
            path.replace("{pool}", "none")
            .replace("{digest}", ZERO)
            .replace("{id:path}", "a")
            .replace("{id}", "a")
        )
        assert guarded.request(method, url, headers=bearer(WRITER)).status_code not in (401, 403)


def test_methods_and_paths_that_do_not_exist_need_write(guarded: TestClient) -> None:
    for method, path in (
        ("POST", "/nowhere"),
        ("PATCH", V1),
        ("OPTIONS", V1),
        ("PUT", "/"),
        ("POST", "/assets/a"),
    ):
        sentence(guarded.request(method, path), 401)
        sentence(guarded.request(method, path, headers=bearer(READER)), 403)


def test_no_body_is_read_from_who_may_not_send_it(guarded: TestClient) -> None:
    def body() -> Iterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    headers = {"content-type": "image/webp"}
    sentence(guarded.put(f"{V1}/blobs/{ZERO}", content=body(), headers=headers), 401)


def test_tokens_are_never_logged_nor_shown(
    guarded: TestClient,
    caplog: pytest.LogCaptureFixture,
    pool_host: PoolHost,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    app = create_app(pool_host, Tokens([("write", WRITER)]), access_log=True)
    logging.getLogger("pool_store.access").setLevel(logging.INFO)
    client = TestClient(app, "http://pool.example")
    wrong = "y" * 32
    answers = [client.get(V1, headers=bearer(token)).text for token in (WRITER, wrong)]
    answers += [client.get("/metrics", headers=bearer(WRITER)).text, client.get("/openapi.json").text]
    said = caplog.text + "".join(answers) + "".join(capsys.readouterr()) + repr(Tokens([("write", WRITER)]))
    assert f'"path": "{V1}"' in said
    assert WRITER not in said
    assert wrong not in said


def test_tokens_come_from_environment_and_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# of the cluster\n\nread {'a' * 16}\nwrite {'b' * 16}\n")
    environment = {"RGSUD_POOL_TOKEN": WRITER, "RGSUD_POOL_READ_TOKEN": READER}
    tokens = Tokens.load(file, environment)
    scopes = [
        tokens.scope_of(token) for token in (WRITER, READER, "a" * 16, "b" * 16, "c" * 16, "", "\udcff")
    ]
    assert scopes == ["write", "read", "read", "write", None, None, None]
    assert not Tokens.load(None, {})
    for wrong in ("read", "admin " + "a" * 16, f"read {'a' * 16} b"):
        file.write_text(f"\n{wrong}")
        with pytest.raises(PoolError, match=r"line 2 of the token file .* is not 'read\|write TOKEN'"):
            Tokens.load(file, {})
    for wrong in ("short", "ä" * 16, "a" * 8 + " " + "a" * 8):
        with pytest.raises(PoolError, match="the write token is not 16 or more"):
            Tokens.load(None, {"RGSUD_POOL_TOKEN": wrong})
    with pytest.raises(PoolError, match="cannot read the token file"):
        Tokens.load(tmp_path / "none", {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "pool.example"])
def test_serves_other_machines_only_with_a_token(host: str) -> None:
    with pytest.raises(PoolError, match=f"{host} can be reached from other machines, so a token is needed"):
        serve(
            "embedded:/nonexistent",
            host=host,
            port=0,
            tokens=Tokens(),
            limits=Limits(),
            access_log=False,
            on_ready=print,
        )


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8080", "[::2]", "[", ""]
)
def test_without_tokens_only_names_of_this_machine_are_answered(demo: TestClient, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", V1), ("DELETE", V1)):
        sentence(demo.request(method, path, headers={"host": host}), 421)
    for own in ("localhost:8080", "127.0.0.1", "[::1]:8080"):
        assert demo.get(V1, headers={"host": own}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_other_sites_may_not_write(demo: TestClient, headers: dict[str, str]) -> None:
    for method, path in (("DELETE", V1), ("POST", f"{V1}/sweep"), ("PUT", V1)):
        assert "another site" in sentence(demo.request(method, path, headers=headers), 403)
    answer = demo.get(V1, headers=headers)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_own_page_may_write(demo: TestClient) -> None:
    headers = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
    assert demo.post(f"{V1}/peek", json={"ids": []}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/assets/none", "/healthz", V1, "/nowhere", f"{V1}/blobs/{ZERO}", "/v1/pools/X"]
)
def test_every_answer_has_the_security_headers(demo: TestClient, guarded: TestClient, path: str) -> None:
    for answer in (demo.get(path), guarded.get(path)):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "server" not in answer.headers


ESCAPES = (
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "..\\..\\etc\\passwd",
    "..%5c..%5cetc%5cpasswd",
    "%252e%252e%252fetc",
    "a/../../b",
    "a//b",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    ".hidden",
    "a/.hidden",
    "a%00b",
    "a%0d%0aset-cookie:b",
    "a\u202eb",
    "a%ff",
    "x" * 257,
)


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_path_escapes(service_port: int, escape: str) -> None:
    for place in ("sources", "entries", "rewards", "blobs"):
        status, _, body = raw(service_port, f"GET {V1}/{place}/{escape} HTTP/1.1", "Host: localhost")
        assert status in (400, 404, 422), (place, escape)
        assert b"root:" not in body
    status, _, body = raw(service_port, f"GET /assets/{escape} HTTP/1.1", "Host: localhost")
    assert status in (400, 404)
    assert b"root:" not in body
    status, _, _ = raw(service_port, f"DELETE /v1/pools/{escape} HTTP/1.1", "Host: localhost")
    assert status in (400, 404, 405, 422)


def raw(port: int, *lines: str, body: bytes = b"") -> tuple[int, bytes, bytes]:
    """Status, head and body of what a server answers to these very lines."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = "\r\n".join([*lines, "Connection: close", "", ""]).encode("utf-8")
        connection.sendall(head + body)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head_bytes, _, rest = received.partition(b"\r\n\r\n")
    return int(head_bytes.split(b" ")[1]), head_bytes.lower(), rest


@pytest.mark.parametrize(
    ("lines", "statuses"),
    [
        (("GET /v1/pools HTTP/1.1",), (400,)),
        (("GET /v1/pools HTTP/1.1", "Host: localhost", "Host: evil"), (400,)),
        (("GET http://evil.example/v1/pools HTTP/1.1", "Host: evil.example"), (400, 421)),
        (("GET /v1/pools HTTP/1.1", "Host: localhost", "X: a\rb"), (400,)),
        (("GET /v1/pools HTTP/1.1", "Host: localhost", " folded: a"), (400,)),
        (("GET /v1/pools HTTP/1.1", "Host: localhost", "X: " + "a" * 40_000), (400, 431)),
        ((f"DELETE {V1} HTTP/1.1", "Host: localhost", "Origin: http://localhost.evil.example"), (403,)),
        ((f"PUT {V1} HTTP/1.1", "Host: localhost", "Content-Length: -1"), (400, 413)),
        ((f"PUT {V1} HTTP/1.1", "Host: localhost", "Content-Length: 5", "Content-Length: 6"), (400,)),
        (
            (f"PUT {V1} HTTP/1.1", "Host: localhost", "Content-Length: 5", "Transfer-Encoding: chunked"),
            (400,),
        ),
    ],
)
def test_header_tricks_are_refused(
    service_port: int, lines: tuple[str, ...], statuses: tuple[int, ...]
) -> None:
    status, _, _ = raw(service_port, *lines)
    assert status in statuses


@pytest.mark.parametrize(
    "header",
    [
        "X-HTTP-Method-Override: DELETE",
        "X-Original-URL: /metrics",
        "X-Forwarded-Host: evil",
        "Forwarded: host=evil",
    ],
)
def test_overriding_headers_change_nothing(service_port: int, header: str) -> None:
    status, _, body = raw(service_port, f"GET {V1} HTTP/1.1", "Host: localhost", header)
    assert (status, b'"name":"demo"' in body) == (200, True)


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


def test_a_body_that_stops_is_not_waited_for(
    service_port: int, monkeypatch: pytest.MonkeyPatch, demo: TestClient
) -> None:
    monkeypatch.setattr("pool_store.http.limits.STALLED_SECONDS", 0.2)
    lines = (f"PUT {V1}/blobs/{ZERO} HTTP/1.1", "Host: localhost", "Content-Type: image/webp")
    status, _, body = raw(service_port, *lines, "Content-Length: 100", body=b"x" * 10)
    assert (status, b"nothing came for 0.2 s" in body) == (408, True)
    assert demo.get(V1).status_code == 200


def test_a_snapshot_has_a_limit_of_its_own(narrow: Callable[..., TestClient]) -> None:
    client = narrow(body=100, dump=10_000)
    assert client.put(f"{V1}/dump", json={"meta": {"a": "x" * 200}, "entries": {}}).status_code == 422
    sentence(client.put(f"{V1}/dump", json={"meta": {"a": "x" * 10_000}, "entries": {}}), 413)


def test_pixels_are_limited(narrow: Callable[..., TestClient]) -> None:
    client = narrow(pixels=100)
    for shape, status in (((10, 10, 3), 201), ((10, 11, 3), 413)):
        image = np.zeros(shape, np.uint8)
        url = f"{V1}/blobs/{digest_of(image)}"
        answer = client.put(url, content=encode(image), headers={"content-type": "image/webp"})
        assert answer.status_code == status


def test_batches_and_ids_are_limited(demo: TestClient) -> None:
    assert demo.post(f"{V1}/peek", json={"ids": ["a"] * IDS_A_REQUEST}).status_code == 200
    for path in ("peek", "entries"):
        said = sentence(demo.post(f"{V1}/{path}", json={"ids": ["a"] * (IDS_A_REQUEST + 1)}), 422)
        assert f"at most {IDS_A_REQUEST} items" in said
    lineage = {"run": "run", "step": 1, "stage": 1, "time": 0.0}
    offer = {"id": "a", "log_odds": 0.0, "fingerprint": "f", "digest": ZERO, "lineage": lineage}
    answer = demo.post(f"{V1}/offers", json={"offers": [offer] * (OFFERS_A_REQUEST + 1)})
    assert f"at most {OFFERS_A_REQUEST} items" in sentence(answer, 422)
    for id in ("", "..", "a/../b", "/a", "a/", ".a", "a\\b", "a\nb", "x" * 257):
        sentence(demo.post(f"{V1}/peek", json={"ids": [id]}), 422)


def test_the_rate_is_limited(narrow: Callable[..., TestClient]) -> None:
    client = narrow(rate=2)
    answers = [client.get("/healthz") for _ in range(8)]
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

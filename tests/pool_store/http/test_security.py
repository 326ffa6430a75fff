"""Who may do what, and what is refused whoever asks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pool_store.engine.images import digest_of, encode
from pool_store.engine.pools import PoolHost
from pool_store.http.app import TOKEN_VARIABLES, create_app
from pool_store.http.limits import Limits
from pool_store.http.server import serve
from rgsud_core.errors import ServiceError
from rgsud_core.http.security import Tokens
from tests.pool_store.answers import raw, sentence
from tests.pool_store.servers import serving

WRITER, READER = "w" * 32, "r" * 32
V1 = "/v1/pools/demo"
READING_POSTS = {"/v1/pools/{pool}/entries"}
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


def test_assets_lead_nowhere_else_and_caches_keep_nothing(guarded: TestClient) -> None:
    for path in ("/assets/%2e%2e/v1/pools", "/assets/..%2fmetrics", "/assets//v1/pools"):
        assert guarded.get(path).status_code == 404
    image = np.zeros((2, 2, 3), np.uint8)
    url = f"{V1}/blobs/{digest_of(image)}"
    headers = bearer(WRITER) | {"content-type": "image/webp"}
    assert guarded.put(url, content=encode(image), headers=headers).status_code == 201
    assert guarded.get(url, headers=bearer(READER)).headers["cache-control"].startswith("private, ")


def test_methods_without_end_make_no_labels_without_end(guarded: TestClient) -> None:
    for number in range(5):
        guarded.request(f"M{number}", "/")
    text = guarded.get("/metrics", headers=bearer(READER)).text
    assert 'method="other"' in text
    assert 'method="M' not in text


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
    logging.getLogger("rgsud.access").setLevel(logging.INFO)
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
    tokens = Tokens.load(TOKEN_VARIABLES, file, environment)
    scopes = [
        tokens.scope_of(token) for token in (WRITER, READER, "a" * 16, "b" * 16, "c" * 16, "", "\udcff")
    ]
    assert scopes == ["write", "read", "read", "write", None, None, None]
    assert not Tokens.load(TOKEN_VARIABLES, None, {})
    for wrong in ("read", "admin " + "a" * 16, f"read {'a' * 16} b"):
        file.write_text(f"\n{wrong}")
        with pytest.raises(ServiceError, match=r"line 2 of the token file .* is not 'read\|write TOKEN'"):
            Tokens.load(TOKEN_VARIABLES, file, {})
    for wrong in ("short", "ä" * 16, "a" * 8 + " " + "a" * 8):
        with pytest.raises(ServiceError, match="the write token is not 16 or more"):
            Tokens.load(TOKEN_VARIABLES, None, {"RGSUD_POOL_TOKEN": wrong})
    with pytest.raises(ServiceError, match="cannot read the token file"):
        Tokens.load(TOKEN_VARIABLES, tmp_path / "none", {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "pool.example"])
def test_serves_other_machines_only_with_a_token(host: str) -> None:
    with pytest.raises(ServiceError, match=f"{host} can be reached .*, so a token is needed"):
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
def test_pages_of_other_sites_may_neither_read_nor_write(demo: TestClient, headers: dict[str, str]) -> None:
    for method, path in (("DELETE", V1), ("POST", f"{V1}/sweep"), ("PUT", V1)):
        assert "another site" in sentence(demo.request(method, path, headers=headers), 403)
    for path in (V1, f"{V1}/dump", "/metrics"):
        sentence(demo.get(path, headers=headers), 403)
    answer = demo.get("/", headers=headers)  # a link to the page
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_own_page_may_write(demo: TestClient) -> None:
    headers = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
    assert demo.post(f"{V1}/entries", json={"ids": []}, headers=headers).status_code == 200


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


@pytest.mark.parametrize(
    ("lines", "statuses"),
    [
        (("GET /v1/pools HTTP/1.1",), (400,)),
        (("GET /v1/pools HTTP/1.1", "Host: localhost", "Host: evil"), (400,)),
        (("GET http://evil.example/v1/pools HTTP/1.1", "Host: evil.example"), (400, 421)),
        (("GET /v1/pools HTTP/1.1", "Host: localhost", "X: a\rb"), (400,)),
        (("GET /v1/pools HTTP/1.1", "Host: localhost", " folded: a"), (400, 421)),
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

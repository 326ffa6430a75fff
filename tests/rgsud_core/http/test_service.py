"""Clients send nothing, too slowly, too much, or do not read: the service stays reachable for others."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from rgsud_core.http import service as service_module
from rgsud_core.http.limits import VALUES, Limits
from rgsud_core.http.security import Access, Tokens
from rgsud_core.http.service import JsonRoute, guarded
from tests.patience import PATIENCE, wait_until
from tests.pool_store.answers import sentence
from tests.pool_store.servers import serving

LARGE = 64 << 20
HEAD = b"Host: localhost\r\n"


class Unavailable(Exception):
    retry_after = 2.5


class Numbers(BaseModel):
    numbers: list[Any]


class Service:
    """An application with a route that waits, one that reads, and one that answers at length."""

    def __init__(self, **limits: Any) -> None:
        self.entered, self.released = threading.Semaphore(0), threading.Event()
        self.fails = False
        app, routes = FastAPI(), APIRouter(route_class=JsonRoute)

        @app.get("/wait")
        def wait() -> str:
            self.entered.release()
            assert self.released.wait(PATIENCE)
            return "done"

        @app.put("/length")
        async def length(request: Request) -> int:
            return len(await request.body())

        @app.get("/large")
        def large() -> Response:
            return Response(bytes(LARGE))

        @routes.post("/numbers")
        def numbers(given: Numbers) -> int:
            return len(given.numbers)

        app.include_router(routes)
        self.limits = Limits(**limits)
        self.app = guarded(
            app,
            service="test",
            tokens=Tokens(),
            limits=self.limits,
            access=Access(),
            errors={Unavailable: 503},
            ready=self._ready,
            registry=CollectorRegistry(),
        )

    def _ready(self) -> None:
        if self.fails:
            raise Unavailable("the other one is away: come back later")


@pytest.fixture
def served() -> Iterator[Callable[..., tuple[Service, int, httpx.Client]]]:
    """Starts a service: itself, its port and a client."""
    endings: list[Any] = []

    def start(**limits: Any) -> tuple[Service, int, httpx.Client]:
        service = Service(**limits)
        running = serving(service.app, service.limits)
        port = running.__enter__()
        client = httpx.Client(base_url=f"http://localhost:{port}", timeout=PATIENCE)
        endings.append((service, running, client))
        return service, port, client

    yield start
    for service, running, client in endings:
        service.released.set()
        client.close()
        running.__exit__(None, None, None)


def connect(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.sendall(data)
    return connection


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    received = bytearray()
    try:
        while chunk := connection.recv(1 << 16):
            received += chunk
    except ConnectionResetError:
        pass
    return bytes(received)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /hea",
        b"GET /healthz HTTP/1.1\r\n" + HEAD,
        b"GET /healthz HTTP/1.1\r\n" + HEAD + b"\r\nGET /heal",
        b"PUT /length HTTP/1.1\r\n" + HEAD + b"Content-Length: 9\r\nSec-Fetch-Site: cross-site\r\n\r\n",
    ],
)
def test_a_connection_without_a_complete_request_is_closed(
    served: Any, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("rgsud_core.http.limits.HEAD_SECONDS", 0.3)
    service, port, client = served()
    with ThreadPoolExecutor(1) as threads:  # whoever is being answered is not touched
        waiting = threads.submit(client.get, "/wait")
        service.entered.acquire()
        with connect(port, sent) as connection:
            received = everything(connection)
        service.released.set()
        assert waiting.result().json() == "done"
    assert received.count(b"HTTP/1.1") == sent.count(b"\r\n\r\n")


def test_beyond_the_limit_the_longest_silent_connection_gives_way(served: Any) -> None:
    service, port, client = served(connections=5)
    with ThreadPoolExecutor(1) as threads, connect(port) as first:
        waiting = threads.submit(client.get, "/wait")
        service.entered.acquire()
        others = [connect(port) for _ in range(20)]
        assert everything(first) == b""
        assert httpx.get(f"{client.base_url}/healthz", timeout=PATIENCE).status_code == 200
        others[-1].sendall(b"GET /healthz HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n")
        assert everything(others[-1]).startswith(b"HTTP/1.1 200")
        service.released.set()
        assert waiting.result().json() == "done"
        for other in others:
            other.close()


def test_health_is_answered_while_no_request_is_taken(served: Any) -> None:
    service, _, client = served(requests=2)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(client.get, "/wait") for _ in range(2)]
        for _ in waiting:
            service.entered.acquire()
        refused = client.put("/length", content=b"x")
        assert "come back later" in sentence(refused, 503)
        assert int(refused.headers["retry-after"]) >= 1
        for path in ("/healthz", "/readyz"):
            assert client.get(path).json() == {"status": "ok"}
        service.released.set()
        assert [answer.result().json() for answer in waiting] == ["done", "done"]
    assert client.put("/length", content=b"x").json() == 1


def test_health_is_answered_beyond_the_rate() -> None:
    client = TestClient(Service(rate=0.01).app, "http://localhost")
    assert client.put("/length", content=b"x").status_code == 429
    assert [client.get("/healthz").status_code for _ in range(4)] == [200] * 4


def test_a_service_that_is_not_ready_says_when_it_may_be() -> None:
    service = Service()
    client = TestClient(service.app, "http://localhost")
    service.fails = True
    answer = client.get("/readyz")
    assert sentence(answer, 503) == "the other one is away: come back later"
    assert answer.headers["retry-after"] == "3"
    assert client.get("/healthz").status_code == 200


def test_a_body_that_drips_is_given_up(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgsud_core.http.limits.STALLED_SECONDS", 0.5)
    _, port, _ = served()
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        while not stop.wait(0.02):
            try:
                connection.sendall(b"x")
            except OSError:
                return

    head = b"PUT /length HTTP/1.1\r\n" + HEAD + b"Content-Length: 1000000\r\n\r\n"
    with connect(port, head) as connection, ThreadPoolExecutor(1) as threads:
        threads.submit(drip, connection)
        received = connection.recv(1 << 16)
        stop.set()
    assert received.startswith(b"HTTP/1.1 408")


def test_an_answer_that_is_not_read_is_given_up(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgsud_core.http.limits.STALLED_SECONDS", 0.5)
    _, port, client = served()
    assert len(client.get("/large").content) == LARGE
    done = 'route="/large",status="200"} 2.0'
    with connect(port, b"GET /large HTTP/1.1\r\n" + HEAD + b"\r\n") as connection:
        wait_until(lambda: done in client.get("/metrics").text, "the answer is still waited for")
        assert len(everything(connection)) < LARGE


def test_bodies_in_hand_are_limited_together(served: Any) -> None:
    _, port, client = served(bodies=1000, body=5000)
    head = b"PUT /length HTTP/1.1\r\n" + HEAD + b"Connection: close\r\nContent-Length: 700\r\n\r\n"
    with connect(port, head + bytes(600)) as first:
        wait_until(lambda: client.put("/length", content=bytes(500)).status_code == 503, "none is refused")
        assert client.put("/length", content=bytes(100)).json() == 100
        first.sendall(bytes(100))
        assert everything(first).endswith(b"\r\n\r\n700")
    assert client.put("/length", content=bytes(4000)).json() == 4000  # alone, what its own limit allows


def test_json_of_too_many_values_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    client = TestClient(Service().app, "http://localhost")
    parsed: list[int] = []
    real = json.loads

    def counted(body: bytes) -> Any:
        parsed.append(len(body))
        return real(body)

    monkeypatch.setattr(service_module, "json", SimpleNamespace(loads=counted, dumps=json.dumps))

    def post(body: bytes) -> httpx.Response:
        return client.post("/numbers", content=body, headers={"content-type": "application/json"})

    most = VALUES
    for hostile in (
        b'{"numbers": [' + b"[]," * most + b"1]}",
        b'{"numbers": [' + b"0," * most + b"1]}",
        b'{"numbers": [' + b"{}," * most + b"1]}",
        b"[" * (most + 1),
        b'{"numbers": [' + b'",",' * most + b"1]}",
        b'{"numbers": [' + b'"\\"",' * most + b"1]}",
        b"{" + b'"a":0,' * most + b'"numbers": []}',
    ):
        assert "more than" in sentence(post(hostile), 413)
    assert parsed == []
    for harmless, length in (
        (b'{"numbers": [' + b"0," * (most - 5) + b"1]}", most - 4),
        (b'{"numbers": ["' + b",[{" * most + b'"]}', 1),
        (b'{"numbers": ["' + b'\\",' * most + b'"]}', 1),
    ):
        assert post(harmless).json() == length
    assert "no JSON" in sentence(post(b'{"numbers": ["' + b'\\",' * most), 400)

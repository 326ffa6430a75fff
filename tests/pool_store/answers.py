"""How the tests look at what the service answers."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from fastapi.testclient import TestClient

from pool_store.client import Pool
from tests.patience import PATIENCE


def sentence(answer: Any, status: int) -> str:
    """The sentence of an answer that must be a problem of that status."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    body = answer.json()
    assert body["status"] == status
    assert "\n" not in body["detail"]
    assert "Traceback" not in body["detail"]
    return str(body["detail"])


def raw(port: int, *lines: str, body: bytes = b"") -> tuple[int, bytes, bytes]:
    """Status, head and body of what a server answers to these very lines."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        head = "\r\n".join([*lines, "Connection: close", "", ""]).encode("utf-8")
        connection.sendall(head + body)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head_bytes, _, rest = received.partition(b"\r\n\r\n")
    return int(head_bytes.split(b" ")[1]), head_bytes.lower(), rest


def best(pool: Pool, ids: Iterable[str]) -> dict[str, float]:
    """The best log-odds of those ids that have an entry."""
    return {id: entry.best.log_odds for id, entry in pool.entries(ids).items()}


def best_over_http(client: TestClient, pool: str, *ids: str) -> dict[str, float]:
    """`best` by the service's own route; `pool` is the pool's path."""
    answer = client.post(f"{pool}/entries", json={"ids": ids})
    return {entry["id"]: entry["candidates"][0]["log_odds"] for entry in answer.json()["entries"]}

"""Real servers for the tests, each a process of its own on loopback."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import uvicorn
from starlette.types import ASGIApp

from rgsud_core.http.limits import Limits
from rgsud_core.http.runner import configured
from tests.patience import PATIENCE, wait_until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def redis_server(folder: Path, **settings: Any) -> Iterator[int]:
    """Debian's Redis on a free port, which it gives; skips the test where there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed")
    port = int(settings.pop("port", 0)) or free_port()
    options = {"bind": "127.0.0.1", "port": port, "dir": folder, "save": "", **settings}
    command = [binary, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(port), f"redis-server on port {port} does not answer")
        yield port
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    with redis.Redis(port=port, socket_timeout=PATIENCE) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


@contextlib.contextmanager
def redis_cluster(folder: Path, masters: int = 3) -> Iterator[list[int]]:
    """A cluster without replicas; the ports of its nodes."""
    with contextlib.ExitStack() as stack:
        ports = []
        for number in range(masters):
            home = folder / str(number)
            home.mkdir()
            settings = {"cluster-enabled": "yes", "cluster-port": free_port(), "cluster-node-timeout": 5000}
            ports.append(stack.enter_context(redis_server(home, **settings)))
        nodes = [stack.enter_context(redis.Redis(port=port)) for port in ports]
        share = 16384 / masters
        for number, node in enumerate(nodes):
            first, last = round(number * share), round((number + 1) * share) - 1
            node.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
            node.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for port, node in zip(ports[1:], nodes[1:], strict=True):
            bus = node.config_get("cluster-port")["cluster-port"]
            nodes[0].execute_command("CLUSTER MEET", "127.0.0.1", port, bus)
        wait_until(
            lambda: all(node.execute_command("CLUSTER INFO")["cluster_state"] == "ok" for node in nodes),
            "the cluster does not form",
        )
        yield ports


@contextlib.contextmanager
def serving(app: ASGIApp, limits: Limits | None = None) -> Iterator[int]:
    """Serves an application from a thread at a free port, which it gives."""
    config = configured(app, limits or Limits())
    config.port = 0
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, "the service does not start")
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()

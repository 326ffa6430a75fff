from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SERVE = "from pool_store.cli import app; app(['serve', *__import__('sys').argv[1:]])"
START_SECONDS = 60.0


def wait_for(what: Callable[[], object], message: str, seconds: float = 30.0) -> None:
    """Asks again until it is so, or fails with the message."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            pytest.fail(message)
        time.sleep(0.02)


class Service:
    """`rgsud pool serve` in a process of its own, on one port through all its lives."""

    def __init__(self, spec: str, log: Path, **environment: str) -> None:
        self.spec, self.log, self.environment = spec, log, environment
        self.port = 0
        self.start()

    def start(self) -> None:
        """Starts it, and returns once it can be reached."""
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, "--pool-spec", self.spec, "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "COLUMNS": "200", **self.environment},
            )
        wait_for(
            lambda: self._said() or self.process.poll() is not None, "the service is silent", START_SECONDS
        )
        assert self.process.poll() is None, self.log.read_text()
        self.port = int(self._said())

    def _said(self) -> str:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.log.read_text())
        return found[1] if found else ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Starts services; what still runs at the end is ended."""
    services: list[Service] = []

    def start(spec: str = "", **environment: str) -> Service:
        folder = tmp_path_factory.mktemp("service")
        services.append(Service(spec or f"embedded:{folder / 'pools'}", folder / "log", **environment))
        return services[-1]

    yield start
    for service in services:
        service.kill()

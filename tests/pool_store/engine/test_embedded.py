"""The embedded server's life: one user at a time, no orphans, nothing acknowledged is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from pool_store.errors import PoolError, PoolFull
from pool_store.schemas import Offer
from tests.patience import wait_until
from tests.pool_store.answers import best

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
        """Whether the server lives."""
        command = Path(f"/proc/{self.pids['server']}/cmdline")
        # A dead process that nobody has waited for has no command line.
        return command.exists() and bool(command.read_text())


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
    scores = best(pool, (f"id{score}" for score in range(last + 1)))
    assert scores == {f"id{score}": float(score) for score in range(last + 1)}
    # The offer in flight may have been decided without its client hearing of it.
    assert pool.stats().offers in (last + 1, last + 2)
    wait_until(lambda: not client.served(), "the server lives on")


def test_the_server_ends_when_its_owner_is_killed(client: Client) -> None:
    client.kill("client")
    wait_until(lambda: not client.socket.parent.exists(), "the socket stays")
    wait_until(lambda: not client.served(), "the server lives on")


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
    assert best(embedded.open(), ["a"]) == {"a": 1.0}
    os.close(writing)
    assert os.waitpid(worker, 0)[1] == 0


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_syncs_as_it_is_told(embedded: Any, fsync: str) -> None:
    pool = embedded.open(spec=embedded.spec + ("" if fsync == "always" else f"?fsync={fsync}"))
    settings = pool.server.client.config_get("append*")
    assert (settings["appendonly"], settings["appendfsync"]) == ("yes", fsync)


def test_a_server_that_dies_is_started_again(embedded: Any, make_offer: Callable[..., Offer]) -> None:
    pool = embedded.open()
    other = embedded.open(spec=pool.address)
    for number in range(3):
        pool.offer(make_offer(pool, f"id{number}", float(number), number))
        os.kill(pool.server.client.info("server")["process_id"], signal.SIGKILL)
        wait_until(lambda: reachable(pool), "the server is not started again")
    expected = {f"id{number}": float(number) for number in range(3)}
    assert (best(pool, expected), best(other, expected)) == (expected, expected)


def reachable(pool: Any) -> bool:
    try:
        pool.entries(["a"])
    except PoolError:
        return False
    return True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(disk)], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_loses_nothing_that_was_acknowledged(
    embedded: Any, small_disk: Path, make_offer: Callable[..., Offer]
) -> None:
    pool = embedded.open(spec=f"embedded:{small_disk / 'pool'}")
    offer = make_offer(pool, "a", 0.0, 1)
    acknowledged: dict[str, float] = {}
    # Images leave the last of it to the log; something else may take it.
    filler = small_disk / "filler"
    with open(filler, "wb") as file:
        free = shutil.disk_usage(small_disk).free
        file.write(bytes(free - (1 << 20)))
    with pytest.raises(PoolFull, match="No space left on device; check that disk"):
        pool.put_image(np.zeros((8, 8, 3), np.uint8))
    refusal = None
    for batch in range(500):
        ids = [f"{batch}-{number}" for number in range(200)]
        try:
            pool.offer_many([offer.model_copy(update={"id": id, "log_odds": 1.0}) for id in ids])
        except PoolError as error:
            refusal = error
            break
        acknowledged.update(dict.fromkeys(ids, 1.0))
    assert isinstance(refusal, PoolFull)
    assert f"the disk of {small_disk / 'pool'} is full" in str(refusal)
    assert len(acknowledged) > 1000

    filler.unlink()
    wait_until(lambda: reachable(pool), "the pool does not recover")
    assert best(pool, acknowledged) == acknowledged
    assert pool.offer(make_offer(pool, "b", 1.0, 2)).status == "replaced"
    assert pool.verify().whole


def test_refuses_a_folder_that_is_a_file(embedded: Any) -> None:
    Path(embedded.spec.removeprefix("embedded:")).write_text("no folder")
    with pytest.raises(PoolError, match=r"cannot open the pool in .*the pool: .*; choose another folder"):
        embedded.open()


def test_a_socket_that_is_removed_is_made_again(embedded: Any, make_offer: Callable[..., Offer]) -> None:
    pool = embedded.open()
    other = embedded.open(spec=pool.address)
    pool.offer(make_offer(pool, "a", 1.0, 1))
    shutil.rmtree(Path(urlsplit(pool.address).path).parent)
    wait_until(lambda: reachable(pool) and reachable(other), "the socket is not made again")
    assert best(other, ["a"]) == {"a": 1.0}


def test_a_copy_of_an_open_pool_is_another_pool(
    embedded: Any, make_offer: Callable[..., Offer], tmp_path: Path
) -> None:
    pool = embedded.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    shutil.copytree(tmp_path / "the pool", tmp_path / "copy")
    copy = embedded.open(spec=f"embedded:{tmp_path / 'copy'}")
    assert best(copy, ["a"]) == {"a": 1.0}
    pool.offer(make_offer(pool, "a", 2.0, 2))
    copy.close()
    assert best(pool, ["a"]) == {"a": 2.0}
    assert best(embedded.open(spec=f"embedded:{tmp_path / 'copy'}"), ["a"]) == {"a": 1.0}


@pytest.mark.parametrize("place", ["long", "with blanks and ?"])
def test_any_temporary_folder_does(
    embedded: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    folder = tmp_path / (place if "?" in place else "x" * 200)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    pool = embedded.open()
    assert embedded.open(spec=pool.address).stats().entries == 0


def test_a_log_that_was_rewritten_opens(embedded: Any, make_offer: Callable[..., Offer]) -> None:
    """Values of every size, long and short ids, compressed strings, numbers: in a snapshot and behind it."""
    pool = embedded.open(history=2)
    offer = make_offer(pool, "a", 0.0, 1)
    ids = [f"id{number}" for number in range(700)] + ["1234567", "12", "x" * 200, "ä/ö" * 30]
    for log_odds in (1.0, 2.0):
        pool.offer_many([offer.model_copy(update={"id": id, "log_odds": log_odds}) for id in ids])
    other = embedded.open(spec=f"{pool.address.replace('pool=main', 'pool=other')}")
    other.offer_many([offer.model_copy(update={"id": "12", "log_odds": -1.5})])
    pool.server.client.set("rgsud:ping", "7", px=3_600_000)
    pool.server.client.bgrewriteaof()
    wait_until(lambda: [*embedded.blobs.parent.parent.glob("*/*.2.base.rdb")], "the log is not rewritten")
    pool.offer(make_offer(pool, "late", 3.0, 2))
    pool.restore(before := pool.dump())
    pool.close()
    again = embedded.open(history=2)
    assert again.dump() == before
    assert best(again, ["late", "12", "x" * 200]) == {"late": 3.0, "12": 2.0, "x" * 200: 2.0}

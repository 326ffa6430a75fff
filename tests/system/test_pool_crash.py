"""Kill anything at any moment, fill the disk, take Redis away: what was acknowledged stays.

`RGSUD_CRASH_ROUNDS=50` makes the long run of it; `RGSUD_CRASH_SEED` repeats a run that failed, as far as
processes on a shared machine can be repeated.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from pool_store.client import Pool, open_pool
from pool_store.errors import PoolError, PoolFull, PoolUnavailable
from pool_store.schemas import Lineage, Offer
from tests.patience import PATIENCE, wait_until

ROUNDS = int(os.environ.get("RGSUD_CRASH_ROUNDS", "4"))
SEED = int(os.environ.get("RGSUD_CRASH_SEED", str(random.SystemRandom().randrange(10**6))))
CLIENTS = 3
SCORER = "scorer-a"
VICTIMS = (("service",), ("server",), ("service", "server"), ("client",))

CLIENT = """
import random, sys, time
import numpy as np
from pool_store.client import open_pool
from pool_store.errors import PoolError, PoolFull, PoolUnavailable
from pool_store.schemas import Lineage, Offer

url, seed, phases, begin = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
chance, number = random.Random(seed), 0
pool = open_pool(url, fingerprint="scorer-a")
while True:
    number += 1
    image = np.random.default_rng([seed, number]).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    # They rise, so that every client's offers go on being accepted.
    id, log_odds = f"folder/{chance.randrange(40)}", chance.gauss(time.time() - begin, 1.0)
    lineage = Lineage(run=f"run {seed}", step=number, stage=1, time=time.time())
    try:
        digest = pool.put_image(image)
        print("put", id, repr(log_odds), digest, flush=True)
        if phases == 1:
            time.sleep(3600)
        offer = Offer(id=id, log_odds=log_odds, fingerprint="scorer-a", digest=digest, lineage=lineage)
        decision = pool.offer(offer)
        print(decision.status, id, repr(log_odds), digest, repr(decision.log_odds), flush=True)
    except PoolError as error:
        print("refused", error, flush=True)
        time.sleep(0.05)
"""


class Client:
    """A process that puts and offers without end, and what it has said so far."""

    def __init__(self, url: str, log: Path, seed: int, *, phases: int = 2, begin: float = 0.0) -> None:
        self.log = log
        with open(log, "wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CLIENT, url, str(seed), str(phases), str(begin)], stdout=said
            )

    def said(self, *words: str) -> list[list[str]]:
        """The lines, split, that begin with one of the words; the line being written is none yet."""
        lines = self.log.read_bytes().decode().split("\n")[:-1]
        return [line.split(" ") for line in lines if line.startswith(words)]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)


def embedded_server(service: Any) -> int:
    """The process of the server that a service has started."""
    tasks = Path(f"/proc/{service.process.pid}/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in task.read_text().split()]
    [found] = [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().startswith("valkey")]
    return found


class Arena:
    """A service under the load of several clients, and the server of its pools."""

    def __init__(self, service: Any, redis_server: Any | None, folder: Path, chance: random.Random) -> None:
        self.service, self.redis_server, self.folder, self.chance = service, redis_server, folder, chance
        self.url, self.begin = f"{service.url}/walk", time.time()
        open_pool(self.url, fingerprint=SCORER).close()
        self.clients: list[Client] = []
        for _ in range(CLIENTS):
            self.join()

    def join(self) -> Client:
        log = self.folder / f"client-{len(self.clients)}"
        self.clients.append(Client(self.url, log, self.chance.randrange(10**9), begin=self.begin))
        return self.clients[-1]

    def running(self) -> list[Client]:
        return [client for client in self.clients if client.process.poll() is None]

    def kill(self, victims: tuple[str, ...]) -> None:
        for victim in self.chance.sample(victims, len(victims)):
            if victim == "client":
                self.chance.choice(self.running()).kill()
            elif victim == "service":
                self.service.kill()
            elif self.redis_server:
                self.redis_server.signal(signal.SIGKILL)
            else:
                # A killed service's server is ended by its watchdog, perhaps before it is killed here.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.embedded, signal.SIGKILL)

    def restart(self) -> None:
        if self.redis_server and self.redis_server.process.poll() is not None:
            self.redis_server.start()
        if self.service.process.poll() is not None:
            self.service.start()
        while len(self.running()) < CLIENTS:
            self.join()

    def note_embedded(self) -> None:
        """Finds the server process that the service started, if it did."""
        if self.redis_server:
            return
        self.embedded = embedded_server(self.service)

    def acknowledged(self) -> dict[str, float]:
        """For every image the highest score that some client was told had entered."""
        best: dict[str, float] = {}
        for client in self.clients:
            for _, id, log_odds, *_ in client.said("replaced"):
                best[id] = max(best.get(id, -np.inf), float(log_odds))
        return best

    def offered(self) -> set[tuple[str, float, str]]:
        return {
            (id, float(log_odds), digest)
            for client in self.clients
            for _, id, log_odds, digest in client.said("put")
        }


def scores(pool: Pool, ids: list[str]) -> dict[str, float]:
    return {id: entry.best.log_odds for id, entry in pool.entries(ids).items()}


def assert_none_below(held: dict[str, float], floor: dict[str, float]) -> None:
    lost = {id: (held.get(id), least) for id, least in floor.items() if held.get(id, -np.inf) < least}
    assert not lost, f"held and acknowledged differ for {lost}"


@pytest.fixture(params=["embedded", "redis"])
def arena(request: pytest.FixtureRequest, serve: Callable[..., Any], tmp_path: Path) -> Iterator[Arena]:
    print(f"RGSUD_CRASH_SEED={SEED}")
    server = request.getfixturevalue("redis_server") if request.param == "redis" else None
    service = serve(f"{server.url}?blobs={tmp_path / 'blobs'}" if server else "")
    arena = Arena(service, server, tmp_path, random.Random(SEED))
    yield arena
    for client in arena.clients:
        client.kill()


def settled(pool: Pool) -> bool:
    before = pool.stats().offers
    time.sleep(0.5)
    return pool.stats().offers == before


@pytest.mark.slow
def test_acknowledged_rewards_outlive_every_process(arena: Arena) -> None:
    floor: dict[str, float] = {}
    for number in range(ROUNDS):
        heard = {client: len(client.said("replaced")) for client in arena.running()}
        for client, before in heard.items():
            message = f"round {number}: a client does not get through: {client.said('refused')[-1:]}"
            wait_until(
                lambda client=client, before=before: len(client.said("replaced")) > before + 5, message
            )
        arena.note_embedded()
        time.sleep(arena.chance.uniform(0, 0.4))
        arena.kill(VICTIMS[number % len(VICTIMS)])
        acknowledged = arena.acknowledged()
        arena.restart()
        with contextlib.closing(open_pool(arena.url, fingerprint=SCORER)) as pool:
            held = scores(pool, sorted(acknowledged.keys() | floor.keys()))
            assert_none_below(held, acknowledged)
            assert_none_below(held, floor)
            assert pool.verify().damaged == ()
        floor = held
    for client in arena.clients:
        client.kill()
    with contextlib.closing(open_pool(arena.url, fingerprint=SCORER)) as pool:
        # What a client had sent when it was killed is still decided; a sweep without grace is for after that.
        wait_until(lambda: settled(pool), "offers go on without clients")
        entries = list(pool.scan())
        held = {entry.id: entry.best.log_odds for entry in entries}
        assert_none_below(held, arena.acknowledged())
        # Nothing is in it that nobody offered, and no image is another offer's.
        assert {(entry.id, entry.best.log_odds, entry.best.digest) for entry in entries} <= arena.offered()
        # What crashes left behind is found, and no more than that is removed.
        pool.sweep(0)
        verified = pool.verify()
        assert verified.whole
        assert verified.candidates == len(entries) == pool.stats().entries == pool.stats().blobs
    # Clients saw scores only rise.
    for client in arena.clients:
        known: dict[str, float] = {}
        for _, id, *_, best in client.said("replaced", "kept"):
            assert float(best) >= known.get(id, -np.inf)
            known[id] = float(best)
    assert {line[0] for client in arena.clients for line in client.said("")} <= {
        "put",
        "replaced",
        "kept",
        "refused",
    }


def test_a_client_killed_between_the_phases_leaves_an_orphan_and_no_pointer(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    service = serve()
    url = f"{service.url}/walk"
    with contextlib.closing(open_pool(url, fingerprint=SCORER)) as pool:
        client = Client(url, tmp_path / "client", SEED, phases=1)
        wait_until(lambda: client.said("put"), "the client puts nothing")
        client.kill()
        [[_, id, _, digest]] = client.said("put")
        assert pool.entries([id]) == {}
        assert pool.verify().whole
        assert pool.image(digest).shape == (24, 24, 3)
        assert pool.sweep(3600).blobs == 0
        assert pool.sweep(0).blobs == 1
        with pytest.raises(PoolError, match=digest[:8]):
            pool.image(digest)


def make(pool: Pool, id: str, log_odds: float, number: int, side: int = 24) -> Offer:
    """Puts an image that does not compress, and makes its offer."""
    image = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    lineage = Lineage(run="run", step=number, stage=1, time=time.time())
    digest = pool.put_image(image)
    return Offer(id=id, log_odds=log_odds, fingerprint=SCORER, digest=digest, lineage=lineage)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that give up soon, so that their refusals are seen soon."""
    monkeypatch.setattr("pool_store.http.client.RETRY_SECONDS", 0.3)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(file: Path) -> None:
    """Takes every byte that is left."""
    with open(file, "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(1 << 16)):
            pass


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("phase", ["blob", "pointer"])
def test_a_full_disk_refuses_and_recovers(serve: Callable[..., Any], small_disk: Path, phase: str) -> None:
    service = serve(f"embedded:{small_disk / 'pools'}")
    pool = open_pool(f"{service.url}/walk", fingerprint=SCORER)
    acknowledged: dict[str, float] = {}

    def offer(number: int) -> bool:
        offered = make(pool, f"id{number % 7}", float(number), number if phase == "blob" else 0, side=160)
        entered = pool.offer(offered).status == "replaced"
        if entered:
            acknowledged[offered.id] = offered.log_odds
        return entered

    for number in range(10):
        assert offer(number)
    fill(small_disk / "filler")
    with pytest.raises(PoolFull, match=r"full|[Nn]o space|MISCONF|disk") as refused:
        all(offer(number) for number in range(10, 100_000))
    assert "\n" not in str(refused.value)
    (small_disk / "filler").unlink()

    def accepted() -> bool:
        with contextlib.suppress(PoolError):
            return offer(1_000_000)
        return False

    wait_until(accepted, "the pool does not recover")
    assert_none_below(scores(pool, sorted(acknowledged)), acknowledged)
    assert pool.verify().whole
    service.kill()
    service.start()
    assert_none_below(scores(pool, sorted(acknowledged)), acknowledged)
    pool.close()


OUTAGES: dict[str, tuple[Callable[[Any], object], Callable[[Any], object]]] = {
    "down": (lambda server: server.signal(signal.SIGTERM), lambda server: server.start()),
    "frozen": (lambda server: server.signal(signal.SIGSTOP), lambda server: server.signal(signal.SIGCONT)),
    "read-only": (
        lambda server: server.client().replicaof("127.0.0.1", 1),
        lambda server: server.client().replicaof("NO", "ONE"),
    ),
    "without replicas": (
        lambda server: server.client().config_set("min-replicas-to-write", 1),
        lambda server: server.client().config_set("min-replicas-to-write", 0),
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("outage", OUTAGES)
def test_says_that_redis_does_not_serve_and_goes_on_when_it_does(
    serve: Callable[..., Any], redis_server: Any, tmp_path: Path, outage: str
) -> None:
    service = serve(f"{redis_server.url}?blobs={tmp_path / 'blobs'}")
    pool = open_pool(f"{service.url}/walk", fingerprint=SCORER)
    direct = open_pool(f"{redis_server.url}?blobs={tmp_path / 'blobs'}&pool=walk", fingerprint=SCORER)
    assert pool.offer(make(pool, "a", 1.0, 1)).status == "replaced"
    better = make(pool, "a", 2.0, 2)
    begin, end = OUTAGES[outage]
    begin(redis_server)

    def refusal(joined: Pool) -> str:
        with pytest.raises(PoolUnavailable) as refused:
            joined.offer(better)
        return str(refused.value)

    # At once, since a frozen server is waited for.
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(httpx.get, f"{service.url}/readyz", timeout=PATIENCE)
        for said in threads.map(refusal, (pool, direct)):
            assert re.fullmatch(r"the pool at \S+ does not serve \([^\n]+\): [^\n]+", said)
        ready = asked.result()
    assert httpx.get(f"{service.url}/healthz", timeout=PATIENCE).status_code == 200
    assert ready.status_code == 503
    assert ready.headers["content-type"] == "application/problem+json"
    end(redis_server)
    wait_until(
        lambda: httpx.get(f"{service.url}/readyz", timeout=PATIENCE).status_code == 200, "it stays refused"
    )
    assert pool.entries(["a"]).keys() == {"a"}
    assert pool.offer(better).log_odds == 2.0
    assert direct.entries(["a"])["a"].best.log_odds == 2.0
    assert pool.verify().whole
    direct.close()
    pool.close()

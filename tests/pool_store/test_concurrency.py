"""Clients, threads and processes that share a pool."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pool_store.schemas import Decision, Offer

MakeOffer = Callable[..., Offer]


def test_two_clients_see_one_pool(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    other = backend.open(spec=pool.address)
    pool.offer(make_offer(pool, "a", 1.0, 1))
    assert other.offer(make_offer(other, "a", 0.5, 2)) == Decision(status="kept", log_odds=1.0)
    other.close()
    assert pool.stats().offers == 2


def test_threads_share_a_pool(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open(keep=3)
    offers = [make_offer(pool, f"id{number % 3}", float(number), number) for number in range(60)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(pool.offer, offers))
    assert {entry.id: [candidate.log_odds for candidate in entry.candidates] for entry in pool.scan()} == {
        "id0": [57.0, 54.0, 51.0],
        "id1": [58.0, 55.0, 52.0],
        "id2": [59.0, 56.0, 53.0],
    }
    assert pool.stats().offers == 60


COMPETITOR = """
import json, sys
import numpy as np
from pool_store.client import open_pool
from pool_store.schemas import Lineage, Offer
address, worker, work = json.loads(sys.argv[1])
pool = open_pool(address, fingerprint="scorer-a")
print("ready", flush=True)
input()
entered = 0
for step, (id, log_odds) in enumerate(work):
    digest = pool.put_image(np.full((2, 2, 3), [worker, step, 0], np.uint8))
    lineage = Lineage(run="run", step=step, stage=1, worker=worker, time=0.0)
    offer = Offer(id=id, log_odds=log_odds, fingerprint="scorer-a", digest=digest, lineage=lineage)
    entered += pool.offer(offer).status == "replaced"
print(entered)
"""


def test_competing_processes_leave_the_best(backend: Any) -> None:
    pool = backend.open()
    rng = np.random.default_rng(5)
    offers = [[(f"id{rng.integers(4)}", float(score)) for score in rng.normal(size=120)] for _ in range(3)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", COMPETITOR, json.dumps([pool.address, worker, work])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for worker, work in enumerate(offers)
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        print(file=worker.stdin, flush=True)
    entered = [int(worker.communicate()[0]) for worker in workers]

    best = {
        id: max((score, worker) for worker, work in enumerate(offers) for rival, score in work if rival == id)
        for id in ("id0", "id1", "id2", "id3")
    }
    entries = pool.entries(best)
    assert {id: (entry.best.log_odds, entry.best.lineage.worker) for id, entry in entries.items()} == best
    for entry in entries.values():
        worker, step = entry.best.lineage.worker, entry.best.lineage.step
        assert (pool.image(entry.best.digest) == np.array([worker, step, 0])).all()
    stats = pool.stats()
    assert (stats.offers, stats.replacements) == (360, sum(entered))
    assert sum(entry.offers for entry in entries.values()) == 360

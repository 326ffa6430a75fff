"""Clients, threads and processes that share a pool."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

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
address, worker, work, batch = json.loads(sys.argv[1])
pool = open_pool(address, fingerprint="scorer-a")
print("ready", flush=True)
input()
decisions = []
for start in range(0, len(work), batch):
    offers = []
    for step, (id, log_odds) in enumerate(work[start : start + batch], start):
        digest = pool.put_image(np.full((2, 2, 3), [worker, step, 0], np.uint8))
        lineage = Lineage(run="run", step=step, stage=1, worker=worker, time=0.0)
        offers.append(Offer(id=id, log_odds=log_odds, fingerprint="scorer-a", digest=digest, lineage=lineage))
    decisions += [(decision.status, decision.log_odds) for decision in pool.offer_many(offers)]
print(json.dumps(decisions))
"""
BATCHES = (1, 3, 16)
OFFERS = 96
Work = list[tuple[str, float]]
Decided = list[tuple[str, float]]


def compete(address: str, work: list[Work]) -> list[Decided]:
    """A process for every list of offers, all let loose at once; what each was answered."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", COMPETITOR, json.dumps([address, worker, offers, batch])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for worker, (offers, batch) in enumerate(zip(work, BATCHES, strict=True))
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        print(file=worker.stdin, flush=True)
    return [json.loads(worker.communicate()[0]) for worker in workers]


def explain(work: list[Work], decided: list[Decided], id: str) -> None:
    """Fails unless some order of all offers for the id, each worker's own order kept, explains every answer.

    What entered must have done so from low to high, which is one order; each answer "kept" tells the best of
    its moment, and so between which two of them it fell. So it remains to see that no worker went backwards.
    """
    told = [
        [(score, *answer) for (rival, score), answer in zip(offers, answers, strict=True) if rival == id]
        for offers, answers in zip(work, decided, strict=True)
    ]
    entered = sorted(score for answers in told for score, status, _ in answers if status == "replaced")
    assert len(entered) == len(set(entered))
    assert entered[-1] == max(score for answers in told for score, _, _ in answers)
    for answers in told:
        moments = []
        for score, status, best in answers:
            assert score == best if status == "replaced" else score <= best
            moments.append((entered.index(best), status == "kept"))
        assert moments == sorted(moments)


def test_competing_processes_leave_the_best_in_an_order_that_explains_all(backend: Any) -> None:
    pool = backend.open()
    rng = np.random.default_rng(5)
    work = [
        [(f"id{rng.integers(4)}", float(score)) for score in rng.normal(size=OFFERS)]
        for _ in range(len(BATCHES))
    ]
    decided = compete(pool.address, work)

    best = {
        id: max(
            (score, worker) for worker, offers in enumerate(work) for rival, score in offers if rival == id
        )
        for id in ("id0", "id1", "id2", "id3")
    }
    for id in best:
        explain(work, decided, id)
    entries = pool.entries(best)
    assert {id: (entry.best.log_odds, entry.best.lineage.worker) for id, entry in entries.items()} == best
    for entry in entries.values():
        worker, step = entry.best.lineage.worker, entry.best.lineage.step
        assert (pool.image(entry.best.digest) == np.array([worker, step, 0])).all()
    stats = pool.stats()
    replaced = sum(status == "replaced" for answers in decided for status, _ in answers)
    assert (stats.offers, stats.replacements) == (len(BATCHES) * OFFERS, replaced)
    assert sum(entry.replacements for entry in entries.values()) == replaced


def test_what_no_order_explains_is_noticed() -> None:
    work: list[Work] = [[("a", 1.0), ("a", 0.5)], [("a", 2.0)]]
    explain(work, [[("replaced", 1.0), ("kept", 2.0)], [("replaced", 2.0)]], "a")
    for wrong in (
        [[("kept", 2.0), ("kept", 1.0)], [("replaced", 2.0)]],  # a best that never was
        [[("replaced", 1.0), ("kept", 1.0)], [("kept", 2.0)]],  # the best of all is not there
        [[("replaced", 1.0), ("replaced", 0.5)], [("replaced", 2.0)]],  # 0.5 entered after 1.0
    ):
        with pytest.raises((AssertionError, ValueError)):
            explain(work, wrong, "a")

"""Rankings, histories, means, rainy images, figures: what people and stage 2 read, on every backend."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pool_store.client import Pool
from pool_store.engine.pages import page
from pool_store.errors import PoolError, PoolMissing
from pool_store.schemas import Decision, Lineage, Offer
from rgsud_core.images import Image
from tests.pool_store.answers import best

MakeOffer = Callable[..., Offer]
Picture = Callable[[int], Image]


def filled(backend: Any, make_offer: MakeOffer, scores: dict[str, float], **settings: Any) -> Pool:
    pool: Pool = backend.open(**settings)
    digest = make_offer(pool, "x", 0.0, 1)
    pool.offer_many([digest.model_copy(update={"id": id, "log_odds": score}) for id, score in scores.items()])
    return pool


def ids(found: tuple[list[Any], int]) -> tuple[list[str], int]:
    return [entry.id for entry in found[0]], found[1]


@pytest.fixture(params=["embedded", "tcp", "redis_tcp", "cluster"])
def direct(request: pytest.FixtureRequest) -> Any:
    """A pool without a service before it, whose route `tests/pool_store/http/test_app.py` has."""
    return request.getfixturevalue(request.param)


def test_pages_by_score(direct: Any, make_offer: MakeOffer) -> None:
    scores = {f"set/{number:04d}": float((number * 37) % 1009) for number in range(1009)}
    pool: Any = filled(direct, make_offer, scores)
    ranked = sorted(scores, key=scores.__getitem__)
    assert ids(page(pool.shards, "worst", 0, 5)) == (ranked[:5], 1009)
    assert ids(page(pool.shards, "worst", 1000, 20)) == (ranked[1000:], 1009)
    assert ids(page(pool.shards, "best", 400, 7)) == (ranked[::-1][400:407], 1009)
    assert ids(page(pool.shards, "best", 0, 3, minimum=10.0, maximum=20.0)) == (ranked[20:17:-1], 11)
    assert ids(page(pool.shards, "worst", 2, 3, minimum=10.0)) == (ranked[12:15], 999)
    assert ids(page(pool.shards, "worst", 0, 2, contains="SET/100")) == (
        [id for id in ranked if id.startswith("set/100")][:2],
        9,
    )
    assert ids(page(pool.shards, "worst", 5, 5, minimum=2000.0)) == ([], 0)


def test_pages_by_time(direct: Any, make_offer: MakeOffer) -> None:
    pool: Any = filled(direct, make_offer, {})
    for number, id in enumerate(["a", "b", "c", "a"]):
        time.sleep(0.002)  # the masters of a cluster share a clock, and no counter
        pool.offer(make_offer(pool, id, float(number), number))
    assert ids(page(pool.shards, "recent", 0, 9)) == (["a", "c", "b"], 3)
    assert ids(page(pool.shards, "recent", 1, 1)) == (["c"], 3)
    assert ids(page(pool.shards, "recent", 0, 9, maximum=2.0)) == (["c", "b"], 2)


def test_a_batch_is_decided_in_its_order(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    first, lower, higher, other = (
        make_offer(pool, id, score, number)
        for number, (id, score) in enumerate([("a", 1.0), ("a", 0.5), ("a", 2.0), ("b", -1.0)])
    )
    stale = make_offer(pool, "a", 9.0, 5, fingerprint="scorer-b")
    batch = [first, lower, higher, first, stale, other]
    assert pool.offer_many(batch) == [
        Decision(status="replaced", log_odds=1.0),
        Decision(status="kept", log_odds=1.0),
        Decision(status="replaced", log_odds=2.0),
        Decision(status="replaced", log_odds=2.0),
        Decision(status="stale", log_odds=2.0),
        Decision(status="replaced", log_odds=-1.0),
    ]
    stats = pool.stats()
    assert (stats.offers, stats.replacements, stats.kept, stats.stale) == (4, 3, 1, 1)
    assert [answer.status for answer in pool.offer_many(batch)] == [
        "replaced",
        "kept",
        "replaced",
        "replaced",
        "stale",
        "replaced",
    ]
    assert pool.stats().offers == 4
    assert pool.offer_many([]) == []


def test_large_batches_grow_the_pool(backend: Any, make_offer: MakeOffer) -> None:
    scores = {f"{number}": float(number) for number in range(3000)}
    pool = filled(backend, make_offer, scores)
    assert best(pool, scores) == scores
    assert {entry.id: entry.best.log_odds for entry in pool.scan()} == scores
    # Between the pages of a scan the pool doubles: nothing that was there is missed, nothing is met twice.
    scan = pool.scan()
    met = [next(scan).id]
    offer = make_offer(pool, "x", 1.0, 1)
    pool.offer_many([offer.model_copy(update={"id": f"late {number}"}) for number in range(4000)])
    met += [entry.id for entry in scan]
    assert len(met) == len(set(met))
    assert set(scores) <= set(met)


def test_history_tells_how_a_reward_got_better(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open(history=3)
    offers = [make_offer(pool, "a", score, number) for number, score in enumerate([1.0, 2.0, 1.5, 3.0, 4.0])]
    assert pool.history("a") == []
    pool.offer_many(offers)
    assert [(item.log_odds, item.step, item.digest) for item in pool.history("a")] == [
        (4.0, 4, offers[4].digest),
        (3.0, 3, offers[3].digest),
        (2.0, 1, offers[1].digest),
    ]
    assert {(item.stage, item.time) for item in pool.history("a")} == {(1, offers[0].lineage.time)}
    dump = pool.dump()
    pool.offer(make_offer(pool, "a", 5.0, 9))
    pool.restore(dump)
    assert [item.log_odds for item in pool.history("a")] == [4.0, 3.0, 2.0]


def test_the_reward_is_the_best(backend: Any, make_offer: MakeOffer, picture: Picture) -> None:
    pool = backend.open(keep=3)
    for number, score in enumerate([1.0, 3.0, 2.0]):
        pool.offer(make_offer(pool, "a", score, number))
    digest, best = pool.reward("a")
    assert digest == pool.entries(["a"])["a"].best.digest
    np.testing.assert_array_equal(best, picture(1))

    with pytest.raises(PoolMissing, match="'b' has no reward"):
        pool.reward("b")


def test_rainy_images_lie_beside_the_rewards(backend: Any, make_offer: MakeOffer, picture: Picture) -> None:
    pool = filled(backend, make_offer, {"set/a": 1.0})
    assert pool.source("set/a") is None
    for number in (1, 2):
        pool.put_source("set/a", picture(number))
    found = pool.source("set/a")
    assert found is not None
    np.testing.assert_array_equal(found, picture(2))
    backend.age(3600)
    pool.sweep(0)
    assert pool.source("set/a") is not None


def test_figures_by_stage_time_and_score(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    assert (pool.stats().quantiles, pool.stats().ages, pool.stats().coverage) == (None, None, None)
    now = time.time()
    offers = [
        make_offer(pool, f"id{number}", float(number), 1).model_copy(
            update={"lineage": Lineage(run="run", step=1, stage=1 + number % 2, worker=0, time=now - number)}
        )
        for number in range(-20, 21)
    ]
    pool.offer_many(offers)
    pool.offer(offers[0].model_copy(update={"log_odds": -30.0}))
    pool.declare_size(82)
    stats = pool.stats()
    assert (stats.size, stats.coverage) == (82, 0.5)
    assert {stage: (figures.offers, figures.replacements) for stage, figures in stats.per_stage.items()} == {
        1: (22, 21),
        2: (20, 20),
    }
    assert sum(minute.offers for minute in stats.timeline) == 42
    assert sum(minute.replacements for minute in stats.timeline) == 41
    assert all(abs(minute.time - now) < 600 and minute.time % 60 == 0 for minute in stats.timeline)

    edges, counts = stats.histogram.edges, stats.histogram.counts
    assert len(edges) == len(counts) + 1
    assert counts[0] == 5  # -20 to -16
    assert counts[-1] == 5  # 16 to 20
    assert counts[edges.index(3.0)] == 1
    assert sum(counts) == 41
    assert stats.quantiles
    assert stats.quantiles.p50 == pytest.approx(0, abs=0 if "cluster" not in backend.spec else 6)
    assert stats.quantiles.p05 < stats.quantiles.p25 < stats.quantiles.p50 < stats.quantiles.p95
    assert stats.ages
    assert stats.ages.oldest == pytest.approx(20, abs=60)
    assert stats.ages.oldest - stats.ages.newest == pytest.approx(40, abs=1e-3)


def test_means_do_not_drift(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    offer = make_offer(pool, "a", 0.0, 1)
    rng = np.random.default_rng(3)
    scores = np.sort(rng.normal(size=(20, 250)) * 10.0 ** rng.integers(-6, 7, (20, 250)), axis=1)
    for step in range(250):
        pool.offer_many(
            [
                offer.model_copy(update={"id": f"{id}", "log_odds": float(scores[id, step])})
                for id in range(20)
            ]
        )
    stats = pool.stats()
    best = [float(score) for score in scores[:, -1]]
    assert stats.mean_log_odds == pytest.approx(math.fsum(best) / 20, rel=1e-15)
    rewards = [1 / (1 + math.exp(-score)) if score > -700 else 0.0 for score in best]
    assert stats.mean_reward == pytest.approx(math.fsum(rewards) / 20, rel=1e-14)


def test_pools_of_one_server_are_apart(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    if pool.address.startswith("http"):
        address = f"{pool.address.removesuffix('/main')}/second"
    else:
        address = pool.address.replace("pool=main", "pool=second")
    other = backend.open(spec=address, fingerprint="scorer-b")
    offer = make_offer(pool, "a", 1.0, 1)
    pool.offer(offer)
    other.offer(make_offer(other, "a", 2.0, 2, fingerprint="scorer-b"))
    assert (best(pool, ["a"]), best(other, ["a"])) == ({"a": 1.0}, {"a": 2.0})
    assert other.sweep(0).blobs == 0
    assert pool.sweep(0).blobs == 0
    other.drop()
    with pytest.raises(PoolError, match=r"emptied while the pool was open|there is no pool 'second'"):
        other.offer(make_offer(other, "a", 2.0, 2, fingerprint="scorer-b"))
    assert pool.offer(offer).status == "replaced"
    pool.image(offer.digest)


def test_verify_finds_damage(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    offers = {id: make_offer(pool, id, 1.0, number) for number, id in enumerate("abc")}
    pool.offer_many(list(offers.values()))
    assert pool.verify().whole
    backend.file(offers["a"].digest).unlink()
    backend.file(offers["b"].digest).write_bytes(backend.file(offers["c"].digest).read_bytes())
    found = pool.verify()
    assert (found.entries, found.candidates, found.whole) == (3, 3, False)
    assert {(damage.id, damage.digest) for damage in found.damaged} == {
        (id, offers[id].digest) for id in "ab"
    }
    problems = {damage.id: damage.problem for damage in found.damaged}
    assert "missing" in problems["a"]
    assert "corrupt" in problems["b"]

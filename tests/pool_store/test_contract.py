"""What every backend keeps to."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pool_store.client import Pool, offer_images
from pool_store.engine.images import digest_of
from pool_store.errors import PoolError
from pool_store.schemas import Decision, Entry, Kept, Offer
from rgsud_core.images import Image
from tests.pool_store.answers import best

MakeOffer = Callable[..., Offer]
Picture = Callable[[int], Image]


def scores(pool: Pool, id: str) -> list[float]:
    return [candidate.log_odds for candidate in pool.entries([id])[id].candidates]


def test_first_offer_enters(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    assert pool.entries(["a", "b"]) == {}
    offer = make_offer(pool, "a", -0.25, 1)
    assert pool.offer(offer) == Decision(status="replaced", log_odds=-0.25)
    candidate = Kept(digest=offer.digest, log_odds=-0.25, lineage=offer.lineage)
    assert pool.entries(["a", "b"]) == {"a": Entry(id="a", candidates=(candidate,), replacements=1)}


def test_strictly_higher_wins_and_ties_keep(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    first, tie, lower, higher = (
        make_offer(pool, "a", log_odds, number)
        for number, log_odds in enumerate([1.0, 1.0, 0.5, np.nextafter(1.0, 2)])
    )
    assert [pool.offer(offer).status for offer in (first, tie, lower)] == ["replaced", "kept", "kept"]
    assert pool.entries(["a"])["a"].best.digest == first.digest
    assert pool.offer(higher) == Decision(status="replaced", log_odds=float(np.nextafter(1.0, 2)))
    entry = pool.entries(["a"])["a"]
    assert (entry.best.digest, entry.replacements) == (higher.digest, 2)
    assert (pool.stats().offers, pool.stats().replacements) == (4, 2)


@pytest.mark.parametrize("value", [0.1 + 0.2, -3.4e38, 5e-324, 123456789.12345679, -0.0, 7])
def test_scores_keep_every_digit(backend: Any, make_offer: MakeOffer, value: float) -> None:
    pool = backend.open()
    decision = pool.offer(make_offer(pool, "a", value, 1))
    stats = pool.stats()
    assert [decision.log_odds, best(pool, ["a"])["a"], *scores(pool, "a"), stats.mean_log_odds] == [value] * 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3.5e38])
def test_refuses_scores_that_are_no_finite_float32(backend: Any, make_offer: MakeOffer, value: float) -> None:
    pool = backend.open()
    with pytest.raises(PoolError, match=re.escape(f"score offered is {value}:")):
        make_offer(pool, "a", value, 1)


def test_replay_answers_the_same_and_counts_once(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    offers = [make_offer(pool, "a", log_odds, number) for number, log_odds in enumerate([1.0, 0.5, 2.0])]
    answers = [pool.offer(offer) for offer in offers]
    assert [answer.status for answer in answers] == ["replaced", "kept", "replaced"]
    contents = pool.dump()
    # The first has lost its place by now, yet its client must hear what it would have heard.
    replays = [pool.offer(offer).status for offer in offers]
    assert replays == [answer.status for answer in answers]
    assert pool.dump() == contents


def test_a_batch_offered_again_counts_once(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    batch = [make_offer(pool, id, log_odds, 2) for id, log_odds in (("a", 0.5), ("b", 1.0), ("a", 2.0))]
    first = pool.offer_many(batch)
    assert [decision.status for decision in first] == ["kept", "replaced", "replaced"]
    pool.offer(make_offer(pool, "b", 3.0, 4))
    contents, offers = pool.dump(), pool.stats().offers
    assert [decision.status for decision in pool.offer_many(batch)] == ["kept", "replaced", "replaced"]
    assert pool.dump() == contents
    # In other company nobody can tell the loser from one that comes for the first time.
    assert pool.offer(batch[0]).status == "kept"
    assert pool.stats().offers == offers + 1


def test_a_new_score_for_the_held_image(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open(keep=3)
    for log_odds, status in ((1.0, "replaced"), (0.5, "kept"), (1.5, "replaced")):
        assert pool.offer(make_offer(pool, "a", log_odds, 1)).status == status
    assert scores(pool, "a") == [1.5]


def test_keeps_three_best_first(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open(keep=3)
    for number, log_odds in enumerate([2.0, 1.0, 3.0, 1.0, 2.5, 0.0]):
        answer = pool.offer(make_offer(pool, "a", log_odds, number))
        assert answer.log_odds == max(scores(pool, "a"))
    assert scores(pool, "a") == [3.0, 2.5, 2.0]
    assert [candidate.lineage.step for candidate in pool.entries(["a"])["a"].candidates] == [2, 4, 0]


def test_another_scorers_offers_are_stale(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    before = pool.offer(make_offer(pool, "a", 1.0, 1))
    for id, held in (("a", before.log_odds), ("b", None)):
        stale = make_offer(pool, id, 9.0, 2, fingerprint="scorer-b")
        assert pool.offer(stale) == Decision(status="stale", log_odds=held)
    assert list(pool.entries(["a", "b"])) == ["a"]
    assert (pool.stats().offers, pool.stats().stale) == (1, 2)


def test_opens_for_its_own_scorer_and_keep_only(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    pool.close()
    with pytest.raises(PoolError, match="scorer 'scorer-a', not of 'scorer-b'"):
        backend.open(fingerprint="scorer-b")
    with pytest.raises(PoolError, match="keeps 1 candidates an image, not 3: set keep=1"):
        backend.open(keep=3)
    with pytest.raises(PoolError, match="keep is 0"):
        backend.open(keep=0)
    assert scores(backend.open(), "a") == [1.0]


NAMES = [
    *("day/rain 1", "Größe/雨", "rain (1)#2", "a{b}c/{d}", "x" * 256, "-dash/ blank", "—em—dash–"),
    *(
        "A\u0308 decomposed",
        "ｆｕｌｌ！？＃",
        "12:30:01",
        'what?*|<>"',
        "rain 🌧️👩‍👩‍👧",
        "100%41%2F",
        "a..b/c...",
        "~",
    ),
]


@pytest.mark.parametrize("id", NAMES)
def test_ids_are_relative_paths(backend: Any, make_offer: MakeOffer, picture: Picture, id: str) -> None:
    pool = backend.open()
    pool.offer(make_offer(pool, id, 1.0, 1))
    pool.put_source(id, picture(2))
    assert np.array_equal(pool.source(id), picture(2))
    assert [best(pool, [id]), list(pool.entries([id])), [entry.id for entry in pool.scan()]] == [
        {id: 1.0},
        [id],
        [id],
    ]


def test_many_ids_in_one_call(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    offer = make_offer(pool, "a", 0.0, 1)
    wanted = {f"id{number}": float(number) for number in range(1500)}
    pool.offer_many([offer.model_copy(update={"id": id, "log_odds": wanted[id]}) for id in wanted])
    assert {id: entry.best.log_odds for id, entry in pool.entries([*wanted, "none"]).items()} == wanted
    assert {entry.id: entry.best.log_odds for entry in pool.scan()} == wanted
    assert pool.entries([]) == {}


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 500, 3), (64, 48, 3)])
def test_images_come_back_exactly(backend: Any, shape: tuple[int, int, int]) -> None:
    pool = backend.open()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, shape, dtype=np.uint8)
    for image in (noise, noise[::-1, :, ::-1], np.zeros(shape, np.uint8)):
        back = pool.image(pool.put_image(image))
        assert (back.dtype, back.flags.c_contiguous, back.flags.writeable) == (np.uint8, True, True)
        np.testing.assert_array_equal(back, image)


def test_equal_images_are_stored_once(backend: Any, picture: Picture) -> None:
    pool = backend.open()
    assert pool.put_image(picture(1)) == pool.put_image(np.asfortranarray(picture(1)))
    assert pool.put_image(picture(1)) != pool.put_image(picture(1).reshape(7, 9, 3))
    assert pool.stats().blobs == 2


def test_several_images_are_put_as_if_one_by_one(
    backend: Any, make_offer: MakeOffer, picture: Picture
) -> None:
    pool = backend.open()
    assert pool.put_images([]) == []
    images = [picture(number) for number in (1, 2, 3, 2)]
    digests = pool.put_images(images)
    assert digests == [pool.put_image(image) for image in images]
    for digest, image in zip(digests, images, strict=True):
        np.testing.assert_array_equal(pool.image(digest), image)
    assert pool.offer(make_offer(pool, "a", 1.0, 2)).status == "replaced"
    assert pool.stats().blobs == 3
    with pytest.raises(PoolError, match="uint8 H,W,3 images, not float64"):
        pool.put_images([picture(4), np.zeros((2, 2, 3))])


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_refuses_what_is_no_image(backend: Any, image: Any) -> None:
    with pytest.raises(PoolError, match="takes uint8 H,W,3 images"):
        backend.open().put_image(image)


def test_refuses_an_image_too_large_to_store(backend: Any) -> None:
    with pytest.raises(PoolError, match="16384x1 pixels is too large"):
        backend.open().put_image(np.zeros((1, 16384, 3), np.uint8))


def test_an_image_is_wanted_before_its_offer_is_decided(
    backend: Any, make_offer: MakeOffer, picture: Picture
) -> None:
    pool = backend.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    stored = make_offer(pool, "b", 1.0, 2)
    batch = [
        stored.model_copy(update={"id": id, "log_odds": log_odds, "digest": digest_of(picture(number))})
        for id, log_odds, number in [("a", 0.5, 3), ("a", 2.0, 4), ("a", 1.5, 2), ("c", -1.0, 5)]
    ]
    batch.insert(2, stored)
    before, offers = pool.dump(), pool.stats().offers
    first = [
        Decision(status="kept", log_odds=1.0),
        Decision(status="wanted", log_odds=1.0),
        Decision(status="replaced", log_odds=1.0),
        Decision(status="wanted", log_odds=1.0),  # its image is stored, but it follows one that may win
        Decision(status="wanted", log_odds=None),
    ]
    assert pool.offer_many(batch) == first
    # What is wanted counts nothing, however often it is offered.
    assert pool.offer_many(batch) == first
    assert pool.dump()["entries"]["a"] == before["entries"]["a"]
    assert list(pool.entries("abc")) == ["a", "b"]
    stats = pool.stats()
    assert (stats.offers, stats.replacements) == (offers + 2, 2)

    pool.put_images([picture(4), picture(5)])
    again = [batch[index] for index in (1, 3, 4)]
    assert pool.offer_many(again) == [
        Decision(status="replaced", log_odds=2.0),
        Decision(status="kept", log_odds=2.0),
        Decision(status="replaced", log_odds=-1.0),
    ]
    contents = pool.dump()
    assert [decision.status for decision in pool.offer_many(again)] == ["replaced", "kept", "replaced"]
    assert pool.dump() == contents
    assert pool.stats().offers == offers + 5


def test_only_images_that_would_enter_are_uploaded(
    backend: Any, make_offer: MakeOffer, picture: Picture
) -> None:
    pool = backend.open()
    made = make_offer(pool, "a", 1.0, 1)
    pool.offer(made)
    asked: list[str] = []

    def image_of(digest: str) -> Image:
        asked.append(digest)
        return picture(next(number for number in range(9) if digest_of(picture(number)) == digest))

    offers = [
        made.model_copy(update={"id": id, "log_odds": log_odds, "digest": digest_of(picture(number))})
        for id, log_odds, number in [
            ("a", 0.5, 2),
            ("b", 0.5, 3),
            ("a", 3.0, 4),
            ("c", 0.5, 3),
            ("d", 1.0, 1),
        ]
    ]
    statuses = [decision.status for decision in offer_images(pool, offers, image_of)]
    assert statuses == ["kept", "replaced", "replaced", "replaced", "replaced"]
    assert asked == [digest_of(picture(number)) for number in (3, 4)]
    assert pool.stats().offers == 6
    for entry in pool.scan():
        pool.image(entry.best.digest)


def test_an_image_that_is_another_is_not_offered_without_end(
    backend: Any, make_offer: MakeOffer, picture: Picture
) -> None:
    pool = backend.open()
    offer = make_offer(pool, "a", 1.0, 1).model_copy(update={"digest": "0" * 64})
    with pytest.raises(PoolError, match="the image of 'a' was removed before it was decided on"):
        offer_images(pool, [offer], lambda _: picture(1))
    assert pool.entries(["a"]) == {}


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage", "other pixels"])
def test_names_the_damaged_blob(backend: Any, picture: Picture, damage: str) -> None:
    pool = backend.open()
    digest = pool.put_image(picture(1))
    file = backend.file(digest)
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "garbage":
        file.write_bytes(b"no image")
    else:
        file.write_bytes(backend.file(pool.put_image(picture(2))).read_bytes())
    with pytest.raises(PoolError, match=digest):
        pool.image(digest)


def test_stats_are_exact(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    empty = pool.stats()
    assert (empty.entries, empty.acceptance, empty.mean_reward, empty.mean_log_odds) == (0, 0.0, None, None)
    for number, (id, log_odds) in enumerate(
        [("a", 0.0), ("a", math.log(3)), ("a", 1.0), ("b", -900.0), ("c", 900.0)]
    ):
        pool.offer(make_offer(pool, id, log_odds, number))
    stats = pool.stats()
    assert (stats.entries, stats.offers, stats.replacements, stats.stale) == (3, 5, 4, 0)
    assert stats.acceptance == 4 / 5
    assert stats.mean_reward == pytest.approx((0.75 + 0 + 1) / 3, rel=1e-15)
    assert stats.mean_log_odds == math.log(3) / 3
    assert (stats.blobs, stats.blob_bytes) == (5, sum(file.stat().st_size for file in backend.files()))

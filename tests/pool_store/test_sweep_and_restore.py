"""What every backend keeps to when images are swept and dumps are restored."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pool_store.errors import PoolError
from pool_store.schemas import Offer
from rgsud_core.images import Image

MakeOffer = Callable[..., Offer]
Picture = Callable[[int], Image]
HOUR = 3600.0


def test_sweep_removes_replaced_images_and_orphans_after_the_grace(
    backend: Any, make_offer: MakeOffer, picture: Picture
) -> None:
    pool = backend.open()
    replaced, best = (make_offer(pool, "a", log_odds, number) for number, log_odds in enumerate([1.0, 2.0]))
    pool.offer(replaced)
    pool.offer(best)
    orphan = pool.put_image(picture(7))
    (backend.file(orphan).parent / "leftover.tmp").write_bytes(b"half")

    assert pool.sweep(HOUR).blobs == 0
    backend.age(2 * HOUR)
    # Replaced a moment ago, so an older dump may still name it, however old the image itself is.
    assert pool.sweep(HOUR).blobs == 2
    assert {file.stem for file in backend.files()} == {replaced.digest, best.digest}

    size = backend.file(replaced.digest).stat().st_size
    swept = pool.sweep(0)
    assert (swept.blobs, swept.bytes) == (1, size)
    assert [file.stem for file in backend.files()] == [best.digest]
    assert pool.sweep(0).blobs == 0


def test_sweep_spares_an_old_image_that_is_put_again(backend: Any, picture: Picture) -> None:
    pool = backend.open()
    digest = pool.put_image(picture(1))
    backend.age(2 * HOUR)
    assert pool.put_image(picture(1)) == digest
    assert pool.sweep(HOUR).blobs == 0


def test_sweep_spares_an_image_that_another_entry_still_holds(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    for id, log_odds, number in (("a", 1.0, 1), ("b", 1.0, 1), ("a", 2.0, 2)):
        pool.offer(make_offer(pool, id, log_odds, number))
    assert pool.sweep(0).blobs == 0
    pool.image(pool.entries(["b"])["b"].best.digest)


def test_restore_brings_back_the_pool_of_the_dump(
    backend: Any, make_offer: MakeOffer, picture: Picture
) -> None:
    pool = backend.open()
    for number, (id, log_odds) in enumerate([("a", 0.1 + 0.2), ("a", 0.1), ("b", -1.0)]):
        pool.offer(make_offer(pool, id, log_odds, number))
    dump, entries, stats = pool.dump(), pool.entries("ab"), pool.stats()
    dump = json.loads(json.dumps(dump))
    for number, (id, log_odds) in enumerate([("a", 5.0), ("c", 5.0), ("a", 4.0)], start=10):
        pool.offer(make_offer(pool, id, log_odds, number))
    backend.age(2 * HOUR)
    pool.sweep(HOUR)

    pool.restore(dump)
    assert pool.dump() == dump
    assert pool.entries("abc") == entries
    after = pool.stats()
    apart: dict[str, Any] = {"blobs": 0, "blob_bytes": 0, "ages": None}
    assert after.model_copy(update=apart) == stats.model_copy(update=apart)
    np.testing.assert_array_equal(pool.image(entries["a"].best.digest), picture(0))

    # What the restore dropped is an orphan now, and what it brought back is not.
    pool.sweep(0)
    assert {file.stem for file in backend.files()} == {entry.best.digest for entry in entries.values()}
    assert pool.offer(make_offer(pool, "a", 5.0, 10)).status == "replaced"


def test_restore_goes_back_and_forth(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    early = pool.dump()
    pool.offer(make_offer(pool, "a", 2.0, 2))
    late = pool.dump()
    backend.age(2 * HOUR)
    for dump in (early, late, early):
        pool.restore(dump)
        backend.age(2 * HOUR)
        assert pool.sweep(HOUR).blobs == 0
        assert pool.dump() == dump


def test_restore_survives_reopening(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    dump = pool.dump()
    pool.offer(make_offer(pool, "a", 2.0, 2))
    pool.restore(dump)
    pool.close()
    assert backend.open().dump() == dump


def test_restore_refuses_what_it_cannot_bring_back(backend: Any, make_offer: MakeOffer) -> None:
    pool = backend.open()
    lost = make_offer(pool, "a", 1.0, 1)
    pool.offer(lost)
    old = pool.dump()
    pool.offer(make_offer(pool, "a", 2.0, 2))
    pool.sweep(0)
    contents = pool.dump()
    for changes, message in (
        ({}, f"1 of the dump's 1 images have been swept from .*, the first is {lost.digest}"),
        ({"fingerprint": "scorer-b"}, "the dump holds scores of scorer 'scorer-b'"),
        ({"keep": "2"}, "the dump keeps 2 candidates"),
        ({"format": "1"}, "the dump has format 1, not 3: use the version that wrote it"),
    ):
        with pytest.raises(PoolError, match=message):
            pool.restore({**old, "meta": {**old["meta"], **changes}})
        assert pool.dump() == contents

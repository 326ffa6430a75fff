"""A pool's images on disk and in object stores, and how the storage's errors are the pool's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pool_store.engine.images import Blobs
from pool_store.errors import PoolError, PoolFull
from pool_store.schemas import Offer
from rgsud_core import objects as storage
from rgsud_core.images import Image
from rgsud_core.objects import open_storage
from tests.object_stores import memory, place, s3

__all__ = ["memory", "place", "s3"]

Picture = Callable[[int], Image]


def test_images_and_sweeps(place: str, picture: Picture) -> None:
    blobs = Blobs(open_storage(place, "a"))
    held, loose = blobs.put(picture(1)), blobs.put(picture(2))
    assert held.added > 0
    assert blobs.put(picture(1)) == (held.digest, 0)
    np.testing.assert_array_equal(blobs.get(held.digest), picture(1))
    blobs.put_source("id", picture(3))
    swept, usage = blobs.sweep({bytes.fromhex(held.digest)}, 3600)
    assert (swept.blobs, usage) == (0, (2, held.added + loose.added))
    swept, usage = blobs.sweep({bytes.fromhex(held.digest)}, 0)
    assert (swept.blobs, swept.bytes) == (1, loose.added)
    assert usage == (1, held.added)
    assert blobs.touch(held.digest)
    assert blobs.source("id") is not None


def test_a_pool_with_its_images_in_an_object_store(
    server: str, s3: str, make_offer: Callable[..., Offer], tcp: Any
) -> None:
    pool = tcp.open(spec=f"{server}/0?blobs={s3}")
    offer = make_offer(pool, "a", 1.0, 1)
    assert pool.offer(offer).status == "replaced"
    assert tcp.open(spec=pool.address).image(offer.digest).shape == (9, 7, 3)
    better = offer.model_copy(update={"log_odds": 2.0, "digest": "0" * 64})
    assert pool.offer(better).status == "wanted"
    pool.drop()
    assert list(open_storage(s3, "main").items()) == []


def test_an_unknown_place_is_an_error_of_the_pool(server: str, tcp: Any) -> None:
    with pytest.raises(
        PoolError, match="unknown place for objects 'ftp://host/x': use a folder, or one of s3://"
    ):
        tcp.open(spec=f"{server}/0?blobs=ftp://host/x")


def test_a_full_disk_is_a_full_pool(embedded: Any, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = embedded.open()
    monkeypatch.setattr(storage, "RESERVE", 1 << 60)
    with pytest.raises(PoolFull, match="No space left on device"):
        pool.put_image(picture(1))

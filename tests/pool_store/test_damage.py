"""Damaged images and settings: named in a sentence, mended by what is put again, never served as if whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from pool_store.engine.images import digest_of
from pool_store.engine.pages import page
from pool_store.errors import PoolConflict, PoolError
from pool_store.schemas import Offer
from rgsud_core.images import Image
from tests.patience import PATIENCE
from tests.pool_store.conftest import Backend

MakeOffer = Callable[..., Offer]
Picture = Callable[[int], Image]


def larger(whole: bytes) -> bytes:
    """With the header of an image of 16384x16384 pixels, which nobody is to decode."""
    return whole[:21] + b"\xff\xff\xff\x0f" + whole[25:]


DAMAGE: dict[str, Callable[[bytes, bytes], bytes]] = {
    "empty": lambda whole, other: b"",
    "truncated": lambda whole, other: whole[: len(whole) // 2],
    "garbage": lambda whole, other: b"no image",
    "other pixels": lambda whole, other: other,
    "a flipped bit": lambda whole, other: whole[:60] + bytes([whole[60] ^ 4]) + whole[61:],
    "zeros": lambda whole, other: bytes(len(whole)),
    "another size": lambda whole, other: larger(whole),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_an_image_that_is_damaged_can_be_put_again(
    backend: Any, make_offer: MakeOffer, picture: Picture, damage: str, many: bool
) -> None:
    pool = backend.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    digest, file = digest_of(picture(1)), backend.file(digest_of(picture(1)))
    file.write_bytes(DAMAGE[damage](file.read_bytes(), backend.file(pool.put_image(picture(2))).read_bytes()))
    with pytest.raises(PoolError, match=f"{digest}.* corrupt .*put that image again"):
        pool.image(digest)
    assert [found.digest for found in pool.verify().damaged] == [digest]
    if backend.spec.startswith("http"):
        served = httpx.get(f"{backend.spec}/v1/pools/main/blobs/{digest}", timeout=PATIENCE)
        assert (served.status_code, "is corrupt" in served.json()["detail"]) == (500, True)
    before = pool.stats().blobs
    if many:
        pool.put_images([picture(1), picture(3)])
    else:
        pool.put_image(picture(1))
    assert pool.verify().whole
    assert (pool.image(digest) == picture(1)).all()
    assert pool.stats().blobs == before + many
    pool.sweep(0)
    assert pool.stats().blob_bytes == sum(path.stat().st_size for path in backend.files())


def test_the_images_of_another_place_are_no_images_of_the_pool(
    tcp: Backend, make_offer: MakeOffer, tmp_path: Path
) -> None:
    pool = tcp.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    url = tcp.spec.partition("?")[0]
    with pytest.raises(
        PoolConflict, match=r"elsewhere/main does not hold the images of the pool 'main' in .*blobs="
    ):
        tcp.open(spec=f"{url}?blobs={tmp_path / 'elsewhere'}")
    tcp.open(spec=f"{url}?blobs={tmp_path / 'elsewhere'}&pool=other")
    # Moved with all that is in it, it is the same place.
    shutil.move(tmp_path / "blobs", tmp_path / "moved")
    with pytest.raises(PoolConflict, match="does not hold the images"):
        tcp.open()
    assert tcp.open(spec=f"{url}?blobs={tmp_path / 'moved'}").verify().whole


def test_a_pool_of_an_earlier_version_learns_its_place(
    tcp: Backend, server: str, make_offer: MakeOffer, tmp_path: Path
) -> None:
    pool = tcp.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    with redis.Redis.from_url(server) as client:
        client.hdel("{rgsud:main:0}:meta", "marked")
    shutil.rmtree(tmp_path / "blobs" / "main" / "pools")
    assert tcp.open().verify().whole
    with pytest.raises(PoolConflict, match="does not hold the images"):
        tcp.open(spec=f"{tcp.spec.partition('?')[0]}?blobs={tmp_path / 'elsewhere'}")


HARM: dict[str, tuple[str, ...]] = {
    **{f"no {field}": ("HDEL", "meta", field) for field in ("birth", "fingerprint", "keep", "format", "sum")},
    **{
        f"{field} of '{value}'": ("HSET", "meta", field, value)
        for field in ("keep", "history", "subpools", "sum", "rewards_rest", "generation")
        for value in ("x", "", "١")
    },
    "no settings": ("DEL", "meta"),
    "a short record": ("HSET", "entries", "a", "xx"),
    "a long record": ("HSET", "entries", "a", "x" * 61),
    "no record": ("HDEL", "entries", "a"),
    "no score": ("ZREM", "best", "a"),
    "a record of no source": ("DEL", "sources"),
    "a source of no number": ("HSET", "sources", "\1\0\0run", "x"),
    "a minute of no numbers": ("HSET", "timeline", "{minute}", "x"),
    "a history of no items": ("HSET", "history", "a", "xx"),
    "a counter of no number": ("HSET", "meta", "offers", "x"),
    "an id that is no text": ("ZADD", "best", "1", "\udcff"),
    "a late id that is no text": ("ZADD", "latest", "1", "\udcff"),
}


def refusal(act: Callable[[], object]) -> str | None:
    try:
        act()
    except PoolError as error:
        return str(error)
    return None


@pytest.mark.parametrize("harm", HARM)
def test_contents_that_are_damaged_are_named_and_a_batch_fails_whole(
    tcp: Backend, server: str, make_offer: MakeOffer, harm: str
) -> None:
    """As in a folder of somebody else; whatever works must be whole, and what does not is one sentence."""
    pool: Any = tcp.open(keep=2, history=2)
    for number, id in enumerate("aabc"):
        pool.offer(make_offer(pool, id, float(number), number))
    batch = [make_offer(pool, id, 9.0, 10 + number) for number, id in enumerate("abcd")]
    with redis.Redis.from_url(server) as client:
        command, key, *rest = HARM[harm]
        minute = str(client.time()[0] // 60)
        words = [word.replace("{minute}", minute).encode("utf-8", "surrogateescape") for word in rest]
        client.execute_command(command, f"{{rgsud:main:0}}:{key}", *words)

        def contents() -> dict[bytes, Any]:
            keys = [key for key in client.keys("{rgsud:main:*") if not key.endswith(b":sources")]
            return {key: client.dump(key) for key in keys}

        acts: list[Callable[[], object]] = [
            lambda: pool.offer_many(batch),
            lambda: list(pool.scan()),
            lambda: pool.entries(["a", "b", "d"]),
            lambda: pool.history("a"),
            lambda: page(pool.shards, "worst", 0, 10),
            lambda: page(pool.shards, "best", 0, 10, contains="a"),
            lambda: page(pool.shards, "recent", 0, 10),
            pool.stats,
            pool.dump,
            pool.verify,
            lambda: pool.sweep(3600),
            lambda: tcp.open(None),
            lambda: tcp.open(None).scan(),
        ]
        before = contents()
        refused = refusal(acts[0])
        assert refused is None or contents() == before
        for act in acts:
            assert "\n" not in (refusal(act) or "")

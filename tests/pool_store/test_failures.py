"""Wrong addresses, servers that refuse, full disks: one sentence each, and the pool stays whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pool_store.blobs import Image
from pool_store.client import open_pool
from pool_store.errors import PoolError
from pool_store.schemas import Offer


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("memcached://host", "unknown pool 'memcached://host': use one of embedded:FOLDER, redis://"),
        ("embedded:", "unknown pool 'embedded:'"),
        ("runs/pool", "unknown pool 'runs/pool'"),
        ("redis://host:6379/0", "pool at redis://host:6379/0 needs a place for its images.* \\?blobs=FOLDER"),
        ("redis://host/0?blobs=a&blob=b", "unknown option 'blob' in .*: use blobs"),
        ("embedded:a?fsync=never", "cannot be synced 'never': use fsync=always or fsync=everysec"),
        ("embedded:a?pool=A", "'A' cannot name a pool"),
        ("redis://host:port/0?blobs=a", "address is wrong"),
        ("redis://[host/0?blobs=a", "address is wrong"),
    ],
)
def test_names_the_wrong_address(spec: str, message: str) -> None:
    with pytest.raises(PoolError, match=message):
        open_pool(spec, fingerprint="scorer-a")


def test_names_the_server_out_of_reach_and_no_password(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"the pool at redis://127.0.0.1:1/0 does not serve") as caught:
        open_pool(f"redis://user:secret@127.0.0.1:1/0?blobs={tmp_path}", fingerprint="scorer-a")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def configure(server: str) -> Iterator[Callable[[str, Any], object]]:
    with redis.Redis.from_url(server) as client:
        yield client.config_set
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")


def test_a_full_server_refuses_offers_and_goes_on_reading(
    tcp: Any, make_offer: Callable[..., Offer], configure: Callable[[str, Any], object]
) -> None:
    pool = tcp.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    offer = make_offer(pool, "a", 2.0, 2)
    configure("maxmemory", 1)
    with pytest.raises(PoolError, match=r"does not serve .*maxmemory"):
        pool.offer(offer)
    assert pool.peek(["a"]) == {"a": 1.0}
    configure("maxmemory", 0)
    assert pool.offer(offer).status == "replaced"


def test_refuses_a_server_that_may_evict_rewards(tcp: Any, configure: Callable[[str, Any], object]) -> None:
    configure("maxmemory", "100mb")
    configure("maxmemory-policy", "allkeys-lru")
    with pytest.raises(PoolError, match="may evict rewards: set its maxmemory-policy to noeviction"):
        tcp.open()


def test_a_database_emptied_underneath_refuses_offers(
    tcp: Any, server: str, make_offer: Callable[..., Offer]
) -> None:
    pool = tcp.open()
    offer = make_offer(pool, "a", 1.0, 1)
    with redis.Redis.from_url(server) as client:
        client.flushall()
    with pytest.raises(PoolError, match="the database was emptied while the pool was open"):
        pool.offer(offer)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_pool_whole(
    backend: Any,
    make_offer: Callable[..., Offer],
    picture: Callable[[int], Image],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    pool = backend.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    before = backend.files()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(
            PoolError, match=f"cannot write a blob to {backend.blobs}: No space left on device"
        ):
            pool.put_image(picture(2))
    assert backend.files() == before
    assert pool.offer(make_offer(pool, "a", 2.0, 2)).status == "replaced"
    pool.image(pool.entries(["a"])["a"].best.digest)

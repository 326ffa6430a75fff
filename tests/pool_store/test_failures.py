"""Wrong addresses, servers that refuse, full disks: one sentence each, and the pool stays whole."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from pool_store.client import open_pool
from pool_store.engine.connection import DurabilityWarning
from pool_store.errors import PoolError, PoolFull, PoolMissing, PoolUnavailable
from pool_store.schemas import Offer
from rgsud_core.images import Image
from tests.patience import wait_until
from tests.pool_store.answers import best
from tests.pool_store.servers import free_port, redis_server


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
    assert best(pool, ["a"]) == {"a": 1.0}
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


def test_a_full_disk_leaves_a_rainy_image_as_it_was(
    backend: Any, picture: Callable[[int], Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = backend.open()
    pool.put_source("a", picture(1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PoolError, match="No space left"):
            pool.put_source("a", picture(2))
    np.testing.assert_array_equal(pool.source("a"), picture(1))


def test_goes_on_when_its_server_is_back(tmp_path: Path, make_offer: Callable[..., Offer]) -> None:
    settings = {"appendonly": "yes", "appendfsync": "always", "port": free_port()}
    with redis_server(tmp_path, **settings) as port:
        pool = open_pool(f"redis://127.0.0.1:{port}/0?blobs={tmp_path / 'blobs'}", fingerprint="scorer-a")
        pool.offer(make_offer(pool, "a", 1.0, 1))
        offer = make_offer(pool, "a", 2.0, 2)
    with pytest.raises(PoolUnavailable, match="does not serve"):
        pool.offer(offer)
    with redis_server(tmp_path, **settings):
        # It knows neither the scripts nor the connections of its predecessor.
        assert best(pool, ["a"]) == {"a": 1.0}
        assert pool.offer(offer).status == "replaced"
        assert [entry.best.log_odds for entry in pool.scan()] == [2.0]
        pool.close()


def test_a_replica_refuses_offers_and_goes_on_reading(
    redis_tcp: Any, redis7: str, make_offer: Callable[..., Offer]
) -> None:
    pool = redis_tcp.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    offer = make_offer(pool, "a", 2.0, 2)
    with redis.Redis.from_url(redis7) as client:
        client.config_set("replica-serve-stale-data", "yes")
        client.replicaof("127.0.0.1", 1)
        try:
            with pytest.raises(
                PoolUnavailable,
                match=r"does not serve \([^:]*read only[^:]*\): give the address of its primary",
            ):
                pool.offer(offer)
            assert best(pool, ["a"]) == {"a": 1.0}
        finally:
            client.replicaof("NO", "ONE")
    assert pool.offer(offer).status == "replaced"


def test_a_server_that_cannot_persist_refuses_offers(
    tmp_path: Path, make_offer: Callable[..., Offer]
) -> None:
    with redis_server(tmp_path, save="3600 1") as port, warnings.catch_warnings():
        warnings.simplefilter("ignore", DurabilityWarning)
        pool = open_pool(f"redis://127.0.0.1:{port}/0?blobs={tmp_path / 'blobs'}", fingerprint="scorer-a")
        offer = make_offer(pool, "a", 1.0, 1)
        with redis.Redis(port=port) as client:
            (tmp_path / "dump.rdb").mkdir()
            client.bgsave()
            wait_until(
                lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the save succeeds"
            )
            with pytest.raises(PoolFull, match=r"MISCONF.*make room on the disk of its server"):
                pool.offer(offer)
            (tmp_path / "dump.rdb").rmdir()
            client.save()
        assert pool.offer(offer).status == "replaced"
        pool.close()


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({}, "", "keeps no append-only log: .*set appendonly yes"),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "", "appendfsync everysec': a power cut may cost"),
        ({"appendonly": "yes", "appendfsync": "no"}, "&fsync=everysec", "appendfsync no': a power cut may"),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "&fsync=everysec", None),
        ({"appendonly": "yes", "appendfsync": "always"}, "", None),
    ],
)
def test_warns_of_a_server_that_may_lose_rewards(
    tmp_path: Path, settings: dict[str, str], options: str, message: str | None
) -> None:
    with redis_server(tmp_path, **settings) as port, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", DurabilityWarning)
        spec = f"redis://127.0.0.1:{port}/0?blobs={tmp_path / 'blobs'}{options}"
        open_pool(spec, fingerprint="scorer-a").close()
    messages = [str(warning.message) for warning in told if warning.category is DurabilityWarning]
    assert len(messages) == (message is not None)
    if message:
        assert re.search(message, messages[0])


@pytest.mark.parametrize(("key", "format"), [("{rgsud}:meta", "1"), ("{rgsud:main:0}:meta", "3")])
def test_a_pool_of_an_old_format_is_named(tcp: Any, server: str, key: str, format: str) -> None:
    with redis.Redis.from_url(server) as client:
        client.hset(key, mapping={"format": format, "fingerprint": "scorer-a", "keep": 1})
    with pytest.raises(PoolError, match=f"has format {format}, not 4: use the version that wrote it"):
        tcp.open()


def test_what_is_left_of_a_dropped_pool_is_not_taken_for_an_empty_one(
    tcp: Any, make_offer: Callable[..., Offer]
) -> None:
    pool = tcp.open()
    pool.offer(make_offer(pool, "a", 1.0, 1))
    tcp.open(spec=pool.address).drop()
    for read in (pool.verify, pool.dump, lambda: [*pool.scan()], lambda: pool.sweep(0)):
        with pytest.raises(PoolError, match="was emptied while the pool was open"):
            read()


def test_a_pool_taken_as_it_is(tcp: Any) -> None:
    with pytest.raises(PoolMissing, match=r"there is no pool 'main' in .*: make it first"):
        tcp.open(fingerprint=None)
    tcp.open(keep=3)
    assert (tcp.open(fingerprint=None).fingerprint, tcp.open(fingerprint=None).keep) == ("scorer-a", 3)

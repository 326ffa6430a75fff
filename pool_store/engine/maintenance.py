"""What keeps a pool's images in order: the sweep of what nobody needs, the search for damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pool_store.engine import records
from pool_store.errors import PoolError, PoolUnavailable
from pool_store.schemas import Damage, Swept, Verified

if TYPE_CHECKING:
    from pool_store.engine.pool import RewardPool

PAGE = 1000
OTHERS = (
    *("best", "released", "histogram", "timeline", "latest", "history", "sources"),
    *("replays:0", "replays:1"),
)
"""A sub-pool's keys besides `meta` and the buckets."""


def sweep(pool: RewardPool, grace_seconds: float) -> Swept:
    """See `RewardPool.sweep`. Holds the digests of all candidates in memory: some 100 bytes each."""
    referenced: set[bytes] = set()
    kept: list[list[str]] = []
    for _, _, _, record in pool.scan_records():
        digests = records.digests(record)
        referenced.update(digests)
        if len(digests) > 1:
            kept.append([digest.hex() for digest in digests])
    # After the scan: what was replaced while it ran is either still in it or already here.
    horizon = pool.server.now() - grace_seconds
    for subpool in range(pool.subpools):
        referenced.update(_released(pool, subpool, horizon))
    meta = pool.key(0, "meta")
    pool.count_blobs()
    blobs = size = 0
    for subpool in range(pool.subpools):
        with pool.server.answering():
            counts = pool.server.client.hmget(pool.key(subpool, "meta"), "blobs", "blob_bytes")
        blobs, size = blobs + int(counts[0] or 0), size + int(counts[1] or 0)
    swept, (left, left_size) = pool.blobs.sweep(referenced, kept, grace_seconds)
    # What was found is what there is: a crash, or a lost answer, may have left the counts off.
    with pool.server.answering(), pool.server.transaction() as pipe:
        pipe.hincrby(meta, "blobs", left - blobs)
        pipe.hincrby(meta, "blob_bytes", left_size - size)
        pipe.execute()
    return swept


def _released(pool: RewardPool, subpool: int, horizon: float) -> set[bytes]:
    """The digests replaced since the horizon; earlier ones are forgotten."""
    recent: set[bytes] = set()
    key, start = pool.key(subpool, "released"), 0
    while True:
        with pool.server.answering(), pool.server.transaction() as pipe:
            page = pool.server.client.lrange(key, start, start + PAGE - 1)
            late = [item for item in page if int.from_bytes(item[32:]) > horizon]
            recent.update(item[:32] for item in late)
            # One by one, at the head of the list: another sweep may be at the same.
            for item in page:
                if int.from_bytes(item[32:]) <= horizon:
                    pipe.lrem(key, 1, item)
            pipe.execute()
        start += len(late)
        if len(page) < PAGE:
            return recent


def verify(pool: RewardPool) -> Verified:
    """See `RewardPool.verify`."""
    entries = candidates = 0
    damaged: list[Damage] = []
    for entry in pool.scan():
        entries += 1
        for candidate in entry.candidates:
            candidates += 1
            try:
                pool.blobs.get(candidate.digest)
            except PoolUnavailable:
                raise
            except PoolError as error:
                if not _replaced(pool, entry.id, candidate.digest):
                    damaged.append(Damage(id=entry.id, digest=candidate.digest, problem=str(error)))
    return Verified(entries=entries, candidates=candidates, damaged=tuple(damaged))


def _replaced(pool: RewardPool, id: str, digest: str) -> bool:
    """Whether the entry has let go of the image, which a sweep may have taken, since it was read."""
    entry = pool.entries([id]).get(id)
    return entry is None or digest not in {candidate.digest for candidate in entry.candidates}


def drop(pool: RewardPool, registry: bytes) -> None:
    """See `RewardPool.drop`; `registry` is the key of the set that has the pools' names."""
    client = pool.server.client
    with pool.server.answering():
        for subpool in range(pool.subpools):
            buckets = int(client.hget(pool.key(subpool, "meta"), "buckets") or 0)
            client.unlink(pool.key(subpool, "meta"))
            for start in range(0, buckets, PAGE):
                numbers = range(start, min(start + PAGE, buckets))
                client.unlink(*(pool.key(subpool, f"b:{number}") for number in numbers))
            client.unlink(*(pool.key(subpool, key) for key in OTHERS))
        client.srem(registry, pool.name)
    pool.blobs.clear()

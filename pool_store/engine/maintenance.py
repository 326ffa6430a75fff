"""Sweeping of images that no entry refers to, verification of those that are, removal of a pool."""

from __future__ import annotations

from functools import partial

from pool_store.engine import records
from pool_store.engine.connection import Script
from pool_store.engine.shards import KEYS, PAGE, REGISTRY, Shards
from pool_store.errors import PoolError, PoolUnavailable
from pool_store.schemas import Damage, Swept, Verified

DROP = Script("drop")


def sweep(shards: Shards, grace_seconds: float) -> Swept:
    """See `RewardPool.sweep`. Holds the digests of all candidates in memory: some 100 bytes each."""
    referenced: set[bytes] = set()
    for _, _, _, record in shards.scan_records():
        referenced.update(records.digests(record))
    # After the scan: what was replaced while it ran is either still in it or already here.
    horizon = shards.server.now() - grace_seconds
    for shard in range(shards.count):
        referenced.update(_released(shards, shard, horizon))
    stored = shards.transact_all(lambda pipe, key: pipe.hmget(key("meta"), "blobs", "blob_bytes"))
    blobs, size = (sum(int(counts[which] or 0) for [counts] in stored) for which in (0, 1))
    swept, (left, left_size) = shards.blobs.sweep(referenced, grace_seconds)
    # The images found are the truth: a crash, or a lost answer, may have left the counts off.
    shards.amend("HINCRBY", blobs=left - blobs, blob_bytes=left_size - size)
    return swept


def _released(shards: Shards, shard: int, horizon: float) -> set[bytes]:
    """The digests replaced since the horizon; earlier ones are removed from the list."""
    recent: set[bytes] = set()
    key, start = shards.key(shard, "released"), 0
    while True:
        with shards.server.answering(), shards.server.transaction() as pipe:
            page = shards.server.client.lrange(key, start, start + PAGE - 1)
            late = [item for item in page if int.from_bytes(item[32:]) > horizon]
            recent.update(item[:32] for item in late)
            # One by one, at the head of the list: another sweep may be removing them too.
            for item in page:
                if int.from_bytes(item[32:]) <= horizon:
                    pipe.lrem(key, 1, item)
            pipe.execute()
        start += len(late)
        if len(page) < PAGE:
            return recent


def verify(shards: Shards) -> Verified:
    """See `RewardPool.verify`."""
    entries = candidates = 0
    damaged: list[Damage] = []
    for entry in shards.scan():
        entries += 1
        for candidate in entry.candidates:
            candidates += 1
            try:
                shards.blobs.get(candidate.digest)
            except PoolUnavailable:
                raise
            except PoolError as error:
                if not _replaced(shards, entry.id, candidate.digest):
                    damaged.append(Damage(id=entry.id, digest=candidate.digest, problem=str(error)))
    return Verified(entries=entries, candidates=candidates, damaged=tuple(damaged))


def _replaced(shards: Shards, id: str, digest: str) -> bool:
    """Whether the candidate has been replaced since it was read: a sweep may have removed its image."""
    entry = shards.entries([id]).get(id)
    return entry is None or digest not in {candidate.digest for candidate in entry.candidates}


def drop(shards: Shards, birth: str) -> None:
    """Removes the pool of that birth: see `RewardPool.drop`. One that was interrupted is ended by the next.

    Until its images are gone the first shard tells that the pool is being removed, so that none of the same
    name is made meanwhile, whose images would go with them.
    """
    run = partial(shards.server.run, DROP, shards.key(0, "meta"))
    if not run([birth, "begin", *KEYS]):
        return
    shards.count = int(shards.meta().get("subpools", 1))
    for shard in range(1, shards.count):
        shards.transact(shard, lambda pipe, key: pipe.unlink(*map(key, KEYS)))
    shards.blobs.clear(lambda: shards.meta().get("dropping") == birth)
    with shards.server.answering():
        shards.server.client.srem(REGISTRY, shards.name)
    run([birth, "end"])

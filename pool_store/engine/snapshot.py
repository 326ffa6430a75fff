"""A pool's contents as one JSON value, and back."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from pool_store.engine import records
from pool_store.engine.batches import batched
from pool_store.engine.connection import Script
from pool_store.engine.dump_schema import check_dump
from pool_store.errors import PoolError
from pool_store.schemas import Entry, HistoryItem, PoolSettings

if TYPE_CHECKING:
    from pool_store.engine.pool import RewardPool

FORMAT = "3"
SCAN = Script("scan")
_SETTINGS = ("format", "fingerprint", "keep", "history")
_SUMS = (("sum", "sum_rest"), ("rewards", "rewards_rest"))
_COUNTERS = ("offers", "replacements", "stale")
_HISTORY: TypeAdapter[list[HistoryItem]] = TypeAdapter(list[HistoryItem])
PAGE = 1000
LATEST = 512


def snapshot(pool: RewardPool) -> dict[str, Any]:
    """`meta`: settings, counters, sums, histogram and timeline; `entries`: by id, with their history."""
    meta: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    parts: dict[str, list[float]] = defaultdict(list)
    bins: Counter[str] = Counter()
    minutes: dict[str, Counter[str]] = defaultdict(Counter)
    entries: dict[str, Any] = {}
    for subpool in range(pool.subpools):
        _, birth, found, *fields = pool.server.run(SCAN, pool.key(subpool, "meta"), [0, -1])
        pool.born(subpool, birth)
        stored, histogram, timeline, past = (
            dict(zip(pairs[::2], pairs[1::2], strict=True)) for pairs in fields
        )
        text = {field.decode(): value.decode() for field, value in stored.items()}
        if subpool == 0:
            meta = {field: text[field] for field in (*_SETTINGS, *(["size"] if "size" in text else []))}
        for field, value in text.items():
            if field in _COUNTERS or field.startswith("stage:"):
                counts[field] += int(value)
        for pair in _SUMS:
            parts[pair[0]] += (float(text[field]) for field in pair)
        for bin, number in histogram.items():
            bins[bin.decode()] += int(number)
        for minute, pair in timeline.items():
            offers, replacements = map(int, pair.split())
            minutes[minute.decode()].update(offers=offers, replacements=replacements)
        for _, id, score, record in records.scanned(found):
            entry = pool.unpack(subpool, id, score, record).model_dump(mode="json", exclude={"id"})
            history = records.unpack_history(past.get(id.encode(), b""))
            entries[id] = {**entry, "history": [item.model_dump() for item in history]}
    for high, low in _SUMS:
        total = math.fsum(parts[high])
        meta[high], meta[low] = repr(total), repr(math.fsum([*parts[high], -total]))
    meta |= {field: str(value) for field, value in sorted(counts.items())}
    meta["histogram"] = {bin: bins[bin] for bin in sorted(bins, key=int) if bins[bin]}
    meta["timeline"] = {minute: dict(minutes[minute]) for minute in sorted(minutes, key=int)}
    return {"meta": meta, "entries": {id: entries[id] for id in sorted(entries)}}


def restore(pool: RewardPool, state: Mapping[str, Any]) -> None:
    """Makes the contents those of a `snapshot`, at once in every sub-pool; see `RewardPool.restore`."""
    check_dump(state)
    meta = dict(state["meta"])
    wanted = PoolSettings(fingerprint=pool.fingerprint, keep=pool.keep)
    pool.check("the dump", meta, wanted)
    entries, histories = [], {}
    for id, fields in state["entries"].items():
        history = _HISTORY.validate_python(fields["history"])
        entries.append(Entry(id=id, **{name: value for name, value in fields.items() if name != "history"}))
        histories[id] = history[: pool.history_length]
    referenced = {candidate.digest for entry in entries for candidate in entry.candidates}
    missing = sorted(digest for digest in referenced if not pool.blobs.touch(digest))
    if missing:
        raise PoolError(
            f"{len(missing)} of the dump's {len(referenced)} images have been swept from {pool.title}, "
            f"the first is {missing[0]}: resume from a newer checkpoint, and sweep with a longer grace"
        )
    grouped: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        grouped[records.place(entry.id)[1] % pool.subpools].append(entry)
    dropped: dict[int, set[bytes]] = defaultdict(set)
    for subpool, _, _, record in pool.scan_records():
        dropped[subpool].update(records.digests(record))
    kept = {bytes.fromhex(digest) for digest in referenced}
    for subpool in range(pool.subpools):
        # What is summed up over the sub-pools is all put into the first.
        fields = _fields(meta) if subpool == 0 else {}
        _fill(pool, subpool, grouped[subpool], histories, fields, dropped[subpool] - kept)


def _fields(meta: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What else than entries a sub-pool has, by key."""
    held = {
        field: value for field, value in meta.items() if field not in (*_SETTINGS, "histogram", "timeline")
    }
    timeline = {
        minute: f"{pair['offers']} {pair['replacements']}" for minute, pair in meta["timeline"].items()
    }
    return {"meta": held, "histogram": meta["histogram"], "timeline": timeline}


def _fill(
    pool: RewardPool,
    subpool: int,
    entries: Sequence[Entry],
    histories: Mapping[str, Sequence[HistoryItem]],
    fields: Mapping[str, Mapping[str, Any]],
    dropped: set[bytes],
) -> None:
    buckets = max(1, -(-len(entries) // records.FULL))
    client = pool.server.client
    with pool.server.answering():
        before = {field.decode(): value for field, value in client.hgetall(pool.key(subpool, "meta")).items()}
        known = {
            packed: int(number) for packed, number in client.hgetall(pool.key(subpool, "sources")).items()
        }
    now = pool.server.now()
    number_of = _numbering(known)
    filed: dict[int, dict[str, bytes]] = defaultdict(dict)
    for entry in entries:
        hash, _ = records.place(entry.id)
        filed[records.bucket(hash, buckets)][entry.id] = records.pack_entry(entry, number_of)
    counted = [
        field for field in before if field in _COUNTERS or field.startswith("stage:") or field == "size"
    ]
    zeros: dict[str, Any] = dict.fromkeys((name for pair in _SUMS for name in pair), 0)
    with pool.server.answering(), pool.server.transaction() as pipe:
        for numbers in batched(range(int(before["buckets"])), PAGE):
            pipe.unlink(*(pool.key(subpool, f"b:{number}") for number in numbers))
        cleared = ("best", "latest", "history", "histogram", "timeline", "replays:0", "replays:1")
        pipe.unlink(*(pool.key(subpool, key) for key in cleared))
        if counted:
            pipe.hdel(pool.key(subpool, "meta"), *counted)
        pipe.hset(pool.key(subpool, "meta"), mapping={"buckets": buckets, **zeros})
        for key, mapping in fields.items():
            if mapping:
                pipe.hset(pool.key(subpool, key), mapping=dict(mapping))
        if known:
            pipe.hset(pool.key(subpool, "sources"), mapping={packed: known[packed] for packed in known})
        for number, held in filed.items():
            pipe.hset(pool.key(subpool, f"b:{number}"), mapping=held)
        for page in batched(entries, PAGE):
            pipe.zadd(pool.key(subpool, "best"), {entry.id: entry.best.log_odds for entry in page})
            past = {
                entry.id: records.pack_history(histories[entry.id]) for entry in page if histories[entry.id]
            }
            if past:
                pipe.hset(pool.key(subpool, "history"), mapping=past)
        newest = sorted(entries, key=lambda entry: entry.best.lineage.time)[-LATEST:]
        if newest:
            pipe.zadd(pool.key(subpool, "latest"), {entry.id: entry.best.lineage.time for entry in newest})
        for digests in batched(sorted(dropped), PAGE):
            pipe.rpush(pool.key(subpool, "released"), *(digest + now.to_bytes(4) for digest in digests))
        pipe.execute()


def _numbering(known: dict[bytes, int]) -> Callable[[bytes], int]:
    """Numbers sources as `decide.lua` does, adding to `known`."""
    return lambda source: known.setdefault(source, len(known))

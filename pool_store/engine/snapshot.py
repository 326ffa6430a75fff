"""A pool's contents as one JSON value, and back."""

from __future__ import annotations

import math
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from pool_store.engine import records
from pool_store.engine.connection import Script
from pool_store.engine.dump_schema import check_dump
from pool_store.engine.shards import Key, Shards, sliced
from pool_store.engine.stats import Totals
from pool_store.errors import PoolConflict, PoolError
from pool_store.schemas import Entry, HistoryItem, PoolSettings

FORMAT, DUMP_FORMAT = "4", "3"
"""Versions of what a pool looks like in Redis, and of its dumps."""
RESTORE, SOURCES = Script("restore"), Script("sources")
ASIDE_SECONDS = 3600
"""Time after which what a killed restore has put aside is removed."""
_SETTINGS = ("fingerprint", "keep", "history")
_SUMS = (("sum", "sum_rest"), ("rewards", "rewards_rest"))
_HISTORY: TypeAdapter[list[HistoryItem]] = TypeAdapter(list[HistoryItem])


def check(what: str, meta: Mapping[str, str], wanted: PoolSettings | None, format: str = FORMAT) -> None:
    """Whether a pool, or a dump, may be used as `wanted`.

    Raises:
        PoolError: its format is not `format`.
        PoolConflict: it belongs to another scorer, or keeps another number of candidates.
    """
    if meta["format"] != format:
        raise PoolError(f"{what} has format {meta['format']}, not {format}: use the version that wrote it")
    if wanted and meta["fingerprint"] != wanted.fingerprint:
        raise PoolConflict(
            f"{what} holds scores of scorer '{meta['fingerprint']}', not of '{wanted.fingerprint}': "
            "use that scorer, or another pool"
        )
    if wanted and int(meta["keep"]) != wanted.keep:
        raise PoolConflict(
            f"{what} keeps {meta['keep']} candidates an image, not {wanted.keep}: set keep={meta['keep']}"
        )


def snapshot(shards: Shards) -> dict[str, Any]:
    """`meta`: settings, counters, sums, histogram and timeline; `entries`: by id, with their history."""

    def queue(pipe: Any, key: Key) -> None:
        for name in ("meta", "histogram", "timeline", "sources", "history", "entries"):
            pipe.hgetall(key(name))
        pipe.zrange(key("best"), 0, -1, withscores=True)

    answers = shards.transact_all(queue)
    stored = records.text(answers[0][0])
    if "birth" not in stored:
        raise PoolError(f"{shards.server.title} was emptied while the pool was open: open it anew")
    totals = Totals(hashes[:3] for hashes in answers)
    meta: dict[str, Any] = {"format": DUMP_FORMAT}
    meta |= {field: stored[field] for field in (*_SETTINGS, "size") if field in stored}
    entries: dict[str, Any] = {}
    for *_, sources, histories, found, scores in answers:
        numbered = {int(number): source for source, number in sources.items()}
        for id, score in scores:
            entry = records.unpack_entry(id.decode(), score, found[id], numbered.__getitem__)
            history = records.unpack_history(histories.get(id, b""))
            entries[entry.id] = {
                **entry.model_dump(mode="json", exclude={"id"}),
                "history": [item.model_dump() for item in history],
            }
    for high, low in _SUMS:
        parts = totals.parts[high]
        total = math.fsum(parts)
        meta[high], meta[low] = repr(total), repr(math.fsum([*parts, -total]))
    meta |= {field: str(n) for field, n in sorted(totals.counts.items()) if not field.startswith("blob")}
    meta["histogram"] = {str(bin): count for bin, count in sorted(totals.bins.items()) if count}
    meta["timeline"] = {str(minute): dict(pair) for minute, pair in sorted(totals.minutes.items())}
    return {"meta": meta, "entries": {id: entries[id] for id in sorted(entries)}}


def restore(shards: Shards, wanted: PoolSettings, state: Mapping[str, Any]) -> None:
    """Makes the contents those of a `snapshot`, at once in every shard; see `RewardPool.restore`."""
    check_dump(state)
    meta = dict(state["meta"])
    check("the dump", meta, wanted, DUMP_FORMAT)
    entries, histories = [], {}
    for id, fields in state["entries"].items():
        history = _HISTORY.validate_python(fields["history"])
        entries.append(Entry(id=id, **{name: value for name, value in fields.items() if name != "history"}))
        histories[id] = records.pack_history(history[: wanted.history])
    referenced = {candidate.digest for entry in entries for candidate in entry.candidates}
    missing = sorted(digest for digest in referenced if not shards.blobs.touch(digest))
    if missing:
        raise PoolError(
            f"{len(missing)} of the dump's {len(referenced)} images have been swept from "
            f"{shards.server.title}, the first is {missing[0]}: resume from a newer checkpoint, and sweep "
            "with a longer grace"
        )
    grouped: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        grouped[shards.of(entry.id)].append(entry)
    dropped: dict[int, set[bytes]] = defaultdict(set)
    for shard, _, _, record in shards.scan_records():
        dropped[shard].update(records.digests(record))
    kept = {bytes.fromhex(digest) for digest in referenced}
    for shard in range(shards.count):
        # Totals over all shards are stored in the first one.
        fields = _fields(meta) if shard == 0 else {}
        _fill(shards, shard, grouped[shard], histories, fields, dropped[shard] - kept)


def _fields(meta: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a shard holds besides entries, by key."""
    apart = ("format", *_SETTINGS, "histogram", "timeline")
    timeline = {
        minute: f"{pair['offers']} {pair['replacements']}" for minute, pair in meta["timeline"].items()
    }
    held = {field: value for field, value in meta.items() if field not in apart}
    return {"meta": held, "histogram": meta["histogram"], "timeline": timeline}


def _fill(
    shards: Shards,
    shard: int,
    entries: Sequence[Entry],
    histories: Mapping[str, bytes],
    fields: Mapping[str, Mapping[str, Any]],
    dropped: set[bytes],
) -> None:
    """Puts a shard's new contents aside, page by page, and then in the place of the present ones at once."""
    first = shards.key(shard, "meta")
    sources = sorted({records.source(held.lineage) for entry in entries for held in entry.candidates})
    numbers: dict[bytes, int] = {}
    birth, _ = shards.server.run(SOURCES, first, [])
    for page in sliced(sources):
        birth, found = shards.server.run(SOURCES, first, page)
        numbers.update(zip(page, found, strict=True))
    packed = {entry.id: records.pack_entry(entry, numbers.__getitem__) for entry in entries}
    now = shards.server.now().to_bytes(4)
    hashes = {
        "histogram": fields.get("histogram", {}),
        "timeline": fields.get("timeline", {}),
        "entries": packed,
        "history": {id: histories[id] for id in packed if histories[id]},
    }
    newest = sorted(entries, key=lambda entry: entry.best.lineage.time)[-records.LATEST :]
    aside = f"new:{secrets.token_hex(8)}:"

    def put_aside(name: str, command: str, *arguments: Any, **options: Any) -> None:
        def queue(pipe: Any, key: Key) -> None:
            getattr(pipe, command)(key(aside + name), *arguments, **options)
            pipe.expire(key(aside + name), ASIDE_SECONDS)

        shards.transact(shard, queue)

    for name, mapping in hashes.items():
        for items in sliced([*mapping.items()]):
            put_aside(name, "hset", mapping=dict(items))
    for members in sliced([(entry.id, entry.best.log_odds) for entry in entries]):
        put_aside("best", "zadd", dict(members))
    if newest:
        put_aside("latest", "zadd", {entry.id: entry.best.lineage.time for entry in newest})
    for digests in sliced(sorted(dropped)):
        put_aside("released", "rpush", *(digest + now for digest in digests))
    held = [part for field in fields.get("meta", {}).items() for part in field]
    shards.server.run(RESTORE, first, [birth, aside, len(entries), *held])

"""The reward pool on Redis or Valkey: for every rainy image, the best derained results seen so far.

A pool is 1 or more sub-pools, a number fixed when it is made: an id belongs to one of them by its hash, and
each has its keys under a hash tag of its own, `{rgsud:NAME:K}:`, hence on one shard of a cluster:
`meta` hash (settings, counters and sums), `b:0`, `b:1`, ... hashes (the entries: `common.lua`), `best`
sorted set (id -> log-odds of its best), `released` list (digest and when it was replaced), `histogram` and
`timeline` hashes, `latest` sorted set (the last ids replaced), `history` hash, `sources` hash (run, stage and
worker -> number), `replays:0` and `replays:1` hashes (the last replacements and batches, so that a repeated
offer gets the same answer).
Images are not in Redis but in `Blobs`. Needs Redis 6.2 or any Valkey, without eviction of keys.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from pool_store.engine import records
from pool_store.engine.batches import batched
from pool_store.engine.connection import Script, Server
from pool_store.engine.images import Blobs, Image, Stored, digest_of, several
from pool_store.engine.maintenance import drop, sweep, verify
from pool_store.engine.pages import Sort, page
from pool_store.engine.snapshot import FORMAT, restore, snapshot
from pool_store.engine.stats import collect
from pool_store.errors import PoolConflict, PoolError, PoolMissing
from pool_store.schemas import Decision, Entry, HistoryItem, Offer, PoolSettings, Stats, Swept, Verified

Kind: TypeAlias = Literal["best", "mean"]
DECIDE, READ, SCAN = Script("decide"), Script("read"), Script("scan")
BATCH = 256
"""Offers or ids in one call of a script."""
BUCKETS = 50
"""Buckets read in one call: 2,000 entries."""
REGISTRY = b"rgsud:pools"
"""Set of the names of a server's pools."""
_STATUS: dict[bytes, Literal["replaced", "kept", "stale"]] = {b"r": "replaced", b"k": "kept", b"s": "stale"}


class RewardPool:
    """A pool on a server. Safe to share between threads; other processes open their own.

    `title` is what errors call it; `address` is the spec by which another process opens the same pool. Every
    method raises PoolError where the server or the blob storage fails.

    Args:
        settings: to make it with, unless it is there; None takes it as it is, PoolMissing where it is not.
        subpools: into how many shards to divide it if it is made.
        closing: ends the connection to the server.
    """

    def __init__(
        self,
        server: Server,
        blobs: Blobs,
        *,
        name: str,
        settings: PoolSettings | None,
        address: str,
        subpools: int,
        closing: Callable[[], None],
    ) -> None:
        self.name, self.address, self.title = name, address, server.title
        self.server, self.blobs = server, blobs
        self._closing = closing
        self._sources: dict[int, tuple[bytes, dict[int, bytes]]] = {}
        self._lock = threading.Lock()
        self._uncounted: list[int] = []  # bytes of the images that no offer has followed yet
        self.created = False
        meta = self._meta()
        if not meta:
            if settings is None:
                raise PoolMissing(f"there is no pool '{name}' in {self.title}: make it first")
            with server.answering():
                self._make(settings, subpools)
            meta = self._meta()
        self.check(self.title, meta, settings)
        self._birth = meta["birth"]
        self.fingerprint, self.keep = meta["fingerprint"], int(meta["keep"])
        self.history_length, self.subpools = int(meta["history"]), int(meta["subpools"])

    def _meta(self) -> dict[str, str]:
        with self.server.answering():
            found = self.server.client.hgetall(self.key(0, "meta"))
        return {field.decode(): value.decode() for field, value in found.items()}

    def valid(self, wanted: PoolSettings | None) -> bool:
        """Whether the pool is still the one that was opened; PoolConflict unless it is made as wanted."""
        meta = self._meta()
        if meta.get("birth") != self._birth:
            return False
        self.check(self.title, meta, wanted)
        return True

    def _make(self, settings: PoolSettings, subpools: int) -> None:
        client = self.server.client
        if client.exists("{rgsud}:meta"):
            raise PoolError(f"{self.title} has format 1, not {FORMAT}: use the version that wrote it")
        fields = {
            "format": FORMAT,
            "fingerprint": settings.fingerprint,
            "keep": settings.keep,
            "history": settings.history,
            "subpools": subpools,
            "birth": secrets.token_hex(8),
            "buckets": 1,
            **dict.fromkeys(("generation", "sum", "sum_rest", "rewards", "rewards_rest"), 0),
            **({"size": settings.size} if settings.size else {}),
        }
        client.sadd(REGISTRY, self.name)
        # The first sub-pool last: while it is not there, neither is the pool.
        for number in reversed(range(subpools)):
            with self.server.transaction() as pipe:
                for field, value in fields.items():
                    pipe.hsetnx(self.key(number, "meta"), field, value)
                self.created = bool(pipe.execute()[0])

    def key(self, subpool: int, key: str) -> bytes:
        return f"{{rgsud:{self.name}:{subpool}}}:{key}".encode()

    def check(self, what: str, meta: Mapping[str, str], wanted: PoolSettings | None) -> None:
        """PoolError where a pool, or a dump, is of another format, another scorer or another `keep`."""
        if meta["format"] != FORMAT:
            raise PoolError(
                f"{what} has format {meta['format']}, not {FORMAT}: use the version that wrote it"
            )
        if wanted and meta["fingerprint"] != wanted.fingerprint:
            raise PoolConflict(
                f"{what} holds scores of scorer '{meta['fingerprint']}', not of '{wanted.fingerprint}': "
                "use that scorer, or another pool"
            )
        if wanted and int(meta["keep"]) != wanted.keep:
            raise PoolConflict(
                f"{what} keeps {meta['keep']} candidates an image, not {wanted.keep}: set keep={meta['keep']}"
            )

    @property
    def size(self) -> int | None:
        """Images in the data set, if that was declared."""
        size = self._meta().get("size")
        return int(size) if size else None

    def declare_size(self, size: int) -> None:
        """Says how many images the data set has, for the coverage."""
        if size < 1:
            raise PoolError(f"a data set cannot have {size} images: give their number")
        with self.server.answering():
            self.server.client.hset(self.key(0, "meta"), "size", size)

    def peek(self, ids: Iterable[str]) -> dict[str, float | None]:
        """For every id the log-odds that an offer must exceed to enter, None where any score enters."""
        thresholds: dict[str, float | None] = dict.fromkeys(ids)
        for _, id, score, record in self._read(thresholds):
            count, worst = records.worst(score, record)
            thresholds[id] = worst if count >= self.keep else None
        return thresholds

    def put_image(self, image: Image) -> str:
        """Stores a uint8 H,W,3 image durably, before it is offered, and returns its digest."""
        return self._counted(self.blobs.put(image))

    def put_images(self, images: Sequence[Image]) -> list[str]:
        """`put_image` for each, several at a time. Raises for the first that fails; the others are stored."""
        digests = several(digest_of, images)
        different = dict(zip(digests, images, strict=True))  # or two threads would store the same one
        several(lambda item: self._counted(self.blobs.put(item[1], item[0])), [*different.items()])
        return digests

    def put_encoded(self, digest: str, data: bytes) -> None:
        """Stores lossless WebP that the caller has decoded, and found to have that digest."""
        self._counted(self.blobs.put_encoded(digest, data))

    def held(self, digest: str) -> bool:
        """Whether the image is stored; if so, no sweep takes it for another grace period."""
        return self.blobs.touch(digest)

    def _counted(self, stored: Stored) -> str:
        """Counts it with the next offers, since to wait for the log twice would cost as much as the image."""
        if stored.added:
            with self._lock:
                self._uncounted.append(stored.added)
        return stored.digest

    def _take_uncounted(self) -> list[int]:
        with self._lock:
            added, self._uncounted = self._uncounted, []
        return added

    def count_blobs(self) -> None:
        """Counts the images that were put since the last offers."""
        if added := self._take_uncounted():
            with self.server.answering(), self.server.transaction() as pipe:
                pipe.hincrby(self.key(0, "meta"), "blobs", len(added))
                pipe.hincrby(self.key(0, "meta"), "blob_bytes", sum(added))
                pipe.execute()

    def offer(self, offer: Offer) -> Decision:
        """Enters the candidate, whose image has been put, if strictly better than what it would replace.

        Atomic, and idempotent: who lost the answer and offers the same (id, log_odds, digest) again, within
        the next 2048 replacements of the sub-pool, gets the same status. Nothing is counted twice where it
        comes in the same batch. The image of an offer that does not win need not have been put.
        """
        return self.offer_many([offer])[0]

    def offer_many(self, offers: Sequence[Offer]) -> list[Decision]:
        """Decides offers as if one after the other, in one round trip, in a second one those that may win."""
        decisions: dict[int, Decision] = {}
        pending = self._decide(range(len(offers)), offers, set(), decisions)
        if pending:
            # Looked for only now, since most offers lose. What is found no sweep takes for a grace period.
            digests = {offers[index].digest for index in pending}
            stored = {digest for digest in digests if self.blobs.touch(digest)}
            for index in self._decide(pending, offers, stored, decisions):
                offer = offers[index]
                if offer.digest not in stored:
                    missing = f"the offer for '{offer.id}' names blob {offer.digest}"
                    raise PoolError(f"{missing}: put that image first")
        return [decisions[index] for index in range(len(offers))]

    def _decide(
        self, indices: Iterable[int], offers: Sequence[Offer], stored: set[str], done: dict[int, Decision]
    ) -> list[int]:
        """Adds decisions to `done`; returns the indices of offers whose image is not known to be stored."""
        grouped: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for index in indices:
            hash, spread = records.place(offers[index].id)
            grouped[spread % self.subpools].append((index, hash))
        batches, calls = [], []
        for subpool, group in grouped.items():
            for batch in batched(group, BATCH):
                batches.append(batch)
                # Else what was put would make a call wait for the log that changes nothing.
                added = self._take_uncounted() if stored else []
                packed = records.pack_offers(batch, offers, stored, self.fingerprint, added)
                calls.append((self.key(subpool, "meta"), packed))
        pending = []
        for batch, answer in zip(batches, self.server.run_many(DECIDE, calls), strict=True):
            for (index, _), (letter, log_odds) in zip(batch, records.ANSWER.iter_unpack(answer), strict=True):
                if letter == b"w":
                    pending.append(index)
                    continue
                best = None if log_odds != log_odds else log_odds
                done[index] = Decision(status=_STATUS[letter], log_odds=best)
        return sorted(pending)

    def entries(self, ids: Iterable[str]) -> dict[str, Entry]:
        """The entries of those ids that have one."""
        return {found[1]: self.unpack(*found) for found in self._read(dict.fromkeys(ids))}

    def _read(self, ids: Iterable[str]) -> Iterator[tuple[int, str, float, bytes]]:
        """Sub-pool, id, best score and record of those ids that have an entry."""
        grouped: dict[int, list[tuple[str, bytes]]] = defaultdict(list)
        for id, (hash, spread) in ((id, records.place(id)) for id in ids):
            grouped[spread % self.subpools].append((id, hash.to_bytes(4)))
        batches = [(k, batch) for k, group in grouped.items() for batch in batched(group, BATCH)]
        calls = [(self.key(k, "meta"), [*itertools.chain(*batch)]) for k, batch in batches]
        for (k, batch), (birth, scores, found) in zip(
            batches, self.server.run_many(READ, calls), strict=True
        ):
            self.born(k, birth)
            for (id, _), score, record in zip(batch, scores, found, strict=True):
                if record is not None:
                    yield k, id, float(score), record

    def unpack(self, subpool: int, id: str, score: float, record: bytes) -> Entry:
        return records.unpack_entry(id, score, record, lambda number: self._source(subpool, number))

    def born(self, subpool: int, birth: bytes) -> None:
        """Forgets the sources of a pool that has been dropped and made anew since."""
        if self._sources.get(subpool, (b"",))[0] != birth:
            self._sources[subpool] = birth, {}

    def _source(self, subpool: int, number: int) -> bytes:
        _, known = self._sources[subpool]
        if number not in known:
            with self.server.answering():
                found = self.server.client.hgetall(self.key(subpool, "sources"))
            known.update((int(place), packed) for packed, place in found.items())
        return known[number]

    def entries_page(
        self,
        sort: Sort,
        offset: int,
        limit: int,
        minimum: float | None = None,
        maximum: float | None = None,
        contains: str | None = None,
    ) -> tuple[list[Entry], int]:
        """Entries `offset` to `offset + limit` of a ranking, and how many it has in all.

        Args:
            sort: worst or best first by their best log-odds, or the latest replaced first: the last 512.
            minimum, maximum: of the best log-odds, both included.
            contains: a part of the id, in any case; it is looked for in every id of the ranking.
        """
        return page(self, sort, offset, limit, minimum, maximum, contains)

    def history(self, id: str) -> list[HistoryItem]:
        """The last replacements in an entry, newest first: at most `history_length`."""
        key = self.key(records.place(id)[1] % self.subpools, "history")
        with self.server.answering():
            packed = self.server.client.hget(key, id)
        return records.unpack_history(packed or b"")

    def scan(self) -> Iterator[Entry]:
        """Every entry once, in no order; of changes made meanwhile some are seen."""
        for subpool, id, score, record in self.scan_records():
            yield self.unpack(subpool, id, score, record)

    def scan_records(self) -> Iterator[tuple[int, str, float, bytes]]:
        """Sub-pool, id, best score and record of every entry."""
        for subpool in range(self.subpools):
            seen: dict[int, int] = {}
            start, buckets = 0, 1
            while start < buckets:
                buckets, birth, found = self.server.run(
                    SCAN, self.key(subpool, "meta"), [start, start + BUCKETS]
                )
                self.born(subpool, birth)
                for bucket, id, score, record in records.scanned(found):
                    if not records.met(records.place(id)[0], bucket, seen):
                        yield subpool, id, score, record
                seen.update(dict.fromkeys(range(start, min(start + BUCKETS, buckets)), buckets))
                start += BUCKETS

    def image(self, digest: str) -> Image:
        """A candidate's uint8 H,W,3 image. Who finds it missing should read the entry anew: a replaced image
        goes with the first sweep after its grace period."""
        return self.blobs.get(digest)

    def encoded(self, digest: str) -> bytes:
        """A candidate's image as it is stored, lossless WebP, not looked into."""
        return self.blobs.encoded(digest)

    def reward(self, id: str, kind: Kind = "best") -> tuple[str, Image]:
        """The reward of a rainy image, with its digest: its best candidate, or the mean of those it keeps,
        rounded to uint8 and made once. PoolMissing where it has none."""
        entry = self.entries([id]).get(id)
        if entry is None:
            raise PoolMissing(f"'{id}' has no reward in {self.title} yet: offer one")
        if kind == "best" or len(entry.candidates) == 1:
            return entry.best.digest, self.image(entry.best.digest)
        stored, image = self.blobs.mean([held.digest for held in entry.candidates])
        return self._counted(stored), image

    def put_source(self, id: str, image: Image) -> None:
        """Stores the rainy image of `id` beside its reward, for people to compare."""
        self.blobs.put_source(id, image)

    def source(self, id: str) -> Image | None:
        """The rainy image of `id`, None where none was put."""
        return self.blobs.source(id)

    def source_encoded(self, id: str) -> bytes:
        """The rainy image of `id` as lossless WebP; PoolMissing where none was put."""
        return self.blobs.source_encoded(id)

    def stats(self) -> Stats:
        """The pool in figures, at the same cost whatever its size."""
        self.count_blobs()
        return collect(self)

    def verify(self) -> Verified:
        """Reads every candidate's image and compares its digest; damage is reported, not raised."""
        return verify(self)

    def sweep(self, grace_seconds: float) -> Swept:
        """Removes images that no entry has referred to for `grace_seconds`: replaced, or orphans of crashes.

        A dump stays restorable for as long, since what it refers to was replaced after it was taken, if at
        all. So the grace must exceed the age of the oldest checkpoint worth resuming, and the time from
        putting an image to offering it.
        """
        return sweep(self, grace_seconds)

    def dump(self) -> dict[str, Any]:
        """The pool's exact logical contents (not the images), fit for JSON: see `restore`. Of one moment in
        every sub-pool, whose server answers nobody else meanwhile: some seconds for a million entries."""
        return snapshot(self)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Makes the contents those of a `dump`. PoolError, and no change, where the dump is another scorer's
        or another `keep`'s, or where images that it refers to have been swept. No other process may be
        offering meanwhile."""
        restore(self, state)

    def drop(self) -> None:
        """Removes the pool, its images included, for good. Offers to it are refused from the first moment."""
        drop(self, REGISTRY)

    def close(self) -> None:
        """Ends the connection to the server, and an embedded server; what the pool holds stays."""
        self._closing()

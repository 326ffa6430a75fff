"""The reward pool on Redis or Valkey: for every rainy image, the best derained results seen so far.

Images are not in Redis but in `Blobs`; `shards.py` gives the keys. Needs Redis 6.2 or any Valkey, without
eviction of keys.
"""

from __future__ import annotations

import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from pool_store.engine import records
from pool_store.engine.connection import Script, Server
from pool_store.engine.images import Blobs, Stored, digest_of, several
from pool_store.engine.maintenance import drop, sweep, verify
from pool_store.engine.pages import Sort, page
from pool_store.engine.shards import BATCH, REGISTRY, Shards, sliced
from pool_store.engine.snapshot import FORMAT, check, restore, snapshot
from pool_store.engine.stats import collect
from pool_store.errors import PoolError, PoolMissing
from pool_store.schemas import Decision, Entry, HistoryItem, Offer, PoolSettings, Stats, Swept, Verified
from rgsud_core.images import Image

Kind: TypeAlias = Literal["best", "mean"]
DECIDE = Script("decide")
_STATUS: dict[bytes, Literal["replaced", "kept", "stale", "wanted"]] = {
    b"r": "replaced",
    b"k": "kept",
    b"s": "stale",
    b"w": "wanted",
}


class RewardPool:
    """A pool on a server. Safe to share between threads; other processes open their own.

    `title` is what errors call it; `address` is the spec by which another process opens the same pool. Every
    method raises PoolError where the server or the blob storage fails.

    Args:
        settings: to make it with, unless it exists; None takes it as it is, PoolMissing where it does not.
        shards: into how many shards to divide it if it is made.
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
        shards: int,
        closing: Callable[[], None],
    ) -> None:
        self.name, self.address, self.title = name, address, server.title
        self.server, self.blobs = server, blobs
        self.shards = Shards(server, blobs, name)
        self._closing = closing
        self._lock = threading.Lock()
        self._uncounted: list[int] = []  # bytes of the images that no offer has followed yet
        self.created = False
        meta = self.shards.meta()
        if not meta:
            if settings is None:
                raise PoolMissing(f"there is no pool '{name}' in {self.title}: make it first")
            self._make(settings, shards)
            meta = self.shards.meta()
        check(self.title, meta, settings)
        self._birth = meta["birth"]
        self.fingerprint, self.keep = meta["fingerprint"], int(meta["keep"])
        self.history_length, self.shards.count = int(meta["history"]), int(meta["subpools"])

    def valid(self, wanted: PoolSettings | None) -> bool:
        """Whether the pool is still the one that was opened; PoolConflict unless it is made as wanted."""
        meta = self.shards.meta()
        if meta.get("birth") != self._birth:
            return False
        check(self.title, meta, wanted)
        return True

    def _make(self, settings: PoolSettings, shards: int) -> None:
        fields = {
            "format": FORMAT,
            "fingerprint": settings.fingerprint,
            "keep": settings.keep,
            "history": settings.history,
            "subpools": shards,
            "birth": secrets.token_hex(8),
            **dict.fromkeys(("generation", "sum", "sum_rest", "rewards", "rewards_rest"), 0),
            **({"size": settings.size} if settings.size else {}),
        }
        with self.server.answering():
            if self.server.client.exists("{rgsud}:meta"):
                raise PoolError(f"{self.title} has format 1, not {FORMAT}: use the version that wrote it")
            self.server.client.sadd(REGISTRY, self.name)
        # The first shard last: the pool exists as soon as that one does.
        for shard in reversed(range(shards)):
            made = self.shards.transact(
                shard, lambda pipe, key: [pipe.hsetnx(key("meta"), *field) for field in fields.items()]
            )
            self.created = bool(made[0])

    @property
    def size(self) -> int | None:
        """Images in the data set, if that was declared."""
        size = self.shards.meta().get("size")
        return int(size) if size else None

    def declare_size(self, size: int) -> None:
        """Records how many images the data set has, for the coverage."""
        if size < 1:
            raise PoolError(f"a data set cannot have {size} images: give their number")
        self.shards.transact(0, lambda pipe, key: pipe.hset(key("meta"), "size", size))

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

    def _count_put(self) -> None:
        """Counts the images that were put since the last offers."""
        if added := self._take_uncounted():
            self.shards.count_images(len(added), sum(added))

    def offer(self, offer: Offer) -> Decision:
        """`offer_many` for one."""
        return self.offer_many([offer])[0]

    def offer_many(self, offers: Sequence[Offer]) -> list[Decision]:
        """Enters each candidate that is strictly better than the one it would replace, in the given order.

        Atomic, in one round trip, and a second one for those that enter. A candidate that would enter but
        whose image is not stored is `wanted`, and so are those after it for the same id: put these images
        and offer again (`offer_images`). Idempotent: the same (id, log_odds, digest), offered again within
        the next 2048 replacements of the shard, gets the same status, and counts once if it comes in the same
        batch.
        """
        decisions = self._decide(offers, set())
        pending = [index for index, decision in enumerate(decisions) if decision.status == "wanted"]
        # Looked for only now, since most offers lose. What is found no sweep takes for a grace period.
        digests = {offers[index].digest for index in pending}
        if stored := {digest for digest in digests if self.blobs.touch(digest)}:
            again = self._decide([offers[index] for index in pending], stored)
            for index, decision in zip(pending, again, strict=True):
                decisions[index] = decision
        return decisions

    def _decide(self, offers: Sequence[Offer], stored: set[str]) -> list[Decision]:
        """Decides offers; those that would enter are `wanted` unless their image is in `stored`."""
        grouped: dict[int, list[int]] = defaultdict(list)
        for index, offer in enumerate(offers):
            grouped[self.shards.of(offer.id)].append(index)
        batches = [(shard, batch) for shard, group in grouped.items() for batch in sliced(group, BATCH)]
        calls = []
        for shard, batch in batches:
            # Else what was put would make a call wait for the log that changes nothing.
            added = self._take_uncounted() if stored else []
            some = [offers[index] for index in batch]
            packed = records.pack_offers(some, stored, self.fingerprint, added)
            calls.append((self.shards.key(shard, "meta"), packed))
        decisions: dict[int, Decision] = {}
        for (_, batch), answer in zip(batches, self.server.run_many(DECIDE, calls), strict=True):
            for index, (letter, log_odds) in zip(batch, records.ANSWER.iter_unpack(answer), strict=True):
                best = None if log_odds != log_odds else log_odds
                decisions[index] = Decision(status=_STATUS[letter], log_odds=best)
        return [decisions[index] for index in range(len(offers))]

    def entries(self, ids: Iterable[str]) -> dict[str, Entry]:
        """The entries of those ids that have one."""
        return self.shards.entries(ids)

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
        return page(self.shards, sort, offset, limit, minimum, maximum, contains)

    def history(self, id: str) -> list[HistoryItem]:
        """The last replacements in an entry, newest first: at most `history_length`."""
        [packed] = self.shards.transact(self.shards.of(id), lambda pipe, key: pipe.hget(key("history"), id))
        return records.unpack_history(packed or b"")

    def scan(self) -> Iterator[Entry]:
        """Every entry once, in no order; of changes made meanwhile some are seen."""
        return self.shards.scan()

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
        self._count_put()
        return collect(self.shards)

    def verify(self) -> Verified:
        """Reads every candidate's image and compares its digest; damage is reported, not raised."""
        return verify(self.shards)

    def sweep(self, grace_seconds: float) -> Swept:
        """Removes images that no entry has referred to for `grace_seconds`: replaced, or orphans of crashes.

        A dump stays restorable for as long, since what it refers to was replaced after it was taken, if at
        all. So the grace must exceed the age of the oldest checkpoint worth resuming, and the time from
        putting an image to offering it.
        """
        self._count_put()
        return sweep(self.shards, grace_seconds)

    def dump(self) -> dict[str, Any]:
        """The pool's exact logical contents (not the images), fit for JSON: see `restore`. Of one moment in
        every sub-pool, whose server answers nobody else meanwhile: some seconds for a million entries."""
        return snapshot(self.shards)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Makes the contents those of a `dump`. PoolError, and no change, where the dump is another scorer's
        or another `keep`'s, or where images that it refers to have been swept. No other process may be
        offering meanwhile."""
        wanted = PoolSettings(fingerprint=self.fingerprint, keep=self.keep, history=self.history_length)
        restore(self.shards, wanted, state)

    def drop(self) -> None:
        """Removes the pool, its images included, for good. Offers to it are refused from the first moment."""
        drop(self.shards)

    def close(self) -> None:
        """Ends the connection to the server, and an embedded server; what the pool holds stays."""
        self._closing()

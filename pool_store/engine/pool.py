"""The reward pool on Redis or Valkey: for every rainy image, the best derained results seen so far.

Images are not in Redis but in `Blobs`; `shards.py` gives the keys. Needs Redis 6.2 or any Valkey, without
eviction of keys.
"""

from __future__ import annotations

import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pool_store.engine import records
from pool_store.engine.connection import Script, Server
from pool_store.engine.images import Blobs, Stored, digest_of, several
from pool_store.engine.maintenance import drop, sweep, verify
from pool_store.engine.shards import BATCH, REGISTRY, Shards, sliced
from pool_store.engine.snapshot import FORMAT, check, restore, snapshot
from pool_store.engine.stats import collect
from pool_store.errors import PoolConflict, PoolDamaged, PoolError, PoolMissing
from pool_store.schemas import Decision, Entry, HistoryItem, Offer, PoolSettings, Stats, Swept, Verified
from rgsud_core.images import Image

DECIDE, MAKE = Script("decide"), Script("make")
_STATUS: dict[bytes, Literal["replaced", "kept", "stale", "wanted"]] = {
    b"r": "replaced",
    b"k": "kept",
    b"s": "stale",
    b"w": "wanted",
}


class RewardPool:
    """A pool on a server. May be shared between threads; other processes open their own.

    `title` names it in errors; `address` opens the same pool in another process. Every method raises
    PoolError if the server or the storage of the images fails.

    Args:
        settings: the pool is created with them if it is missing; None takes it as it is, or PoolMissing.
        shards: number of shards if it is created.
        closing: closes the connection to the server.
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
        if "dropping" in meta:  # by a process that was killed, or by another one
            drop(self.shards, meta["dropping"])
            meta = self.shards.meta()
        if not meta:
            if settings is None:
                raise PoolMissing(f"there is no pool '{name}' in {self.title}: make it first")
            self._make(settings, shards)
            meta = self.shards.meta()
        try:
            check(self.title, meta, settings)
            self._birth = meta["birth"]
            self.fingerprint, self.keep = meta["fingerprint"], int(meta["keep"])
            self.history_length, self.shards.count = int(meta["history"]), int(meta["subpools"])
        except (KeyError, ValueError):
            raise PoolDamaged(
                f"the settings of the pool '{name}' in {self.title} are damaged: restore it from a copy"
            ) from None
        self._check_images(marked="marked" in meta)

    def valid(self, wanted: PoolSettings | None) -> bool:
        """Whether the pool is still the one that was opened; PoolConflict unless it fits `wanted`."""
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
            "marked": 1,
        }
        self.blobs.mark(str(fields["birth"]))
        with self.server.answering():
            if self.server.client.exists("{rgsud}:meta"):
                raise PoolError(f"{self.title} has format 1, not {FORMAT}: use the version that wrote it")
        arguments = [part for field in fields.items() for part in field]
        # The first shard last: the pool exists as soon as that one does.
        for shard in reversed(range(shards)):
            self.created = bool(self.server.run(MAKE, self.shards.key(shard, "meta"), arguments))
        with self.server.answering():
            self.server.client.sadd(REGISTRY, self.name)

    def _check_images(self, *, marked: bool) -> None:
        """Raises PoolConflict if these are not the images that the pool was made with."""
        if self.blobs.marked(self._birth):
            return
        if marked:
            raise PoolConflict(
                f"{self.blobs.storage.address} does not hold the images of the pool '{self.name}' in "
                f"{self.title}: end its address in the blobs=PLACE that it was made with"
            )
        # A pool of an earlier version; the first who opens it says where its images are.
        self.blobs.mark(self._birth)
        self.shards.amend("HSET", marked=1)

    @property
    def size(self) -> int | None:
        """Number of images in the data set, if it was declared."""
        size = self.shards.meta().get("size")
        return int(size) if size else None

    def declare_size(self, size: int) -> None:
        """Stores the number of images in the data set, for the coverage."""
        if size < 1:
            raise PoolError(f"a data set cannot have {size} images: give their number")
        self.shards.amend("HSET", size=size)

    def put_image(self, image: Image) -> str:
        """Stores a uint8 H,W,3 image durably and returns its digest."""
        return self._counted(self.blobs.put(image))

    def put_images(self, images: Sequence[Image]) -> list[str]:
        """`put_image` for each, several at a time. Raises the first error; the other images are stored."""
        digests = several(digest_of, images)
        different = dict(zip(digests, images, strict=True))  # or two threads would store the same one
        several(lambda item: self._counted(self.blobs.put(item[1], item[0])), [*different.items()])
        return digests

    def put_encoded(self, digest: str, data: bytes) -> None:
        """Stores lossless WebP whose decoded image the caller has found to have that digest."""
        self._counted(self.blobs.put_encoded(digest, data))

    def whole(self, digest: str, width: int, height: int) -> bool:
        """Whether the image, of that size, is stored and undamaged; if so, it is safe from sweeps for another
        grace period."""
        return self.blobs.whole(digest, width, height)

    def _counted(self, stored: Stored) -> str:
        """Postpones the counting to the next offers, since another wait for the log would double the time."""
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
            self.shards.amend("HINCRBY", blobs=len(added), blob_bytes=sum(added))

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
        # Only now, since most offers lose. Images that are found are safe from sweeps for a grace period.
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
            # Only here: a call that changes nothing else would have to wait for the log.
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

    def history(self, id: str) -> list[HistoryItem]:
        """The last replacements in an entry, at most `history_length`, newest first."""
        [packed] = self.shards.transact(self.shards.of(id), lambda pipe, key: pipe.hget(key("history"), id))
        with self.shards.reading(f"the history of '{id}'"):
            return records.unpack_history(packed or b"")

    def scan(self) -> Iterator[Entry]:
        """Every entry once, in no order; concurrent changes may or may not be seen."""
        return self.shards.scan()

    def image(self, digest: str) -> Image:
        """A candidate's uint8 H,W,3 image. If it is missing, read the entry again: a replaced image is
        removed by the first sweep after its grace period."""
        return self.blobs.get(digest)

    def encoded(self, digest: str) -> bytes:
        """A candidate's image as it is stored: lossless WebP, unchecked."""
        return self.blobs.encoded(digest)

    def reward(self, id: str) -> tuple[str, Image]:
        """Digest and image of the reward of a rainy image, its best candidate. PoolMissing if it has none."""
        entry = self.entries([id]).get(id)
        if entry is None:
            raise PoolMissing(f"'{id}' has no reward in {self.title} yet: offer one")
        return entry.best.digest, self.image(entry.best.digest)

    def put_source(self, id: str, image: Image) -> None:
        """Stores the rainy image of `id` beside its reward, for people to compare."""
        self.blobs.put_source(id, image)

    def put_source_encoded(self, id: str, data: bytes) -> None:
        """Stores the rainy image of `id`, given as plain lossless WebP."""
        self.blobs.put_source_encoded(id, data)

    def source(self, id: str) -> Image | None:
        """The rainy image of `id`, or None if none was stored."""
        return self.blobs.source(id)

    def source_encoded(self, id: str) -> bytes:
        """The rainy image of `id` as lossless WebP; PoolMissing if none was stored."""
        return self.blobs.source_encoded(id)

    def stats(self) -> Stats:
        """The figures of the pool, at a cost independent of its size."""
        self._count_put()
        with self.shards.reading("a figure"):
            return collect(self.shards)

    def verify(self) -> Verified:
        """Reads every candidate's image and compares its digest; damage is reported, not raised."""
        return verify(self.shards)

    def sweep(self, grace_seconds: float) -> Swept:
        """Removes images that no entry has referred to for `grace_seconds`: replaced ones, and those that a
        crash left without an entry.

        A dump can be restored for as long, since its images were replaced after it was taken, if at all. So
        the grace must exceed the age of the oldest checkpoint worth resuming, and the time between putting an
        image and offering it.
        """
        self._count_put()
        return sweep(self.shards, grace_seconds)

    def dump(self) -> dict[str, Any]:
        """The exact logical contents of the pool (not the images), as JSON values, for `restore`. Those of a
        shard are of one moment, during which its server is blocked: some seconds for a million entries."""
        with self.shards.reading("an entry"):
            return snapshot(self.shards)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Replaces the contents by those of a `dump`, in each shard in one step: an offer comes before it and
        is gone, or after it. PoolError, and no change, if the dump has another scorer or another `keep`, or
        if images of it have been swept."""
        wanted = PoolSettings(fingerprint=self.fingerprint, keep=self.keep, history=self.history_length)
        restore(self.shards, wanted, state)

    def drop(self) -> None:
        """Removes the pool and its images for good. Offers are refused from the first moment; a pool of the
        same name that was made since then stays."""
        drop(self.shards, self._birth)

    def close(self) -> None:
        """Closes the connection to the server, and stops an embedded one; the contents stay."""
        self._closing()

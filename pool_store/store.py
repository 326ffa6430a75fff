"""The reward pool on Redis or Valkey: for every rainy image, the best derained results seen so far.

Four keys under one hash tag, hence on one shard of a cluster: `{rgsud}:meta` hash (format, fingerprint, keep,
counters), `{rgsud}:entries` hash (id -> JSON of the entry), `{rgsud}:best` sorted set (id -> log-odds of its
best) and `{rgsud}:released` sorted set (digest -> when it was replaced, seconds). Images are not in Redis but
in `Blobs`. Needs Redis 5 or any Valkey, without eviction of keys.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from pool_store.blobs import Blobs, Image
from pool_store.errors import PoolError
from pool_store.schemas import Candidate, Decision, Entry, Lineage, Offer, Stats, Swept

T = TypeVar("T")
FORMAT = "1"
META, ENTRIES, BEST, RELEASED = KEYS = tuple(
    f"{{rgsud}}:{key}" for key in ("meta", "entries", "best", "released")
)
COUNTERS = ("offers", "replacements", "stale")
SCRIPT = Path(__file__).with_name("replace_if_better.lua").read_text()
PAGE = 1000
"""Entries read or written in one command."""
CONNECTION: dict[str, Any] = {
    "decode_responses": True,
    # 1.2 seconds of retries in all; then the caller decides whether to go on without rewards.
    "retry": Retry(ExponentialBackoff(cap=0.5, base=0.04), 5),
    "socket_connect_timeout": 5.0,
    "socket_timeout": 30.0,
}
"""How a pool's client talks to its server, whatever the address."""


class RewardPool:
    """A pool in one Redis database. Safe to share between threads; other processes open their own.

    `client` is one with the settings in `CONNECTION`. `name` is what errors call the pool; `address` is the
    spec by which another process opens the same pool. Every method raises PoolError where the server or the
    blob storage fails.
    """

    def __init__(
        self, client: redis.Redis, blobs: Blobs, *, fingerprint: str, keep: int, name: str, address: str
    ) -> None:
        if keep < 1:
            raise PoolError(f"keep is {keep}: a pool keeps at least 1 candidate of each image")
        self.fingerprint, self.keep, self.address = fingerprint, keep, address
        # redis-py types every answer as a possible awaitable; here all of them are plain.
        self._redis = cast(Any, client)
        self._blobs = blobs
        self._name = name
        self._decide = self._redis.register_script(SCRIPT)
        with self._server():
            self._bind()

    def _bind(self) -> None:
        memory = self._redis.info("memory")
        if memory.get("maxmemory") and str(memory.get("maxmemory_policy")).startswith("allkeys"):
            raise PoolError(f"{self._name} may evict rewards: set its maxmemory-policy to noeviction")
        with self._redis.pipeline(transaction=True) as pipe:
            for field, value in (("format", FORMAT), ("fingerprint", self.fingerprint), ("keep", self.keep)):
                pipe.hsetnx(META, field, value)
            pipe.hgetall(META)
            meta = pipe.execute()[-1]
        self._check(self._name, meta)

    def _check(self, what: str, meta: Mapping[str, str]) -> None:
        format, fingerprint, keep = meta["format"], meta["fingerprint"], int(meta["keep"])
        if format != FORMAT:
            raise PoolError(f"{what} has format {format}, not {FORMAT}: use the version that wrote it")
        if fingerprint != self.fingerprint:
            raise PoolError(
                f"{what} holds scores of scorer '{fingerprint}', not of '{self.fingerprint}': "
                "use that scorer, or another pool"
            )
        if keep != self.keep:
            raise PoolError(f"{what} keeps {keep} candidates an image, not {self.keep}: set keep={keep}")

    def peek(self, ids: Iterable[str]) -> dict[str, float | None]:
        """For every id the log-odds that an offer must exceed to enter, None where any score enters."""
        thresholds: dict[str, float | None] = {}
        for id, stored in self._read(ids):
            candidates = json.loads(stored)["candidates"] if stored else []
            thresholds[id] = float(candidates[-1]["log_odds"]) if len(candidates) >= self.keep else None
        return thresholds

    def put_image(self, image: Image) -> str:
        """Stores a uint8 H,W,3 image durably, before it is offered, and returns its digest."""
        return self._blobs.put(image)

    def offer(self, offer: Offer) -> Decision:
        """Enters the candidate, whose image has been put, if strictly better than what it would replace.

        Atomic, and idempotent: who lost the answer and offers the same (id, log_odds, digest) again, with at
        most three other offers for that id in between, gets the same status, and nothing is counted twice.
        The image of an offer that cannot win need not have been put: scores only rise.
        """
        if not self._blobs.touch(offer.digest) and self._may_enter(offer):
            raise PoolError(f"the offer for '{offer.id}' names blob {offer.digest}: put that image first")
        values = [
            offer.id,
            repr(offer.log_odds),
            offer.digest,
            offer.lineage.model_dump_json(),
            offer.fingerprint,
        ]
        with self._server():
            status, log_odds = self._decide(keys=KEYS, args=values)
        return Decision(status=status, log_odds=None if log_odds is None else float(log_odds))

    def _may_enter(self, offer: Offer) -> bool:
        to_beat = self.peek([offer.id])[offer.id]
        return to_beat is None or offer.log_odds > to_beat

    def entries(self, ids: Iterable[str]) -> dict[str, Entry]:
        """The entries of those ids that have one."""
        return {id: _entry(id, stored) for id, stored in self._read(ids) if stored}

    def scan(self) -> Iterator[Entry]:
        """Every entry once, in no order; of changes made meanwhile some are seen."""
        seen = set()
        with self._server():
            for id, stored in self._redis.hscan_iter(ENTRIES, count=PAGE):
                if id not in seen:
                    seen.add(id)
                    yield _entry(id, stored)

    def image(self, digest: str) -> Image:
        """A candidate's uint8 H,W,3 image. Who finds it missing should read the entry anew: a replaced image
        goes with the first sweep after its grace period."""
        return self._blobs.get(digest)

    def stats(self) -> Stats:
        """Exact figures of one moment; reads every score and lists every blob."""
        with self._server(), self._redis.pipeline(transaction=True) as pipe:
            meta, best = pipe.hmget(META, COUNTERS).zrange(BEST, 0, -1, withscores=True).execute()
        counters = {name: int(value or 0) for name, value in zip(COUNTERS, meta, strict=True)}
        scores = [score for _, score in best]
        blobs, blob_bytes = self._blobs.usage()
        return Stats(
            entries=len(scores),
            acceptance=counters["replacements"] / counters["offers"] if counters["offers"] else 0.0,
            mean_reward=math.fsum(map(_sigmoid, scores)) / len(scores) if scores else None,
            mean_log_odds=math.fsum(scores) / len(scores) if scores else None,
            blobs=blobs,
            blob_bytes=blob_bytes,
            **counters,
        )

    def sweep(self, grace_seconds: float) -> Swept:
        """Removes blobs that no entry has referred to for `grace_seconds`: replaced, or orphans of crashes.

        A dump stays restorable for as long, since what it refers to was replaced after it was taken, if at
        all. So the grace must exceed the age of the oldest checkpoint worth resuming, and the time from
        putting an image to offering it.
        """
        with self._server():
            referenced = {candidate.digest for entry in self.scan() for candidate in entry.candidates}
            # After the scan: what was replaced while it ran is either still in it or already here.
            horizon = self._redis.time()[0] - grace_seconds
            referenced.update(self._redis.zrangebyscore(RELEASED, f"({horizon!r}", "+inf"))
            swept = self._blobs.sweep(referenced, grace_seconds)
            self._redis.zremrangebyscore(RELEASED, "-inf", repr(horizon))
        return swept

    def dump(self) -> dict[str, Any]:
        """The pool's exact logical contents at one moment (not the images), fit for JSON: see `restore`."""
        with self._server(), self._redis.pipeline(transaction=True) as pipe:
            meta, stored = pipe.hgetall(META).hgetall(ENTRIES).execute()
        return {"meta": meta, "entries": stored}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Makes the contents those of a `dump`, at once. PoolError, and no change, where the dump is another
        scorer's or another `keep`'s, or where images that it refers to have been swept. No other process may
        be offering meanwhile."""
        meta, stored = state["meta"], state["entries"]
        self._check("the dump", meta)
        entries = [_entry(id, text) for id, text in stored.items()]
        referenced = {candidate.digest for entry in entries for candidate in entry.candidates}
        missing = sorted(digest for digest in referenced if not self._blobs.touch(digest))
        if missing:
            raise PoolError(
                f"{len(missing)} of the dump's {len(referenced)} images have been swept from {self._name}, "
                f"the first is {missing[0]}: resume from a newer checkpoint, and sweep with a longer grace"
            )
        dropped = {candidate.digest for entry in self.scan() for candidate in entry.candidates} - referenced
        with self._server(), self._redis.pipeline(transaction=True) as pipe:
            now = self._redis.time()[0]
            pipe.delete(META, ENTRIES, BEST)
            pipe.hset(META, mapping=meta)
            for page in _pages(entries):
                pipe.hset(ENTRIES, mapping={entry.id: stored[entry.id] for entry in page})
                pipe.zadd(BEST, {entry.id: entry.best.log_odds for entry in page})
            for digests in _pages(sorted(dropped)):
                pipe.zadd(RELEASED, dict.fromkeys(digests, now))
            pipe.execute()

    def close(self) -> None:
        """Ends the connection; what the pool holds stays."""
        self._redis.close()

    def _read(self, ids: Iterable[str]) -> Iterator[tuple[str, str | None]]:
        for page in _pages(list(ids)):
            with self._server():
                stored = self._redis.hmget(ENTRIES, page)
            yield from zip(page, stored, strict=True)

    @contextlib.contextmanager
    def _server(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PoolError(
                f"{self._name} does not serve ({reason.rstrip('.')}): see to its server"
            ) from error


def _entry(id: str, stored: str) -> Entry:
    entry = json.loads(stored)
    candidates = tuple(
        Candidate(
            digest=candidate["digest"],
            log_odds=float(candidate["log_odds"]),
            lineage=Lineage.model_validate_json(candidate["lineage"]),
        )
        for candidate in entry["candidates"]
    )
    return Entry(id=id, candidates=candidates, offers=entry["offers"], replacements=entry["replacements"])


def _pages(items: list[T]) -> Iterator[list[T]]:
    return (items[start : start + PAGE] for start in range(0, len(items), PAGE))


def _sigmoid(log_odds: float) -> float:
    """Without overflow at either end."""
    tail = math.exp(-abs(log_odds))
    return 1 / (1 + tail) if log_odds >= 0 else tail / (1 + tail)

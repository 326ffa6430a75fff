"""Keys of a pool on its server, and reading them: one shard, or several on a cluster.

The number of shards is fixed when a pool is made. An id belongs to one of them by its hash, and each has its
keys under a hash tag of its own, `{rgsud:NAME:K}:`, hence on one node of a cluster: `meta` hash (settings,
counters and sums), `entries` hash (id -> record: `common.lua`), `best` sorted set (id -> log-odds of its
best), `released` list (digest and when it was replaced), `histogram` and `timeline` hashes, `latest` sorted
set (the last ids replaced), `history` hash, `sources` hash (run, stage and worker -> number), `replays:0` and
`replays:1` hashes (the last replacements and batches, so that a repeated offer gets the same answer);
below `new:` what a restore puts aside.

All entries of a shard are in one hash. Packed into many small hashes, 100,000 entries took 21 bytes each less
on Valkey 9.1 (142 instead of 163) and 44 less on Redis 7.0 (191 instead of 235), at the price of a hash table
by hand.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from pool_store.engine import records
from pool_store.engine.connection import Script, Server
from pool_store.engine.images import Blobs
from pool_store.errors import PoolDamaged, PoolError
from pool_store.schemas import Entry
from rgsud_core.errors import first_line

T = TypeVar("T")
AMEND, READ = Script("amend"), Script("read")
BATCH = 256
"""Offers or ids in one call of a script."""
PAGE = 1000
"""Members of a collection in one command."""
REGISTRY = b"rgsud:pools"
"""Set of the names of a server's pools."""
KEYS = (
    *("meta", "entries", "best", "released", "histogram", "timeline", "latest", "history", "sources"),
    *("replays:0", "replays:1"),
)
Found: TypeAlias = tuple[int, str, float, bytes]
"""Shard, id, best score and record of an entry."""
Key: TypeAlias = Callable[[str], bytes]
"""Gives the full name of one of a shard's keys."""
Queue: TypeAlias = Callable[[Any, Key], object]
"""Queues commands on a transaction."""


def sliced(items: list[T], size: int = PAGE) -> Iterator[list[T]]:
    """The items in parts of `size` and a rest."""
    return (items[start : start + size] for start in range(0, len(items), size))


class Shards:
    """The reading half of the pool `name`. `count` is 1 until the pool's settings have been read."""

    def __init__(self, server: Server, blobs: Blobs, name: str) -> None:
        self.server, self.blobs, self.name, self.count = server, blobs, name, 1
        self._sources: dict[int, tuple[bytes, dict[int, bytes]]] = {}

    def key(self, shard: int, key: str) -> bytes:
        return f"{{rgsud:{self.name}:{shard}}}:{key}".encode()

    def of(self, id: str) -> int:
        """The shard that an id belongs to."""
        return records.hashes(id)[1] % self.count

    def transact(self, shard: int, queue: Queue) -> list[Any]:
        """The answers of a shard to commands that are executed atomically."""
        with self.server.answering(), self.server.transaction() as pipe:
            queue(pipe, partial(self.key, shard))
            answers: list[Any] = pipe.execute()
            return answers

    def transact_all(self, queue: Queue) -> list[list[Any]]:
        """The answers of every shard to the same commands, executed atomically in each of them."""
        return [self.transact(shard, queue) for shard in range(self.count)]

    def meta(self) -> dict[str, str]:
        """The settings, counters and sums of the first shard; empty where there is no such pool."""
        [found] = self.transact(0, lambda pipe, key: pipe.hgetall(key("meta")))
        return records.text(found)

    def amend(self, command: Literal["HSET", "HINCRBY"], **fields: int) -> None:
        """Changes fields of the first shard's `meta`; PoolError if the pool has been dropped."""
        self.server.run(
            AMEND, self.key(0, "meta"), [command, *(part for item in fields.items() for part in item)]
        )

    @contextlib.contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Raises PoolDamaged if what the server holds is no data of a pool: it may be somebody else's."""
        try:
            yield
        except (KeyError, ValueError, TypeError, struct.error) as error:
            raise PoolDamaged(
                f"{what} in {self.server.title} is damaged ({type(error).__name__}: {first_line(error)}): "
                "restore the pool from a copy, or delete it"
            ) from None

    def entries(self, ids: Iterable[str]) -> dict[str, Entry]:
        """The entries of those ids that have one."""
        return {found[1]: self.unpack(*found) for found in self.read(dict.fromkeys(ids))}

    def read(self, ids: Iterable[str]) -> Iterator[Found]:
        """The packed entries of those ids that have one."""
        grouped: dict[int, list[str]] = defaultdict(list)
        for id in ids:
            grouped[self.of(id)].append(id)
        batches = [(shard, batch) for shard, group in grouped.items() for batch in sliced(group, BATCH)]
        calls = [(self.key(shard, "meta"), batch) for shard, batch in batches]
        for (shard, batch), (birth, scores, found) in zip(
            batches, self.server.run_many(READ, calls), strict=True
        ):
            if self._sources.get(shard, (b"",))[0] != birth:  # dropped and made anew: other sources
                self._sources[shard] = birth, {}
            for id, score, record in zip(batch, scores, found, strict=True):
                if record is not None:
                    with self.reading(f"the entry of '{id}'"):
                        score = float(score)
                    yield shard, id, score, record

    def unpack(self, shard: int, id: str, score: float, record: bytes) -> Entry:
        with self.reading(f"the entry of '{id}'"):
            return records.unpack_entry(id, score, record, partial(self._source, shard))

    def _source(self, shard: int, number: int) -> bytes:
        known = self._sources[shard][1]
        if number not in known:
            [found] = self.transact(shard, lambda pipe, key: pipe.hgetall(key("sources")))
            known.update((int(place), packed) for packed, place in found.items())
        return known[number]

    def scan(self) -> Iterator[Entry]:
        """Every entry once, in no order; concurrent changes may or may not be seen."""
        return itertools.starmap(self.unpack, self.scan_records())

    def scan_records(self) -> Iterator[Found]:
        """Every packed entry once. Holds the ids that it has read in memory."""
        if "birth" not in self.meta():
            raise PoolError(f"{self.server.title} was emptied while the pool was open: open it anew")
        seen: set[bytes] = set()
        for shard in range(self.count):
            with self.server.answering():
                members = self.server.client.zscan_iter(self.key(shard, "best"), count=PAGE)
                while page := [id for id, _ in itertools.islice(members, PAGE)]:
                    # A set that is resized meanwhile may give a member twice.
                    new = [id for id in dict.fromkeys(page) if id not in seen]
                    with self.reading("an id"):
                        ids = [id.decode() for id in new]
                    yield from self.read(ids)
                    seen.update(page)

    def ranked(
        self, reverse: bool, low: float, high: float, start: int, step: int
    ) -> Iterator[tuple[float, str]]:
        """Best score and id by score, each shard's from rank `start` on, read `step` at a time."""
        by_shard = [self._ranked(shard, reverse, low, high, start, step) for shard in range(self.count)]
        return heapq.merge(*by_shard, key=lambda pair: pair[0], reverse=reverse)

    def _ranked(
        self, shard: int, reverse: bool, low: float, high: float, start: int, step: int
    ) -> Iterator[tuple[float, str]]:
        bounds = (high, low) if reverse else (low, high)
        options: dict[str, Any] = {"desc": reverse, "byscore": True, "withscores": True, "num": step}
        for offset in itertools.count(start, step):
            with self.server.answering():
                found = self.server.client.zrange(self.key(shard, "best"), *bounds, offset=offset, **options)
            with self.reading("an id"):
                pairs = [(score, id.decode()) for id, score in found]
            yield from pairs
            if len(found) < step:
                return

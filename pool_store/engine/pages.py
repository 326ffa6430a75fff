"""Pages of a pool's entries by score or by time."""

from __future__ import annotations

import itertools
from typing import Literal, TypeAlias

from pool_store.engine.shards import PAGE, Shards
from pool_store.schemas import Entry

Sort: TypeAlias = Literal["worst", "best", "recent"]


def page(
    shards: Shards,
    sort: Sort,
    offset: int,
    limit: int,
    minimum: float | None = None,
    maximum: float | None = None,
    contains: str | None = None,
) -> tuple[list[Entry], int]:
    """Entries `offset` to `offset + limit` of a ranking, and the length of the ranking.

    Args:
        sort: worst or best first by best log-odds, or the 512 replaced last, newest first.
        minimum, maximum: bounds of the best log-odds, both included.
        contains: part of the id, in upper or lower case; every id of the ranking is compared.
    """
    part = (contains or "").casefold()
    low, high = float("-inf" if minimum is None else minimum), float("inf" if maximum is None else maximum)
    if sort == "recent":
        ids = [id for id in _latest(shards) if part in id.casefold()]
        entries = shards.entries(ids)
        shown = [entries[id] for id in ids if id in entries and low <= entries[id].best.log_odds <= high]
        return shown[offset : offset + limit], len(shown)

    # One shard's ranking can be entered anywhere; a merged or filtered one has to be walked to the place.
    start, step = (offset, limit) if shards.count == 1 and not part else (0, PAGE)
    ranked = shards.ranked(sort == "best", low, high, start, step)
    if part:
        matching = [id for _, id in ranked if part in id.casefold()]
        total, ids = len(matching), matching[offset : offset + limit]
    else:
        counts = shards.transact_all(lambda pipe, key: pipe.zcount(key("best"), low, high))
        total = sum(count for [count] in counts)
        ids = [id for _, id in itertools.islice(ranked, offset - start, offset - start + limit)]
    entries = shards.entries(ids)
    return [entries[id] for id in ids if id in entries], total


def _latest(shards: Shards) -> list[str]:
    """The ids replaced last, newest first."""
    answers = shards.transact_all(lambda pipe, key: pipe.zrange(key("latest"), 0, -1, withscores=True))
    with shards.reading("an id"):
        found = [(time, id.decode()) for [items] in answers for id, time in items]
    return [id for _, id in sorted(found, reverse=True)]

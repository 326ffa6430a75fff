"""Pages of a pool's entries by score or by time, merged from its sub-pools."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

from pool_store.schemas import Entry

if TYPE_CHECKING:
    from pool_store.engine.pool import RewardPool

Sort: TypeAlias = Literal["worst", "best", "recent"]
PAGE = 1000
"""Scores read at a time, where it is not known how many will do."""


def page(
    pool: RewardPool,
    sort: Sort,
    offset: int,
    limit: int,
    minimum: float | None,
    maximum: float | None,
    contains: str | None,
) -> tuple[list[Entry], int]:
    """See `RewardPool.entries_page`."""
    part = (contains or "").casefold()
    if sort == "recent":
        ids = [id for id in _latest(pool) if part in id.casefold()]
        entries = pool.entries(ids)
        low, high = (
            float("-inf" if minimum is None else minimum),
            float("inf" if maximum is None else maximum),
        )
        shown = [entries[id] for id in ids if id in entries and low <= entries[id].best.log_odds <= high]
        return shown[offset : offset + limit], len(shown)

    low_text = "-inf" if minimum is None else repr(minimum)
    high_text = "+inf" if maximum is None else repr(maximum)
    # One sub-pool's ranking can be entered anywhere; a merged or filtered one has to be walked to the place.
    direct = pool.subpools == 1 and not part
    step = limit if direct else PAGE
    ranked = heapq.merge(
        *(
            _ranked(pool, number, sort == "best", low_text, high_text, offset if direct else 0, step)
            for number in range(pool.subpools)
        ),
        key=lambda pair: pair[0],
        reverse=sort == "best",
    )
    if part:
        matching = [id for _, id in ranked if part in id.casefold()]
        total, ids = len(matching), matching[offset : offset + limit]
    else:
        with pool.server.answering():
            total = sum(
                pool.server.client.zcount(pool.key(number, "best"), low_text, high_text)
                for number in range(pool.subpools)
            )
        start = 0 if direct else offset
        ids = [id for _, id in itertools.islice(ranked, start, start + limit)]
    entries = pool.entries(ids)
    return [entries[id] for id in ids if id in entries], total


def _ranked(
    pool: RewardPool, subpool: int, reverse: bool, low: str, high: str, start: int, step: int
) -> Iterator[tuple[float, str]]:
    """Score and id from rank `start` on, read `step` at a time."""
    while True:
        with pool.server.answering():
            found = pool.server.client.zrange(
                pool.key(subpool, "best"),
                high if reverse else low,
                low if reverse else high,
                desc=reverse,
                byscore=True,
                withscores=True,
                offset=start,
                num=step,
            )
        yield from ((score, id.decode()) for id, score in found)
        start += step
        if len(found) < step:
            return


def _latest(pool: RewardPool) -> list[str]:
    """The ids replaced last, newest first."""
    found: list[tuple[float, str]] = []
    for subpool in range(pool.subpools):
        with pool.server.answering():
            items = pool.server.client.zrange(pool.key(subpool, "latest"), 0, -1, withscores=True)
        found += ((time, id.decode()) for id, time in items)
    return [id for _, id in sorted(found, reverse=True)]

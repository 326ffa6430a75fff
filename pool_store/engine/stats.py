"""A pool's figures from the counters and sums that its script keeps: the cost does not grow with the pool."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from pool_store.schemas import Ages, Histogram, Minute, Quantiles, StageStats, Stats

if TYPE_CHECKING:
    from pool_store.engine.pool import RewardPool

LOWEST, WIDTH, BINS = -16.0, 0.25, 128
"""The histogram, as `decide.lua` counts it."""
MINUTES = 1440
SAMPLE = 256
SHARES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}


def collect(pool: RewardPool) -> Stats:
    """See `RewardPool.stats`; every sub-pool's figures are of one moment."""
    counts: Counter[str] = Counter()
    sums: list[float] = []
    rewards: list[float] = []
    bins: Counter[int] = Counter()
    minutes: dict[int, Counter[str]] = defaultdict(Counter)
    sizes: list[int] = []
    sample: list[str] = []
    size: int | None = None
    for subpool in range(pool.subpools):
        with pool.server.answering(), pool.server.transaction() as pipe:
            pipe.hgetall(pool.key(subpool, "meta"))
            pipe.zcard(pool.key(subpool, "best"))
            pipe.hgetall(pool.key(subpool, "histogram"))
            pipe.hgetall(pool.key(subpool, "timeline"))
            pipe.zrandmember(pool.key(subpool, "best"), max(1, SAMPLE // pool.subpools))
            found, entries, histogram, timeline, ids = pipe.execute()
        meta = {field.decode(): value.decode() for field, value in found.items()}
        if subpool == 0:
            size = int(meta["size"]) if "size" in meta else None
        sums += (float(meta.get(field, 0)) for field in ("sum", "sum_rest"))
        rewards += (float(meta.get(field, 0)) for field in ("rewards", "rewards_rest"))
        for field in meta:
            if field in ("offers", "replacements", "stale", "blobs", "blob_bytes") or ":" in field:
                counts[field] += int(meta[field])
        for bin, number in histogram.items():
            bins[int(bin)] += int(number)
        for minute, pair in timeline.items():
            offers, replacements = map(int, pair.split())
            minutes[int(minute)].update(offers=offers, replacements=replacements)
        sizes.append(entries)
        sample += (id.decode() for id in ids)

    entries, offers, replacements = sum(sizes), counts["offers"], counts["replacements"]
    stages = sorted({int(field.split(":")[1]) for field in counts if field.startswith("stage:")})
    oldest = max(minutes, default=0) - MINUTES
    return Stats(
        entries=entries,
        size=size,
        coverage=None if size is None else entries / size,
        offers=offers,
        replacements=replacements,
        kept=offers - replacements,
        stale=counts["stale"],
        acceptance=replacements / offers if offers else 0.0,
        mean_reward=math.fsum(rewards) / entries if entries else None,
        mean_log_odds=math.fsum(sums) / entries if entries else None,
        quantiles=_quantiles(pool, sizes),
        histogram=Histogram(
            edges=tuple(LOWEST + WIDTH * number for number in range(BINS + 1)),
            counts=tuple(bins[number] for number in range(BINS)),
        ),
        blobs=counts["blobs"],
        blob_bytes=counts["blob_bytes"],
        ages=_ages(pool, sample),
        per_stage={
            stage: StageStats(
                offers=counts[f"stage:{stage}:offers"], replacements=counts[f"stage:{stage}:replacements"]
            )
            for stage in stages
        },
        timeline=tuple(
            Minute(time=60 * minute, offers=pair["offers"], replacements=pair["replacements"])
            for minute, pair in sorted(minutes.items())
            if minute > oldest
        ),
    )


def _quantiles(pool: RewardPool, sizes: list[int]) -> Quantiles | None:
    """By rank. Ids are spread over sub-pools as if by lot, so the quantiles of each estimate the whole's."""
    weights: list[int] = []
    found: dict[str, list[float]] = defaultdict(list)
    for subpool, entries in enumerate(sizes):
        if not entries:
            continue
        with pool.server.answering(), pool.server.transaction() as pipe:
            for share in SHARES.values():
                rank = round(share * (entries - 1))
                pipe.zrange(pool.key(subpool, "best"), rank, rank, withscores=True)
            ranked: list[list[tuple[Any, float]]] = pipe.execute()
        if not all(ranked):  # emptied since
            continue
        weights.append(entries)
        for name, [(_, score)] in zip(SHARES, ranked, strict=True):
            found[name].append(score)
    if not weights:
        return None
    return Quantiles(**{name: statistics.fmean(scores, weights) for name, scores in found.items()})


def _ages(pool: RewardPool, sample: list[str]) -> Ages | None:
    now = time.time()
    ages = [now - entry.best.lineage.time for entry in pool.entries(sample).values()]
    if not ages:
        return None
    return Ages(oldest=max(ages), median=statistics.median(ages), newest=min(ages))

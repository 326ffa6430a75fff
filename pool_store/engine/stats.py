"""A pool's figures, from counters and sums that `decide.lua` maintains, at a cost independent of its size."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pool_store.engine.records import BINS, LOWEST, MINUTES, WIDTH, text
from pool_store.engine.shards import Key, Shards
from pool_store.schemas import Ages, Histogram, Minute, Quantiles, StageStats, Stats

COUNTERS = ("offers", "replacements", "stale", "blobs", "blob_bytes")
SAMPLE = 256
"""Entries whose ages are read."""
SHARES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}


class Totals:
    """Counters, sums, histogram and timeline of a pool, over the `meta`, `histogram` and `timeline` hashes of
    its shards."""

    def __init__(self, hashes: Iterable[Sequence[Mapping[bytes, bytes]]]) -> None:
        self.counts: Counter[str] = Counter()
        self.parts: dict[str, list[float]] = {"sum": [], "rewards": []}
        self.bins: Counter[int] = Counter()
        self.minutes: dict[int, Counter[str]] = defaultdict(Counter)
        for meta, histogram, timeline in hashes:
            for field, value in text(meta).items():
                if field in COUNTERS or field.startswith("stage:"):
                    self.counts[field] += int(value)
                elif (sum := field.removesuffix("_rest")) in self.parts:
                    self.parts[sum].append(float(value))
            self.bins.update({int(bin): int(number) for bin, number in histogram.items()})
            for minute, pair in timeline.items():
                offers, replacements = map(int, pair.split())
                self.minutes[int(minute)].update(offers=offers, replacements=replacements)


def collect(shards: Shards) -> Stats:
    """See `RewardPool.stats`; each shard's figures are of one moment."""

    def queue(pipe: Any, key: Key) -> None:
        for name in ("meta", "histogram", "timeline"):
            pipe.hgetall(key(name))
        pipe.zcard(key("best"))
        pipe.zrandmember(key("best"), max(1, SAMPLE // shards.count))

    answers = shards.transact_all(queue)
    totals = Totals(hashes for *hashes, _, _ in answers)
    counts, minutes = totals.counts, totals.minutes
    sizes = [entries for *_, entries, _ in answers]
    sample = [id.decode() for *_, ids in answers for id in ids]
    declared = answers[0][0].get(b"size")
    size = int(declared) if declared else None
    sums, rewards = (math.fsum(parts) for parts in totals.parts.values())
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
        mean_reward=rewards / entries if entries else None,
        mean_log_odds=sums / entries if entries else None,
        quantiles=_quantiles(shards, sizes),
        histogram=Histogram(
            edges=tuple(LOWEST + WIDTH * number for number in range(BINS + 1)),
            counts=tuple(totals.bins[number] for number in range(BINS)),
        ),
        blobs=counts["blobs"],
        blob_bytes=counts["blob_bytes"],
        ages=_ages(shards, sample),
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


def _quantiles(shards: Shards, sizes: Sequence[int]) -> Quantiles | None:
    """By rank. Ids are spread over the shards at random, so each shard's quantiles estimate the pool's."""
    weights: list[int] = []
    found: dict[str, list[float]] = defaultdict(list)
    for shard, entries in enumerate(sizes):

        def queue(pipe: Any, key: Key, last: int = entries - 1) -> None:
            for share in SHARES.values():
                pipe.zrange(key("best"), *[round(share * last)] * 2, withscores=True)

        ranked = shards.transact(shard, queue) if entries else []
        if ranked and all(ranked):  # else empty, perhaps only since
            weights.append(entries)
            for name, [(_, score)] in zip(SHARES, ranked, strict=True):
                found[name].append(score)
    if not weights:
        return None
    return Quantiles(**{name: statistics.fmean(scores, weights) for name, scores in found.items()})


def _ages(shards: Shards, sample: Sequence[str]) -> Ages | None:
    now = time.time()
    ages = [now - entry.best.lineage.time for entry in shards.entries(sample).values()]
    if not ages:
        return None
    return Ages(oldest=max(ages), median=statistics.median(ages), newest=min(ages))

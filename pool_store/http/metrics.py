"""Metrics of the pools, `rgsud_pool_*`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pool_store.errors import PoolError
from pool_store.schemas import Stats


class PoolCollector(Collector):
    """The figures of every pool, which `pools` returns at each scrape of Prometheus."""

    def __init__(self, pools: Callable[[], dict[str, Stats]]) -> None:
        self._pools = pools

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance, which spares the registry a collection at registration."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        try:
            stats = self._pools()
        except PoolError:
            stats = {}
            up = 0
        else:
            up = 1
        yield GaugeMetricFamily("rgsud_pool_up", "Whether Redis and the blob store answer.", value=up)
        for name, help, figure_of in _GAUGES:
            family = GaugeMetricFamily(f"rgsud_pool_{name}", help, labels=["pool"])
            for pool, figures in stats.items():
                figure = figure_of(figures)
                if figure is not None:
                    family.add_metric([pool], figure)
            yield family
        for kind, name, help, label, values in _LABELLED:
            labelled = kind(f"rgsud_pool_{name}", help, labels=["pool", label])
            for pool, figures in stats.items():
                for which, value in values(figures).items():
                    labelled.add_metric([pool, which], value)
            yield labelled


_GAUGES: tuple[tuple[str, str, Callable[[Stats], float | None]], ...] = (
    ("entries", "Images that have a reward.", lambda s: s.entries),
    ("size", "Images of the data set, where declared.", lambda s: s.size),
    ("coverage", "Part of the data set that has a reward.", lambda s: s.coverage),
    ("acceptance", "Replacements by offers.", lambda s: s.acceptance),
    ("mean_log_odds", "Mean log-odds of each image's best reward.", lambda s: s.mean_log_odds),
    ("mean_reward", "Mean reward (0 to 1) of each image's best.", lambda s: s.mean_reward),
    ("blobs", "Images in the blob store.", lambda s: s.blobs),
    ("blob_bytes", "Bytes in the blob store.", lambda s: s.blob_bytes),
)


def _quantiles(stats: Stats) -> dict[str, float]:
    found = stats.quantiles.model_dump() if stats.quantiles else {}
    return {f"0.{name[1:]}": value for name, value in found.items()}


def _ages(stats: Stats) -> dict[str, float]:
    return stats.ages.model_dump() if stats.ages else {}


def _offers(stats: Stats) -> dict[str, float]:
    kept = stats.offers - stats.replacements
    return {"replaced": stats.replacements, "kept": kept, "stale": stats.stale}


_LABELLED = (
    (GaugeMetricFamily, "log_odds", "Quantiles of the best log-odds.", "quantile", _quantiles),
    (GaugeMetricFamily, "reward_age_seconds", "Age of the rewards served.", "which", _ages),
    (CounterMetricFamily, "offers", "Offers by what became of them.", "decision", _offers),
)

"""The page that `pool_scale.py` writes: what was measured, and what follows from it for larger data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from pages import commit, duration, fill, in_bytes, table

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
ENTERING = 0.1
"""Share of an epoch's candidates that enter the pool, for what is computed."""
ROWS = (
    ("decisions/s, in process, 1,024 pipelined", "decisions_per_s", "{:,.0f}"),
    ("one decision, ms, p50", "decision_p50_ms", "{:.2f}"),
    ("one decision, ms, p99", "decision_p99_ms", "{:.2f}"),
    ("accepted 200 KB images/s, in process", "accepted_per_s", "{:,.0f}"),
    ("eight of them, offered together, ms, p50", "accepted_8_p50_ms", "{:.1f}"),
    ("eight of them, ms, p99", "accepted_8_p99_ms", "{:.1f}"),
    ("decisions/s, HTTP, batches of 64", "http_decisions_per_s", "{:,.0f}"),
    ("one batch of 64, HTTP, ms, p50", "http_batch_of_64_p50_ms", "{:.1f}"),
    ("one batch of 64, HTTP, ms, p99", "http_batch_of_64_p99_ms", "{:.1f}"),
    ("accepted 200 KB images/s, HTTP", "http_accepted_per_s", "{:,.0f}"),
    ("the same, encoded beforehand", "http_encoded_per_s", "{:,.0f}"),
    ("one of them, HTTP: ms of the client's processor", "http_accepted_client_cpu_ms", "{:.2f}"),
    ("one of them, HTTP: ms of the service's processor", "http_accepted_service_cpu_ms", "{:.2f}"),
    ("eight of them, HTTP, ms, p50", "http_accepted_8_p50_ms", "{:.1f}"),
    ("eight of them, HTTP, ms, p99", "http_accepted_8_p99_ms", "{:.1f}"),
    ("finding one id in the server, us", "lookup_us", "{:.2f}"),
    ("all statistics, ms, p50", "stats_p50_ms", "{:.2f}"),
    ("bytes an entry in Redis", "redis_bytes_per_entry", "{:.0f}"),
    ("ready after a start, s", "ready_s", "{:.1f}"),
)


HEADS = ("images", "Redis", "images on disk", "sub-pools", "pool, per epoch, one client", "size")
NAIVE = (
    ("decisions/s (pool: batches)", "decisions_per_s", "{:,.0f}"),
    ("one decision, ms, p50", "decision_p50_ms", "{:.2f}"),
    ("accepted images/s", "accepted_per_s", "{:,.0f}"),
    ("bytes an entry in Redis", "redis_bytes_per_entry", "{:,.0f}"),
)
Results = Mapping[str, float]


def write_page(page: Path, results: Results, entries: Sequence[int], command: str, machine: str) -> None:
    """Writes `page` and, beside it, its plot as PNG."""
    plot = page.with_suffix(".png")
    _plot(plot, results, entries)
    least, most = min(entries), max(entries)
    decisions, accepted = (results[f"{most}_http_{what}_per_s"] for what in ("decisions", "accepted"))
    each = 1e3 / decisions + ENTERING * 1e3 / accepted
    measured = [
        [label, *(shape.format(results[f"{number}_{key}"]) for number in entries)]
        for label, key, shape in ROWS
    ]
    against = [
        [label, shape.format(ours), shape.format(theirs), f"{ours / theirs:.4g}"]
        for label, key, shape in NAIVE
        for ours, theirs in [(results[f"{most}_{key}"], results[f"naive_{key}"])]
    ]
    computed = [
        [
            f"{number:,}",
            in_bytes(number * results[f"{most}_redis_bytes_per_entry"]),
            in_bytes(number * results["blob_bytes"]),
            f"{max(1, -(-number // 10_000_000)):,}",
            duration(number * each / 1e3),
            "measured" if number in entries else "within" if number < most else "beyond",
        ]
        for number in SIZES
    ]
    fill(
        "pool_scale.md",
        page,
        command=command,
        commit=commit(),
        machine=machine,
        plot=plot.name,
        measured=table(["", *(f"{number:,} entries" for number in entries)], measured),
        smallest=least,
        largest=most,
        slower=results[f"{least}_decisions_per_s"] / results[f"{most}_decisions_per_s"],
        lookup=results[f"{most}_lookup_us"] / results[f"{least}_lookup_us"],
        encode_ms=results["encode_ms"],
        against=table(["", "the pool", "naive", "ratio"], against),
        entering=ENTERING,
        blob_kb=results["blob_bytes"] / 1e3,
        each=each,
        computed=table(
            ["images", "Redis", "images on disk", "sub-pools", "pool, per epoch, one client", "size"],
            computed,
        ),
    )


def _plot(path: Path, results: Results, entries: Sequence[int]) -> None:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    rates, sizes = figure.subplots(1, 2)
    for key, label in (
        ("decisions_per_s", "decisions, in process"),
        ("http_decisions_per_s", "decisions, HTTP"),
        ("http_accepted_per_s", "accepted images, HTTP"),
    ):
        rates.plot(entries, [results[f"{number}_{key}"] for number in entries], "o-", label=label)
    rates.axhline(results["naive_decisions_per_s"], color="grey", ls="--", label="decisions, naive")
    rates.set(xscale="log", yscale="log", xlabel="entries", ylabel="per second", title="Rates")
    rates.legend(fontsize=8)
    sizes.plot(
        entries, [results[f"{number}_redis_bytes_per_entry"] for number in entries], "o-", label="the pool"
    )
    sizes.axhline(results["naive_redis_bytes_per_entry"], color="grey", ls="--", label="naive")
    sizes.set(xscale="log", yscale="log", xlabel="entries", ylabel="bytes an entry", title="Redis memory")
    sizes.legend(fontsize=8)
    figure.savefig(path, dpi=110)

"""The page that `pool_scale.py` writes: what was measured, and what follows from it for larger data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from pages import commit, duration, in_bytes, row

matplotlib.use("Agg")

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


def write_page(
    page: Path, results: Mapping[str, float], entries: Sequence[int], command: str, machine: str
) -> None:
    """Writes `page` and, beside it, its plot as PNG."""
    plot = page.with_suffix(".png")
    _plot(plot, results, entries)
    largest = max(entries)
    decisions, accepted = (
        results[f"{largest}_http_decisions_per_s"],
        results[f"{largest}_http_accepted_per_s"],
    )
    size, blob = results[f"{largest}_redis_bytes_per_entry"], results["blob_bytes"]
    each = 1e3 / decisions + ENTERING * 1e3 / accepted
    flat = results[f"{min(entries)}_decisions_per_s"] / results[f"{largest}_decisions_per_s"]
    lookup = results[f"{largest}_lookup_us"] / results[f"{min(entries)}_lookup_us"]
    lines = [
        "# What the reward pool costs, by the size of the data set",
        "",
        f"`{command}` at commit {commit()}, {machine}.",
        "One run; the pools took turns. Every log is synced before an answer (`appendfsync always`), every",
        "image and its folder before the offer that names it.",
        "",
        f"![rates and bytes by entries]({plot.name})",
        "",
        "## Measured",
        "",
        row("", *(f"{number:,} entries" for number in entries)),
        row("---", *("---" for _ in entries)),
        *(
            row(label, *(shape.format(results[f"{number}_{key}"]) for number in entries))
            for label, key, shape in ROWS
        ),
        "",
        f"- From {min(entries):,} to {largest:,} entries a decision takes {flat:.2f} times as long.",
        "  What is large no longer fits the processor's caches: to find an id in the server's own sorted set",
        f"  takes {lookup:.1f} times as long, and what enters has to walk that set.",
        "- Client, service and server share the machine's cores. Decisions are for random images; about a",
        "  tenth enters.",
        f"- An accepted image includes its encoding by the client, {results['encode_ms']:.1f} ms. By HTTP,",
        "  sixteen groups of eight are under way at a time.",
        "- Bytes in Redis are those of the whole server over its entries, ids of ten characters, `keep: 1`.",
        "",
        "## Against the first idea",
        "",
        "Score and image in one Redis hash, compared by the client under WATCH/MULTI; same log and machine.",
        "",
        row("", "the pool", "naive", "ratio"),
        row("---", "---", "---", "---"),
        *_against(results, largest),
        "",
        "The pool's bytes of images are on disk or in an object store, where they cost a hundredth.",
        "",
        "## Computed from it",
        "",
        f"An epoch offers one candidate for every image, over HTTP, and {ENTERING:.0%} enter, each with",
        f"{blob / 1e3:,.0f} KB: {each:.2f} ms of waiting for each training image. All rows are computed,",
        f"from figures of the largest pool measured, {largest:,} entries. What one server cannot hold",
        "or serve is divided into sub-pools of 10 million entries, on as many shards as one likes.",
        "",
        row("images", "Redis", "images on disk", "sub-pools", "pool, per epoch, one client", "size"),
        row(*("---" for _ in range(6))),
        *(
            row(
                f"{number:,}",
                in_bytes(number * size),
                in_bytes(number * blob),
                f"{max(1, -(-number // 10_000_000)):,}",
                duration(number * each / 1e3),
                "measured" if number in entries else "within" if number < largest else "beyond",
            )
            for number in SIZES
        ),
        "",
        "The cost grows as the data set does: a constant for each image. Candidates are offered beside the",
        "training step, which does not wait for it.",
    ]
    page.write_text("\n".join(lines) + "\n")


def _against(results: Mapping[str, float], largest: int) -> list[str]:
    pairs = (
        ("decisions/s (pool: batches)", f"{largest}_decisions_per_s", "naive_decisions_per_s", "{:,.0f}"),
        ("one decision, ms, p50", f"{largest}_decision_p50_ms", "naive_decision_p50_ms", "{:.2f}"),
        ("accepted images/s", f"{largest}_accepted_per_s", "naive_accepted_per_s", "{:,.0f}"),
        (
            "bytes an entry in Redis",
            f"{largest}_redis_bytes_per_entry",
            "naive_redis_bytes_per_entry",
            "{:,.0f}",
        ),
    )
    return [
        row(
            label,
            shape.format(results[ours]),
            shape.format(results[theirs]),
            f"{results[ours] / results[theirs]:.4g}",
        )
        for label, ours, theirs, shape in pairs
    ]


def _plot(path: Path, results: Mapping[str, float], entries: Sequence[int]) -> None:
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

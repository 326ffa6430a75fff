"""The page that `scaling.py` writes: what recycling costs a training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from pages import fill, table

WAYS = {
    "within": "within the step (`synchronous: true`)",
    "beside": "beside it, scorer in the same process (`launch: inline`)",
    "served": "beside it, scorer on Ray Serve (`launch: ray`)",
}
COSTS = {
    "adds to a step": ("added_share", ".1%"),
    "of that arithmetic": ("arithmetic_share", ".1%"),
    "beyond it": ("beyond_share", "+.1%"),
    "processor time": ("cpu_added_share", "+.1%"),
    "candidates/s": ("candidates_per_s", ".2f"),
}
TARGET = 0.10
"""Largest share of a step that recycling may add beyond its arithmetic."""
Cases = Sequence[tuple[str, int]]


def write_page(page: Path, figures: Mapping[str, float], cases: Cases, heading: str) -> None:
    """Writes `page` and, beside it, its plot as PNG, for the ways and cadences that were measured."""
    plot = page.with_suffix(".png")
    _plot(plot, figures, cases)
    costs = [
        [
            WAYS[way],
            every,
            *(f"{figures[f'{way}_every{every}_{key}']:{form}}" for key, form in COSTS.values()),
        ]
        for way, every in cases
    ]
    fill(
        "scaling.md",
        page,
        heading=heading,
        plot=plot.name,
        costs=table(["way", "every", *COSTS], costs),
        arithmetic_ms=figures["alone_derain_ms"] + figures["alone_score_ms"],
        lost=sum(figures[f"{way}_every{every}_lost"] for way, every in cases),
        **figures,
    )


def _plot(path: Path, figures: Mapping[str, float], cases: Cases) -> None:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots()
    for way, style in (("within", "o-"), ("beside", "s-"), ("served", "^-")):
        cadences = [every for each, every in cases if each == way]
        added = [100 * figures[f"{way}_every{every}_added_share"] for every in cadences]
        axes.plot(cadences, added, style, label=WAYS[way])
    cadences = [every for each, every in cases if each == "within"]
    asked = [100 * figures["within_every1_arithmetic_share"] / every for every in cadences]
    axes.plot(cadences, asked, color="black", lw=1, label="arithmetic: derain and score, alone")
    allowed = [share + 100 * TARGET for share in asked]
    axes.plot(cadences, allowed, color="grey", ls="--", lw=1, label=f"arithmetic and {TARGET:.0%} of a step")
    axes.set_xscale("log", base=2)
    axes.set_xticks(cadences, [str(every) for every in cadences])
    axes.set(xlabel="steps between two candidates", ylabel="% added to a step", title="Cost of recycling")
    axes.axhline(0, color="black", lw=0.5)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)

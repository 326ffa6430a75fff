"""Plots as SVG for a page: colours are those of its themes, and text is text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

COLOURS = 8
"""Number of colours that lines can be told apart by."""
WIDE, USUAL, SMALL = (8.2, 2.8), (4.1, 2.5), (4.1, 1.7)
"""Sizes of plots, in 100 pixels of the page."""
INK, FAINT, GRID, SHADE, PAPER = "#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005"
_THEME = {INK: "--ink", FAINT: "--faint", GRID: "--line", SHADE: "--shade", PAPER: "--panel"}
_POINTS = 300
_RULES: dict[Any, Any] = {
    "svg.fonttype": "none",  # text of the page, not outlines
    "text.parse_math": False,
    "font.size": 8,
    "text.color": FAINT,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.ymargin": 0.12,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "xtick.labelcolor": FAINT,
    "ytick.color": GRID,
    "ytick.labelcolor": FAINT,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Places on the two axes, finite and in order of the first."""


def colour(place: int) -> str:
    """The colour of a line by its place; the page has it as ``--c1`` to ``--c8``."""
    return f"#0b00{place % COLOURS + 1:02d}"


def curve(points: Iterable[tuple[float, float]]) -> Curve:
    """Points that can be drawn, thinned to a few hundred: each is then a mean over neighbours."""
    kept = [point for point in points if all(map(math.isfinite, point))]
    if not kept:
        return np.empty(0), np.empty(0)
    table = np.array(kept)
    if len(table) > _POINTS:
        table = np.stack([part.mean(0) for part in np.array_split(table, _POINTS)])
    return table[:, 0], table[:, 1]


def plot(
    title: str,
    draw: Callable[..., None],
    size: tuple[float, float] = USUAL,
    heights: Sequence[float] = (1,),
) -> Markup:
    """A drawing as SVG to stand within HTML.

    Args:
        title: what readers of screens say instead.
        draw: gets an axes for each of the ``heights``, which share what is to their right.
    """
    with matplotlib.rc_context(_RULES | {"svg.hashsalt": title + str(size)}):
        figure = Figure(
            figsize=size,
            layout=ConstrainedLayoutEngine(h_pad=0.03, w_pad=0.02, hspace=0.03),
            facecolor="none",
        )
        axes = figure.subplots(len(heights), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for one in axes:
            one.set_facecolor("none")
            one.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=2, steps=[1, 2, 2.5, 5, 10]))
        draw(*axes)
        for one in axes[:-1]:
            one.tick_params(axis="x", length=0, labelbottom=False)
        return _markup(figure, title)


def over_samples(axes: Axes) -> None:
    """The horizontal axis counts rainy crops."""
    axes.set_xlabel("rainy crops trained on")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_xlim(left=0)


def over_minutes(axes: Axes) -> None:
    """The horizontal axis is training time."""
    axes.set_xlabel("minutes of training")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlim(left=0)


def stage2(axes: Axes, began: float | None, end: float, said: bool = True) -> None:
    """Shade the part of the axis in which stage 2 trains."""
    if began is None or not began < end:
        return
    axes.axvspan(began, end, color=SHADE, lw=0, zorder=0.1)
    axes.axvline(began, color=FAINT, lw=0.8, ls=(0, (2, 2)))
    if said:
        placed: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate("stage 2", (began, 1), xytext=(4, -2), va="top", color=FAINT, **placed)


def short(value: float) -> str:
    """A number in a few signs: 1200 is 1.2k."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"


def _markup(figure: Figure, title: str) -> Markup:
    from io import StringIO

    text = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # What would hold for the whole page, or is the same in every plot.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    svg = re.sub(r"\s*<g/>|\s*<defs>\s*</defs>", "", svg)
    for name, variable in _THEME.items():
        svg = svg.replace(name, f"var({variable})")
    svg = re.sub(r"#0b00(\d\d)", lambda found: f"var(--c{int(found[1])})", svg)
    head, rest = svg.split(">", 1)
    size = re.search(r'viewBox="[^"]*"', head)
    view = size[0] if size else ""
    return Markup('<svg {} role="img" aria-label="{}">').format(Markup(view), title) + Markup(rest)

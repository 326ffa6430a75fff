"""The plots of one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from trainer.reporting.html.curves import (
    FAINT,
    PAPER,
    SMALL,
    USUAL,
    WIDE,
    Curve,
    colour,
    curve,
    over_samples,
    plot,
    stage2,
)
from trainer.reporting.html.folder import RunFolder, number
from trainer.reporting.html.scores import Graded

_BARS = 60
_MARKS: dict[str, Any] = {"marker": "o", "ms": 3.4, "mec": PAPER, "mew": 0.8, "clip_on": False}
_LOSSES = 12
"""Loss terms that are drawn; a method has seldom more than eight."""


def figure_of(run: RunFolder, name: str) -> Curve:
    """A figure of the lines by its name in the file, over rainy crops."""
    lines = run.evaluations if name.startswith("validation/") else run.steps
    return curve((number(line.samples), number(line.figures().get(name))) for line in lines)


def losses(run: RunFolder) -> list[str]:
    """Names of the loss terms, as the lines have them, in order of appearance."""
    found = dict.fromkeys(name for line in run.steps for name in line.figures() if name.startswith("loss/"))
    return list(found)[:_LOSSES]


def quality(run: RunFolder) -> list[Markup]:
    """PSNR-Y of the validation pairs, and below it the rewards that entered the pool (the paper's Fig. 1a);
    for wide and for narrow pages. Empty where neither is known."""
    measured, entered = figure_of(run, "validation/psnr_y"), _entered(run)
    if not len(measured[0]) and not entered:
        return []
    end, rainy = _end(run), run.rainy_psnr_y()

    def draw_psnr(axes: Axes) -> None:
        stage2(axes, run.stage2, end)
        axes.plot(*measured, color=colour(0), **_MARKS)
        if math.isfinite(rainy):
            axes.axhline(rainy, color=FAINT, lw=1, ls=(0, (4, 3)))
            axes.annotate(
                "rainy images", (1, rainy), xycoords=("axes fraction", "data"), xytext=(-2, 3),
                textcoords="offset points", ha="right", color=FAINT,
            )  # fmt: skip
        axes.set_ylabel("PSNR-Y, dB")

    def draw_entered(axes: Axes, said: bool) -> None:
        stage2(axes, run.stage2, end, said)
        edges = np.linspace(0, end, _BARS + 1)
        at = np.array([samples for samples, _, _ in entered])
        first, better = (
            np.histogram(at, edges, weights=[each[place] for each in entered])[0] for place in (1, 2)
        )
        width = end / _BARS
        axes.bar(edges[:-1], better, width * 0.82, align="edge", color=colour(1), lw=0)
        axes.bar(edges[:-1], first, width * 0.82, better, align="edge", color=colour(1), alpha=0.35, lw=0)
        axes.set_ylabel("rewards")
        axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))

    def draw(*axes: Axes) -> None:
        if len(measured[0]):
            draw_psnr(axes[0])
        if entered:
            draw_entered(axes[-1], said=not len(measured[0]))
        over_samples(axes[-1])
        axes[-1].set_xlim(0, end)

    heights = (3.2, 1) if len(measured[0]) and entered else (1,)
    title = "PSNR-Y of the validation pairs and rewards that entered the pool, over rainy crops"
    return [plot(title, draw, size, heights) for size in (WIDE, (USUAL[0], 3.1))]


def ssim(run: RunFolder) -> Markup | None:
    """SSIM-Y of the validation pairs."""
    return _single(run, "SSIM-Y of the validation pairs", "validation/ssim_y", "SSIM-Y", marked=True)


def entries(run: RunFolder) -> Markup | None:
    """Rainy images that have a reward."""
    return _single(run, "Rainy images with a reward", "pool/entries", "images", place=1, filled=True)


def mean_score(run: RunFolder) -> Markup | None:
    """Mean score of the pool."""
    return _single(run, "Mean score of the rewards", "pool/mean_log_odds", "log-odds", place=1)


def loss(run: RunFolder, name: str, place: int) -> Markup | None:
    """A loss term: the last step of each line, and a running mean."""
    x, y = figure_of(run, name)
    if not len(x):
        return None
    reach = max(1, len(y) // 20)
    padded = np.concatenate([np.full(reach, y[0]), y, np.full(reach, y[-1])])
    smooth = np.convolve(padded, np.full(2 * reach + 1, 1 / (2 * reach + 1)), "valid")

    def draw(axes: Axes) -> None:
        stage2(axes, run.stage2, _end(run), said=False)
        axes.plot(x, y, color=colour(place), lw=0.8, alpha=0.4)
        axes.plot(x, smooth, color=colour(place))
        over_samples(axes)
        axes.set_xlabel("")
        axes.set_xlim(0, _end(run))

    return plot(f"Loss term {place + 1}", draw, SMALL)


def rate(run: RunFolder) -> Markup | None:
    """Milliseconds of a step, and what they go to."""
    if not run.steps:
        return None
    x, step = figure_of(run, "rate/step_ms")
    parts = [figure_of(run, f"rate/{name}_ms") for name in ("data", "candidates")]
    whole = all(len(part[0]) == len(x) for part in parts)

    def draw(axes: Axes) -> None:
        stage2(axes, run.stage2, _end(run))
        if whole:
            waiting, candidates = (part[1] for part in parts)
            networks = np.maximum(0, step - waiting - candidates)
            shades = [colour(0), colour(1), colour(2)]
            axes.stackplot(x, networks, candidates, waiting, colors=shades, alpha=0.75, lw=0)
        else:
            axes.plot(x, step, color=colour(0))
        axes.set_ylabel("ms a step")
        axes.set_ylim(bottom=0)
        over_samples(axes)
        axes.set_xlim(0, _end(run))

    return plot("Milliseconds of a step", draw) if len(x) else None


def images_per_second(run: RunFolder) -> Markup | None:
    """Rainy crops a second."""
    return _single(run, "Rainy crops a second", "rate/images_per_second", "crops a second", zero=True)


def scores(graded: Sequence[Graded]) -> list[Markup]:
    """Score against PSNR-Y of candidates, by stage (the paper's Fig. 1b); and both less the means over the
    candidates of their image, since scores compare versions of one image."""
    means = {
        id: np.mean([(one.log_odds, one.psnr_y) for one in graded if one.id == id], axis=0)
        for id in {one.id for one in graded}
    }

    def draw(axes: Axes, centred: bool) -> None:
        for stage, place in ((1, 0), (2, 1)):
            some = [one for one in graded if one.stage == stage]
            table = np.array([(one.log_odds, one.psnr_y) - centred * means[one.id] for one in some])
            x, y = table.reshape(-1, 2).T
            axes.scatter(x, y, 14, color=colour(place), alpha=0.7, linewidths=0)
        axes.set_xlabel("score, log-odds")
        axes.set_ylabel("true PSNR-Y, dB")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(True, axis="both")

    titles = ("Scores of candidates against their true PSNR-Y", "The same, less the mean of each image")
    return [plot(title, partial(draw, centred=bool(centred))) for centred, title in enumerate(titles)]


def _single(
    run: RunFolder,
    title: str,
    name: str,
    unit: str,
    place: int = 0,
    *,
    marked: bool = False,
    filled: bool = False,
    zero: bool = False,
) -> Markup | None:
    x, y = figure_of(run, name)
    if not len(x):
        return None

    def draw(axes: Axes) -> None:
        stage2(axes, run.stage2, _end(run))
        marks: dict[str, Any] = _MARKS if marked or len(x) == 1 else {}
        axes.plot(x, y, color=colour(place), **marks)
        if filled:
            axes.fill_between(x, y, color=colour(place), alpha=0.12, lw=0)
        if filled or zero:
            axes.set_ylim(0, 1.2 * max(y.max(), 1e-9))
        axes.set_ylabel(unit)
        over_samples(axes)
        axes.set_xlim(0, _end(run))

    return plot(title, draw)


def _end(run: RunFolder) -> float:
    """Where the horizontal axis ends, in rainy crops."""
    ends = [number(line.samples) for line in (*run.steps, *run.evaluations)]
    return max([1.0, *(end for end in ends if math.isfinite(end))])


def _entered(run: RunFolder) -> list[tuple[float, float, float]]:
    """Rainy crops, first rewards of an image and rewards replaced by better ones, between two lines."""
    found, before, images = [], 0.0, 0.0
    for line in run.steps:
        if line.pool_replacements is None or line.pool_entries is None:
            continue
        now, entries = number(line.pool_replacements), number(line.pool_entries)
        first = max(0.0, entries - images)
        better = max(0.0, now - before - first)
        if math.isfinite(first) and math.isfinite(better):
            found.append((number(line.samples), first, better))
        before, images = now, entries
    return [each for each in found if math.isfinite(each[0])]

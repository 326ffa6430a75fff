"""Several runs beside each other: results, curves on common axes, differences of settings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from trainer.reporting.html.curves import (
    COLOURS,
    PAPER,
    USUAL,
    colour,
    curve,
    over_minutes,
    over_samples,
    plot,
)
from trainer.reporting.html.drawings import figure_of
from trainer.reporting.html.folder import RunFolder, number
from trainer.reporting.html.format import decimals, duration
from trainer.reporting.html.settings import differences, yaml_line
from trainer.reporting.lines import EvaluationLine, StepLine

_CURVES = {
    "validation/psnr_y": ("PSNR-Y of the validation pairs", "dB"),
    "validation/ssim_y": ("SSIM-Y of the validation pairs", "SSIM-Y"),
    "validation/psnr_rgb": ("PSNR-RGB of the validation pairs", "dB"),
    "pool/entries": ("Rainy images with a reward", "images"),
    "pool/mean_log_odds": ("Mean score of the rewards", "log-odds"),
    "pool/acceptance": ("Share of the offers that were accepted", "0 to 1"),
    "rate/images_per_second": ("Rainy crops a second", "crops a second"),
}
_LOSSES = 16


@dataclass(frozen=True)
class Named:
    """A run with the name and the colour that it has on the page."""

    run: RunFolder
    label: str
    place: int


@dataclass(frozen=True)
class Cell:
    """A cell of the table of results."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Drawn:
    """A plot of a figure."""

    title: str
    svg: Markup
    missing: Sequence[str]
    """Labels of the runs that have no such figure."""


def content(found: Sequence[RunFolder]) -> dict[str, Any]:
    """What the page of a comparison shows."""
    runs = _named(found)
    settings = [(key, values) for key, values in differences([one.run.settings for one in runs])]
    machines = [{key: yaml_line(value) for key, value in one.run.environment.items()} for one in runs]
    keys = dict.fromkeys(key for machine in machines for key in machine)
    surroundings = [(key, [machine.get(key, "–") for machine in machines]) for key in keys]
    return {
        "runs": runs,
        "columns": [heading for heading, *_ in _COLUMNS],
        "rows": _table(runs),
        "plots": list(_plots(runs)),
        "settings": [each for each in settings if each[0] != "name"],
        "unknown": [(one.label, one.run.problem) for one in runs if one.run.problem],
        "environment": [(key, values) for key, values in surroundings if len(set(values)) > 1],
    }


def _named(found: Sequence[RunFolder]) -> list[Named]:
    """Runs by name; by folder too where several have one name."""
    times = Counter(run.name for run in found)
    return [
        Named(run, run.name if times[run.name] == 1 else f"{run.name} ({run.folder})", place % COLOURS + 1)
        for place, run in enumerate(found)
    ]


def _measured(run: RunFolder) -> EvaluationLine | None:
    return run.evaluations[-1] if run.evaluations else None


def _step(run: RunFolder) -> StepLine | None:
    return run.steps[-1] if run.steps else None


def _of(line: object, name: str) -> float:
    return number(getattr(line, name, None))


def _rate(run: RunFolder) -> float:
    rates = sorted(rate for line in run.steps if math.isfinite(rate := number(line.images_per_second)))
    return rates[len(rates) // 2] if rates else math.nan


def _whole(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}"


_COLUMNS: tuple[tuple[str, Callable[[RunFolder], float], Callable[[float], str], bool], ...] = (
    ("PSNR-Y, dB", lambda run: _of(_measured(run), "psnr_y"), lambda x: decimals(x, 2), True),
    ("gain, dB", lambda run: _of(_measured(run), "gain_db"), lambda x: decimals(x, 2, sign=True), True),
    ("SSIM-Y", lambda run: _of(_measured(run), "ssim_y"), lambda x: decimals(x, 4), True),
    (
        "best PSNR-Y, dB",
        lambda run: max(
            (x for e in run.evaluations if math.isfinite(x := number(e.psnr_y))), default=math.nan
        ),
        lambda x: decimals(x, 2),
        True,
    ),
    ("rainy crops", lambda run: _of(run.last, "samples"), _whole, False),
    ("training time", lambda run: _of(run.last, "seconds"), duration, False),
    ("crops a second (median)", _rate, lambda x: decimals(x, 1), True),
    ("stage 2 from crop", lambda run: number(run.stage2), _whole, False),
    ("rewards", lambda run: _of(_step(run), "pool_entries"), _whole, False),
    ("mean score", lambda run: _of(_step(run), "pool_mean_log_odds"), lambda x: decimals(x, 2), False),
    ("offers accepted", lambda run: 100 * _of(_step(run), "pool_acceptance"), lambda x: _percent(x), False),
)
"""Heading, value, text, and whether the highest value is the best one."""


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f}%"


def _table(runs: Sequence[Named]) -> list[tuple[Named, list[Cell]]]:
    columns = []
    for _, value, text, compared in _COLUMNS:
        values = [value(one.run) for one in runs]
        finite = [each for each in values if math.isfinite(each)]
        best = max(finite) if compared and len(finite) > 1 and min(finite) < max(finite) else math.nan
        columns.append([Cell(text(each), each == best) for each in values])
    return [(one, [column[place] for column in columns]) for place, one in enumerate(runs)]


def _plots(runs: Sequence[Named]) -> list[Drawn]:
    losses = dict.fromkeys(
        name for one in runs for line in one.run.steps for name in line.figures() if name.startswith("loss/")
    )
    wanted = _CURVES | {name: (f"Loss {name.removeprefix('loss/')}", "") for name in list(losses)[:_LOSSES]}
    drawn = []
    for place, (name, (title, unit)) in enumerate(wanted.items()):
        drawn.append(_drawn(runs, name, title, unit, f"Plot {place + 1}"))
        if name == "validation/psnr_y":
            drawn.append(_drawn(runs, name, f"{title}, over time", unit, "PSNR-Y over time", timed=True))
    return [each for each in drawn if each is not None]


def _drawn(
    runs: Sequence[Named], name: str, title: str, unit: str, spoken: str, timed: bool = False
) -> Drawn | None:
    curves = {
        one.label: (one, _over_time(one.run, name) if timed else figure_of(one.run, name)) for one in runs
    }
    known = [each for each in curves.values() if len(each[1][0])]
    if not known:
        return None

    def draw(axes: Axes) -> None:
        for one, (x, y) in known:
            marks: dict[str, Any] = {"marker": "o", "ms": 3, "mec": PAPER, "mew": 0.6} if len(x) < 40 else {}
            axes.plot(x, y, color=colour(one.place - 1), **marks)
        axes.set_ylabel(unit)
        (over_minutes if timed else over_samples)(axes)

    missing = [label for label, (_, (x, _)) in curves.items() if not len(x)]
    return Drawn(title, plot(spoken, draw, USUAL), missing)


def _over_time(run: RunFolder, name: str) -> Any:
    return curve((number(line.seconds) / 60, number(line.figures().get(name))) for line in run.evaluations)

"""Reports of runs: one HTML file each, which loads nothing and opens from a disk."""

from __future__ import annotations

import base64
import hashlib
import math
import time
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from rgsud_core.files import writing
from trainer.errors import TrainerError
from trainer.reporting.html import comparison, drawings
from trainer.reporting.html.folder import RunFolder, read_run
from trainer.reporting.html.format import decimals, duration, moment
from trainer.reporting.html.pictures import pictures
from trainer.reporting.html.scores import grade
from trainer.reporting.html.settings import settings_of, yaml_line
from trainer.reporting.html.times import time_parts


def write_report(run: Path, output: Path, truth: Path | None = None) -> None:
    """Write the report of a run, from its folder alone.

    Args:
        run: the run's folder; the run may be under way.
        output: the HTML file.
        truth: ground truth of the rainy training images, by their names, to measure recorded candidates.

    Raises:
        TrainerError: there is no run.
        FileError: the file cannot be written, or ``truth`` is no folder of images.
    """
    found = read_run(run)
    if found.last is None:
        raise TrainerError(f"the run in {run} has written nothing yet: wait for its first lines.")
    _write(output, "report.html", run=found, **_report(found, truth))


def write_comparison(runs: Sequence[Path], output: Path) -> None:
    """Write a comparison of runs.

    Raises:
        TrainerError: fewer than two runs, or one of the folders is none.
        FileError: the file cannot be written.
    """
    if len(runs) < 2:
        raise TrainerError("a comparison takes two runs at least: name their folders.")
    found = [read_run(run) for run in runs]
    _write(output, "compare.html", **comparison.content(found))


def _report(run: RunFolder, truth: Path | None) -> dict[str, Any]:
    grades = grade(run, truth)
    losses = drawings.losses(run)
    return {
        "tiles": tiles(run),
        "state": _state(run),
        "quality": drawings.quality(run),
        "ssim": drawings.ssim(run),
        "pool": [drawings.entries(run), drawings.mean_score(run)],
        "counted": any(line.pool_replacements is not None for line in run.steps),
        "grades": grades,
        "scatter": drawings.scores(grades.graded) if grades.graded else None,
        "losses": [
            (name.removeprefix("loss/"), svg)
            for place, name in enumerate(losses)
            if (svg := drawings.loss(run, name, place)) is not None
        ],
        "pictures": pictures(run.folder),
        "parts": time_parts(run.lines),
        "rates": [drawings.rate(run), drawings.images_per_second(run)],
        "settings": settings_of(run.settings) if run.settings else None,
        "environment": {key: yaml_line(value) for key, value in run.environment.items()},
    }


def tiles(run: RunFolder) -> list[tuple[str, str, str]]:
    """The figures at the top: a name, a value and a note each."""
    last, step = run.last, run.steps[-1] if run.steps else None
    found: list[tuple[str, str, str]] = []
    if run.evaluations:
        measured = run.evaluations[-1]
        note = f"{decimals(measured.gain_db, 2, sign=True)} over the rainy images"
        found.append(("PSNR-Y", f"{decimals(measured.psnr_y, 2)} dB", note))
        best = max(run.evaluations, key=lambda line: -math.inf if math.isnan(line.ssim_y) else line.ssim_y)
        found.append(
            ("SSIM-Y", decimals(measured.ssim_y, 4), f"best {decimals(best.ssim_y, 4)} at {best.samples:,}")
        )
    if last is not None:
        found.append(("Rainy crops", f"{last.samples:,}", f"{last.step:,} steps"))
        found.append(("Training time", duration(last.seconds), "without evaluations"))
    if step is not None and step.pool_entries is not None:
        note = "" if step.pool_acceptance is None else f"{step.pool_acceptance:.0%} of the offers accepted"
        found.append(("Rewards", f"{step.pool_entries:,}", note))
        if step.pool_mean_log_odds is not None:
            found.append(("Mean score", decimals(step.pool_mean_log_odds, 2), "log-odds, higher is better"))
    return found


def _state(run: RunFolder) -> str:
    share = "" if run.share is None else f" at {run.share:.0%} of its schedule"
    stage = "" if run.stage2 is None else f"; stage 2 since {run.stage2:,} crops"
    return f"Finished{stage}." if run.over else f"Under way or interrupted{share}{stage}."


def _write(output: Path, template: str, **content: Any) -> None:
    script = Markup((_templates() / "page.js").read_text().strip())
    digest = base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode()
    text = (
        _environment()
        .get_template(template)
        .render(script=script, digest=digest, now=moment(time.time()), version=version("rgsud"), **content)
    )
    with writing(output) as partial:
        # Names of files need not be text.
        partial.write_bytes(text.encode(errors="backslashreplace"))


def _templates() -> Any:
    return files("trainer.reporting.html") / "templates"


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.reporting.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"decimals": decimals, "duration": duration, "moment": moment}
    return made

"""The pictures of a run's folder, small enough to lie within a page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from rgsud_core.errors import RgsudError
from trainer.restore.sheets import Panel, read_sheet

_ROWS, _PANELS, _MOMENTS, _WHOLE = 6, 3, 8, 4
"""Most rows of a sheet, pictures of a row, moments of a picture, and sheets that are shown whole."""
_SIDE, _WHOLE_SIDE = 720, 1200
_QUALITY = 86


@dataclass(frozen=True)
class Picture:
    """A picture within the page."""

    uri: str
    width: int
    height: int
    caption: str


@dataclass(frozen=True)
class Sheet:
    """A sheet whose rows are shown with sliders: the first picture of a row against the others."""

    title: str
    rows: Sequence[Sequence[Picture]]
    left_out: int = 0
    """Rows that are not shown."""


@dataclass(frozen=True)
class Pictures:
    """What there is to be seen of a run."""

    sheets: Sequence[Sheet] = ()
    moments: Sequence[Picture] = ()
    """One photograph, derained at moments of the run; the rainy one first."""
    whole: Sequence[Picture] = ()
    problems: Sequence[str] = ()


def pictures(folder: Path) -> Pictures:
    """The newest sample sheet, the first photograph over time, the sheets of an evaluation, and others."""
    samples = _files(folder / "samples")
    steps = [path for path in samples if _step(path) is not None]
    sheets: list[Sheet] = []
    whole: list[Picture] = []
    problems: list[str] = []
    newest = steps[-1:]
    for path in [*newest, *_files(folder), *(path for path in samples if path not in steps)]:
        try:
            rows = read_sheet(path)
        except RgsudError as problem:
            problems.append(str(problem))
            continue
        title = f"Training images at step {_step(path)}" if path in newest else _title(path)
        if (len(rows[0]) > 1 and path.parent == folder) or (path in newest and len(rows[0]) > 1):
            shown = [[_picture(panel) for panel in row[:_PANELS]] for row in rows[:_ROWS]]
            sheets.append(Sheet(title, shown, len(rows) - len(shown)))
        elif len(whole) < _WHOLE:
            with PIL.Image.open(path) as file:
                whole.append(_picture(Panel(np.array(file.convert("RGB")), title), _WHOLE_SIDE))
    return Pictures(sheets, _moments(steps), whole, problems)


def _moments(steps: Sequence[Path]) -> list[Picture]:
    """The first photograph of the sheets: rainy, and derained at moments that are spread evenly."""
    if len(steps) < 2:
        return []
    chosen = dict.fromkeys(
        steps[round(place)] for place in np.linspace(0, len(steps) - 1, min(_MOMENTS, len(steps)))
    )
    found: list[Picture] = []
    size = None
    for path in chosen:
        try:
            row = read_sheet(path)[0]
        except RgsudError:
            continue
        if len(row) < 2 or size not in (None, row[1].image.shape):
            continue
        if size is None:
            found.append(_picture(Panel(row[0].image, "rainy")))
            size = row[1].image.shape
        found.append(_picture(Panel(row[1].image, f"derained at step {_step(path)}")))
    return found if len(found) > 2 else []


def _files(folder: Path) -> list[Path]:
    """The PNG files in a folder, without those that are links to somewhere else."""
    try:
        return sorted(path for path in folder.glob("*.png") if path.is_file() and not path.is_symlink())
    except OSError:
        return []


def _step(path: Path) -> int | None:
    found = re.fullmatch(r"step-(\d{1,12})", path.stem)
    return int(found[1]) if found else None


def _title(path: Path) -> str:
    known = {
        "found-rain": "Rain that was found in the photographs",
        "rendered-rain": "Rain that is rendered",
        "demo": "Validation images at the end",
        "evaluation": "Evaluation",
    }
    return known.get(path.stem, path.name)


def _picture(panel: Panel, side: int = _SIDE) -> Picture:
    picture = PIL.Image.fromarray(np.ascontiguousarray(panel.image))
    picture.thumbnail((side, 2 * side), PIL.Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=_QUALITY, method=4)
    uri = f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
    return Picture(uri, picture.width, picture.height, panel.caption)

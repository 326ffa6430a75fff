"""Tables of a comparison: Markdown, LaTeX, CSV of every image, JSON of everything.

In a column the best value is bold and the second underlined, among derainers and published figures that are
better than the rainy image; a column of one derainer has no marks.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import LATEX_ESCAPE_RULES, tabulate

from rgsud_core.files import writing
from trainer.errors import TrainerError
from trainer.restore.comparison import RAINY, Comparison, Group, Measure, MeasuredSet

_CAPTIONS: dict[Group, str] = {
    "luma": "PSNR (dB) and SSIM of luma",
    "rgb": "PSNR (dB) and SSIM of RGB",
    "judged": "Without ground truth: rain left and scene taken (lower is better), and what else changed",
    "scored": "Scores without ground truth",
}
_WORST = 3
"""Images that are named for each derainer and data set."""


class _Style(NamedTuple):
    """How a kind of table is written."""

    layout: str
    escape: Callable[[str], str]
    best: str
    second: str


def _in_markdown(text: str) -> str:
    return re.sub(r"[\\`*<|\[\]~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", _one_line(text))


def _in_latex(text: str) -> str:
    return "".join(LATEX_ESCAPE_RULES.get(letter, letter) for letter in _one_line(text))


def _one_line(text: str) -> str:
    """Names of files may hold line breaks, or bytes that are no text."""
    return re.sub(r"[\x00-\x1f\x7f]", " ", text.encode(errors="backslashreplace").decode())


_MARKDOWN = _Style("pipe", _in_markdown, "**{}**", "<u>{}</u>")
_LATEX = _Style("latex_raw", _in_latex, r"\textbf{{{}}}", r"\underline{{{}}}")


def markdown(comparison: Comparison) -> str:
    """The tables, what they were measured on, and the images that came out worst."""
    parts = [f"{caption}:\n\n{table}" for caption, table in _tables(comparison, _MARKDOWN)]
    parts.append("\n".join(f"- {_in_markdown(note)}" for note in _notes(comparison)))
    return "\n\n".join(parts) + "\n"


def latex(comparison: Comparison) -> str:
    r"""The same as ``tabular`` environments, which need no package; what is no table is in comments."""
    parts = [f"% {caption}\n{table}" for caption, table in _tables(comparison, _LATEX)]
    parts.append("\n".join(f"% {_one_line(note)}" for note in _notes(comparison)))
    return "\n\n".join(parts) + "\n"


def as_csv(comparison: Comparison) -> str:
    """One line for each image and method, with every measure; empty where it is not known."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    keys = [measure.key for measure in comparison.measures]
    lines.writerow(["set", "image", "method", *keys])
    for measured in comparison.sets:
        for row in measured.rows:
            values = (row.values.get(key, math.nan) for key in keys)
            cells = ("" if math.isnan(value) else value for value in values)
            lines.writerow([measured.name, row.image, row.method, *cells])
    return text.getvalue()


def as_json(comparison: Comparison) -> str:
    """Everything, for ``Comparison.model_validate_json``."""
    return comparison.model_dump_json(indent=1)


_WRITERS = {".md": markdown, ".tex": latex, ".csv": as_csv, ".json": as_json}


def check_table(path: Path) -> None:
    """TrainerError where the suffix names no kind of table."""
    if path.suffix.lower() not in _WRITERS:
        raise TrainerError(f"{path} names no kind of table: end it in {', '.join(_WRITERS)}.")


def write_table(comparison: Comparison, path: Path) -> None:
    """Writes a comparison in the kind of the suffix: .md, .tex, .csv or .json.

    Raises:
        TrainerError: it is another suffix.
        FileError: the file cannot be written.
    """
    check_table(path)
    with writing(path) as partial:
        text = _WRITERS[path.suffix.lower()](comparison)
        partial.write_bytes(text.encode(errors="backslashreplace"))


def _tables(comparison: Comparison, style: _Style) -> Iterator[tuple[str, str]]:
    """Caption and text of a table for each group of measures."""
    for group, caption in _CAPTIONS.items():
        columns = [
            (measured, measure)
            for measured in comparison.sets
            for measure in comparison.measures
            if measure.group == group and any(measure.key in row.values for row in measured.rows)
        ]
        if not columns:
            continue
        papers = [
            row.method
            for measured, measure in columns
            for row in measured.published
            if measure.key in row.values
        ]
        methods = [RAINY, *dict.fromkeys(f"{paper} (published)" for paper in papers), *comparison.methods]
        cells = zip(
            *(_column(measured, measure, methods, style) for measured, measure in columns), strict=True
        )
        rows = [[style.escape(method), *row] for method, row in zip(methods, cells, strict=True)]
        headings = [style.escape(f"{measured.name} {measure.heading}") for measured, measure in columns]
        yield (
            style.escape(caption),
            tabulate(
                rows,
                ["", *headings],
                tablefmt=style.layout,
                disable_numparse=True,
                colalign=["left", *["right"] * len(columns)],
            ),
        )


def _column(measured: MeasuredSet, measure: Measure, methods: Sequence[str], style: _Style) -> list[str]:
    """The cells of one measure on one set, marked."""
    published = {f"{row.method} (published)": row.values for row in measured.published}
    values = {
        method: round(
            published[method].get(measure.key, math.nan)
            if method in published
            else measured.mean(method, measure.key),
            measure.digits,
        )
        for method in methods
    }
    sign = -1 if measure.better == "lower" else 1
    derained = [value for method, value in values.items() if method != RAINY and not math.isnan(value)]
    # A derainer that is worse than the rainy image is no best one.
    better = {value for value in derained if sign * value > sign * values[RAINY]}
    marks = dict(zip(sorted(better, reverse=sign > 0), (style.best, style.second), strict=False))
    if measure.better is None or len(derained) < 2:
        marks = {}
    return [
        "-"
        if math.isnan(value)
        else (marks.get(value, "{}") if method != RAINY else "{}").format(f"{value:.{measure.digits}f}")
        for method, value in values.items()
    ]


def _notes(comparison: Comparison) -> Iterator[str]:
    for measured in comparison.sets:
        judged = {row.image for row in measured.rows if not math.isnan(row.values.get("left", math.nan))}
        how = f"protocol {measured.protocol}"
        if measured.protocol is None:
            how = f"no ground truth; rain can be told from the scene in {len(judged)}"
        of = f" of {measured.whole}" if measured.whole not in (None, measured.images) else ""
        yield f"{measured.name}: {measured.images}{of} images, {how}."
    for measure in comparison.measures:
        if measure.group == "scored":
            unit = "" if measure.unit == measure.heading else f"{measure.unit}, "
            yield f"{measure.heading}: {unit}{measure.better} is better."
    for source in dict.fromkeys(row.source for measured in comparison.sets for row in measured.published):
        yield (
            f"(published): from {source}, measured there; it does not say whether its PSNR and SSIM are of "
            "luma or of RGB."
        )
    for measured in comparison.sets:
        for method in comparison.methods:
            if worst := ", ".join(_worst(measured, method)):
                yield f"Worst of {method} on {measured.name}: {worst}."


def _worst(measured: MeasuredSet, method: str) -> Iterator[str]:
    """The images that gained least, or of whose rain most is left."""
    rainy = {row.image: row.values for row in measured.rows if row.method == RAINY}
    derained = {row.image: row.values for row in measured.rows if row.method == method}
    if measured.protocol is None:
        left = {image: values["left"] for image, values in derained.items() if not math.isnan(values["left"])}
        for image in sorted(left, key=left.__getitem__, reverse=True)[:_WORST]:
            yield f"{image} ({left[image]:.2f} of the rain left)"
        return
    pairs = {image: (rainy[image]["psnr_y"], values["psnr_y"]) for image, values in derained.items()}

    def gain(image: str) -> float:
        before, after = pairs[image]
        return 0.0 if before == after else after - before  # both may be infinite

    for image in sorted(pairs, key=gain)[:_WORST]:
        yield f"{image} ({pairs[image][0]:.2f} -> {pairs[image][1]:.2f} dB)"

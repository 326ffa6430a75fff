"""Derainers on data that they were not trained on, beside the untouched image and a plain filter.

    python benchmarks/abroad.py --pairs NAME RAINY CLEAN ... --photographs NAME FOLDER ... --clean FOLDER
        [--model NAME PATH ...] [--quick] [--json FILE] [--page FILE]

Pairs are measured by PSNR-Y (protocol A). Photographs without truth are judged where the scene behind the
rain is flat: energy of the rain that is left, of its pattern, and of scene that was taken. Clean photographs
are measured against themselves: what a derainer does where there is no rain. `--quick` takes four of each.
The model that comes with rgsud is measured if no other is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import scipy.ndimage
from pages import commit, fill, parser, processor, report, table

from rgsud import Derainer
from rgsud_core.images import Image
from trainer.data.folders import ImageFolder
from trainer.data.pairing import PairedFolder
from trainer.restore.evaluation import psnr_y
from trainer.restore.judge import UnpairedEvaluation, judge

Restore = Callable[[Image], Image]


def untouched(image: Image) -> Image:
    """The rainy image itself: what every derainer must beat."""
    return image


def median(image: Image) -> Image:
    """The median of five pixels in a row: takes streaks that are thin and stand upright, for no training."""
    filtered: Image = scipy.ndimage.median_filter(image, size=(1, 5, 1))
    return filtered


def measured(
    restore: Restore,
    pairs: Iterable[tuple[str, PairedFolder]],
    photographs: Iterable[tuple[str, ImageFolder]],
    clean: ImageFolder | None,
    most: int,
) -> dict[str, float]:
    """Figures of one row, by "SET, MEASURE"."""
    figures: dict[str, float] = {}
    for name, folder in pairs:
        both = [folder.load(index) for index in range(min(most, len(folder)))]
        figures[f"{name}, PSNR-Y"] = float(np.mean([psnr_y(restore(rainy), truth) for rainy, truth in both]))
    for name, images in photographs:
        shown = [(images.ids[index], images.load(index)) for index in range(min(most, len(images)))]
        rows = [
            judge(identity, image, restore(image), restore(np.ascontiguousarray(image[:, ::-1])))
            for identity, image in shown
        ]
        judged = UnpairedEvaluation(rows=rows)
        for measure in ("left", "pattern", "taken"):
            figures[f"{name}, {measure}"] = judged.mean(measure)
    if clean is not None:
        own = [clean.load(index) for index in range(min(most, len(clean)))]
        # Of the mean error, since what stays as it is has no finite PSNR.
        error = np.mean([10 ** (-psnr_y(restore(image), image) / 10) for image in own])
        figures["clean, PSNR-Y to itself"] = -10 * math.log10(error) if error else math.inf
    return figures


def page_table(rows: dict[str, dict[str, float]]) -> str:
    """All rows, as a Markdown table."""

    def cell(measure: str, value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.2f}" if "PSNR" not in measure else f"{value:.1f}"

    heads = list(next(iter(rows.values())))
    return table(
        ("", *heads), [[name, *(cell(head, found[head]) for head in heads)] for name, found in rows.items()]
    )


def main() -> None:
    """Measure all rows."""
    options = parser(__doc__)
    options.add_argument("--pairs", nargs=3, action="append", default=[], metavar=("NAME", "RAINY", "CLEAN"))
    options.add_argument("--photographs", nargs=2, action="append", default=[], metavar=("NAME", "FOLDER"))
    options.add_argument("--clean", help="folder of photographs without rain")
    options.add_argument("--model", nargs=2, action="append", default=[], metavar=("NAME", "PATH"))
    options.add_argument("--page", type=Path, help="where the page goes")
    chosen = options.parse_args()
    pairs = [(name, PairedFolder(rainy, truth)) for name, rainy, truth in chosen.pairs]
    photographs = [(name, ImageFolder(folder)) for name, folder in chosen.photographs]
    clean = None if chosen.clean is None else ImageFolder(chosen.clean)
    models = chosen.model or [("rgsud-base", "rgsud-base")]
    restorers: dict[str, Restore] = {"untouched": untouched, "median of 5 pixels in a row": median}
    restorers |= {name: Derainer.load(path) for name, path in models}
    rows = {
        name: measured(restore, pairs, photographs, clean, 4 if chosen.quick else 10**9)
        for name, restore in restorers.items()
    }
    report({f"{name}: {key}": value for name, row in rows.items() for key, value in row.items()}, chosen.json)
    if chosen.page is not None:
        fill("abroad.md", chosen.page, table=page_table(rows), commit=commit(), processor=processor())


if __name__ == "__main__":
    main()

"""Heatmaps: the scores of an image's tiles, drawn over it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray

from iqa_service.scorers.base import Candidate, ScoreBackend
from rgsud_core.images import Image

_EDGE = 128
"""Edge of a tile for scorers that look at whole images, pixels."""
_ACROSS = 24
"""Largest number of tiles along the longer side; neighbours overlap by half."""


def tile_scores(backend: ScoreBackend, candidate: Candidate) -> NDArray[np.float32]:
    """Log-odds at each pixel of a candidate, float32 H,W: the mean over the tiles that cover it.

    Tiles overlap by half and weigh most in their middle. Each is scored as an image of its own, beside its
    part of the rainy image, so that any scorer can be drawn. They have the edge that the scorer looks at, or
    more for large images.

    Raises:
        ScorerError: the scorer fails on a tile.
    """
    height, width = candidate.image.shape[:2]
    edge = _EDGE if backend.views is None else backend.views.size
    edge = min(max(edge, math.ceil(2 * max(height, width) / _ACROSS)), height, width)
    boxes = [
        (slice(top, top + edge), slice(left, left + edge))
        for top in _starts(height, edge)
        for left in _starts(width, edge)
    ]
    tiles = [
        Candidate(
            f"{candidate.id} {box[0].start},{box[1].start}",
            candidate.image[box],
            None if candidate.rainy is None else candidate.rainy[box],
        )
        for box in boxes
    ]
    ramp = np.minimum(np.arange(1, edge + 1), np.arange(edge, 0, -1)).astype(np.float32)
    weight = np.outer(ramp, ramp)
    total, weights = np.zeros((2, height, width), np.float32)
    for box, score in zip(boxes, backend.score(tiles), strict=True):
        total[box] += score * weight
        weights[box] += weight
    field: NDArray[np.float32] = total / weights
    return field


def draw_heatmap(image: Image, field: NDArray[np.float32], title: str, path: Path) -> None:
    """The image, and beside it the image under its field of log-odds; the format is the path's suffix.

    Colours run from the field's own worst to its best, which the bar labels in words.

    Args:
        image: uint8 H,W,3.
        field: float32 H,W, see :func:`tile_scores`.
        title: stands above.
        path: where it goes; its folder is made.
    """
    height, width = image.shape[:2]
    columns = 2 if width < 1.6 * height else 1
    rows = 2 // columns
    each = 5.5 if columns == 2 else 8.0  # inches across
    tall = min(max(height / width, 0.1), 5.0)  # a strip would be a figure too large to be drawn
    figure = Figure(
        figsize=(each * columns + 1.3, each * tall * rows + 0.7 + 0.3 * rows),
        dpi=120,
        layout="constrained",
    )
    plain, marked = figure.subplots(rows, columns)
    figure.suptitle(title, parse_math=False)
    plain.imshow(image)
    plain.set_title("the image", fontsize="medium")
    marked.imshow(np.repeat(image.mean(axis=2, keepdims=True) / 255, 3, axis=2))
    low, high = float(field.min()), float(field.max())
    margin = 0.5 * max(1 - (high - low), 0)  # a field without contrast shall not look like one with it
    shown = marked.imshow(field, cmap="RdYlBu", alpha=0.6, vmin=low - margin, vmax=high + margin)
    marked.set_title("how its parts score", fontsize="medium")
    solid = ScalarMappable(shown.norm, shown.cmap)
    bar = figure.colorbar(solid, ax=[plain, marked], fraction=0.04, pad=0.01, aspect=30)
    bar.set_label("log-odds")
    bar.ax.set_title("looks cleaner", fontsize="small")
    bar.ax.set_xlabel("looks more degraded", fontsize="small")
    for axes in (plain, marked):
        axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _starts(length: int, edge: int) -> list[int]:
    count = max(1, math.ceil(2 * length / edge) - 1)
    return [int(start) for start in np.rint(np.linspace(0, length - edge, count))]

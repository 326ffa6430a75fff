"""Views: the squares of an image that a scorer looks at."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from iqa_service.errors import ScorerError
from rgsud_core.images import Image

TILES = 256
"""Default limit of tiles: covers an image of 12 megapixels at 224 pixels, one of 1 megapixel at 64."""
_LONGEST = 100
"""Largest aspect ratio; a longer strip, enlarged to a scorer's size, would not fit into memory."""


def check_image(image: Image, name: str = "image") -> None:
    """Refuse anything but a non-empty uint8 H,W,3 image.

    Raises:
        ScorerError: names the image, its type and its shape.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise ScorerError(f"{name} is {kind}, not uint8: round and clip it to 0..255 first")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ScorerError(f"{name} has the shape {image.shape}, not (height, width, 3): give an RGB image")


def _with_shorter_side(image: Image, size: int) -> Image:
    height, width = image.shape[:2]
    if max(height, width) > _LONGEST * min(height, width):
        raise ScorerError(
            f"an image of {width} x {height} pixels is a strip: give one of which a square shows enough"
        )
    # Truncated, not rounded, as the resize of CLIP's preprocessing does.
    target = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    resized = PIL.Image.fromarray(image).resize(target, PIL.Image.Resampling.BICUBIC)
    return np.asarray(resized)


def centre(image: Image, size: int) -> Image:
    """CLIP's view: shorter side resized to ``size`` (bicubic, antialiased), centre crop.

    Args:
        image: uint8 H,W,3 RGB of any size.
        size: edge of the view, pixels.

    Returns:
        uint8 1,S,S,3.
    """
    check_image(image)
    if min(image.shape[:2]) != size:
        image = _with_shorter_side(image, size)
    top, left = round((image.shape[0] - size) / 2), round((image.shape[1] - size) / 2)
    return image[None, top : top + size, left : left + size]


def tiles(image: Image, size: int, limit: int = TILES) -> Image:
    """Squares at native resolution in the smallest regular grid that covers the image, or a thinner one.

    Neighbours overlap where the image is no multiple of ``size``; an image with a side below ``size`` is
    first enlarged to it. Where covering takes more than ``limit`` tiles, fewer rows and columns are spread
    evenly, with the widest gap as narrow as can be; the outermost stay at the border.

    Args:
        image: uint8 H,W,3 RGB of any size.
        size: edge of a tile, pixels.
        limit: largest number of tiles, at least 1.

    Returns:
        uint8 V,S,S,3, row by row.
    """
    check_image(image)
    if min(image.shape[:2]) < size:
        image = _with_shorter_side(image, size)
    height, width = image.shape[:2]
    rows, columns = _grid(math.ceil(height / size), math.ceil(width / size), limit)
    tops, lefts = _spread(height - size, rows), _spread(width - size, columns)
    return np.stack([image[top : top + size, left : left + size] for top in tops for left in lefts])


def _grid(rows: int, columns: int, limit: int) -> tuple[int, int]:
    """At most ``limit`` cells out of so many rows and columns, thinned out about equally in both."""
    if rows * columns <= limit:
        return rows, columns
    choices = ((r, min(columns, limit // r)) for r in range(1, min(rows, limit) + 1))
    return min(choices, key=lambda cell: (max(rows / cell[0], columns / cell[1]), -cell[0] * cell[1]))


def _spread(room: int, count: int) -> NDArray[np.int64]:
    if count == 1:  # one of several would stand at the border, one alone stands in the middle
        return np.array([room // 2])
    return np.rint(np.linspace(0, room, count)).astype(np.int64)


class Views(BaseModel):
    """Which squares of an image a scorer looks at; travels as JSON, so that a caller can cut them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["centre", "tiles"]
    size: int = Field(ge=1)
    """Edge of a square, pixels."""
    tiles: int = Field(default=TILES, ge=1)
    """Largest number of tiles; ``centre`` is always one square."""

    def cut(self, image: Image) -> Image:
        """The squares of an image, uint8 H,W,3: uint8 V,S,S,3.

        Raises:
            ScorerError: it is no such image.
        """
        return centre(image, self.size) if self.kind == "centre" else tiles(image, self.size, self.tiles)

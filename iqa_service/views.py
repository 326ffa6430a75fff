"""Views: the squares of an image that a scorer looks at."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from iqa_service.errors import ScorerError

Image = NDArray[np.uint8]


def check_image(image: Image, name: str = "image") -> None:
    """Refuse what is not a photograph: anything but a non-empty uint8 H,W,3.

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
    # Truncated, not rounded, as the resize of CLIP's preprocessing does.
    target = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    resized = PIL.Image.fromarray(image).resize(target, PIL.Image.Resampling.BICUBIC)
    return np.asarray(resized)


def centre(image: Image, size: int) -> Image:
    """The view of CLIP: shorter side resized to ``size`` (bicubic, antialiased), the square in the middle.

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


def tiles(image: Image, size: int) -> Image:
    """Squares at native resolution in the smallest regular grid that covers the image.

    Neighbours overlap where the image is no multiple of ``size``; an image with a side below ``size`` is
    first enlarged to it.

    Args:
        image: uint8 H,W,3 RGB of any size.
        size: edge of a tile, pixels.

    Returns:
        uint8 V,S,S,3, row by row.
    """
    check_image(image)
    if min(image.shape[:2]) < size:
        image = _with_shorter_side(image, size)
    tops, lefts = (
        np.rint(np.linspace(0, length - size, math.ceil(length / size))).astype(int)
        for length in image.shape[:2]
    )
    return np.stack([image[top : top + size, left : left + size] for top in tops for left in lefts])


VIEWS: dict[str, Callable[[Image, int], Image]] = {"centre": centre, "tiles": tiles}

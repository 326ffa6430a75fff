"""Photographs as arrays: the same pixels wherever an image file is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from rgsud_core.errors import FileError

Image = NDArray[np.uint8]
"""uint8 H,W,3 RGB, C-contiguous."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image in RGB, the way up that the camera was held; 16 bits become 8, transparency is dropped.

    Raises:
        ValueError: its pixels are floating-point.
    """
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        # 32-bit integers are how some writers store 8 or 16 bits.
        scaled = deep if deep.max() <= 255 and image.mode == "I" else (deep + 128) // 257
        image = PIL.Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))
    return image.convert("RGB")


def read_photograph(path: Path) -> Image:
    """An image file as uint8 H,W,3 RGB.

    Raises:
        FileError: it is missing, damaged, or no image.
    """
    try:
        with PIL.Image.open(path) as image:
            return np.array(to_rgb(image))
    # Decoders meet damage in ways of their own.
    except Exception as error:
        raise FileError(f"cannot read '{path}' as an image ({error}): remove or replace it") from error


def images_below(folder: Path) -> dict[str, Path]:
    """The image files below a folder, in order, by their paths in it without suffix."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}

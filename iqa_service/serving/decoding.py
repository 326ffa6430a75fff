"""Decoding of uploaded images: limits first, then pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import PIL.Image

from rgsud_core.colours import to_rgb
from rgsud_core.http.problems import Problem
from rgsud_core.images import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


def pixels_of(data: bytes, limit: int) -> int:
    """The number of pixels of a file, from its header, without decoding it.

    Raises:
        Problem: no file of :data:`FORMATS`, or more pixels than ``limit``.
    """
    with _opened(data) as image:
        width, height = image.size
    if width * height > limit:
        raise Problem(413, f"the image has {width} x {height} pixels, more than {limit}: make it smaller")
    return width * height


def decode(data: bytes) -> Image:
    """The pixels, uint8 H,W,3 RGB, upright as its EXIF says.

    Raises:
        Problem: the file is damaged.
    """
    with _opened(data) as image:
        return np.asarray(to_rgb(image))


@contextmanager
def _opened(data: bytes) -> Iterator[PIL.Image.Image]:
    try:
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
    except PIL.Image.DecompressionBombError as bomb:
        raise Problem(413, f"the image is too large to decode ({bomb}): make it smaller") from None
    except Problem:
        raise
    # Each decoder fails in its own way; a damaged file must not look like a fault of the service.
    except Exception as problem:
        reason = str(problem).split(" <_io")[0] or type(problem).__name__
        raise Problem(
            422, f"the file is no readable image ({reason}): send a {', '.join(FORMATS)} file"
        ) from None

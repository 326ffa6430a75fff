"""Photographs as they come in over the wire: limits first, then pixels."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import PIL.Image

from rgsud_core.images import Image, to_rgb

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


class BadPhotograph(ValueError):
    """Bytes that are no photograph within the limits; ``status`` is that of an HTTP answer."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def pixels_of(data: bytes, limit: int) -> int:
    """How many pixels a file has, from its header, without decoding it.

    Raises:
        BadPhotograph: no file of :data:`FORMATS`, or more pixels than ``limit``.
    """
    with _opened(data) as image:
        width, height = image.size
    if width * height > limit:
        raise BadPhotograph(
            f"the image has {width} x {height} pixels, and {limit} are the most taken: make it smaller", 413
        )
    return width * height


def decode(data: bytes) -> Image:
    """The pixels, uint8 H,W,3 RGB, the way up that the camera was held.

    Raises:
        BadPhotograph: the file is damaged.
    """
    with _opened(data) as image:
        return np.asarray(to_rgb(image))


@contextmanager
def _opened(data: bytes) -> Iterator[PIL.Image.Image]:
    try:
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
    except PIL.Image.DecompressionBombError as bomb:
        raise BadPhotograph(f"the image is too large to decode ({bomb}): make it smaller", 413) from None
    except BadPhotograph:
        raise
    # Decoders meet damage in ways of their own: a damaged file must not look like a fault of the service.
    except Exception as problem:
        reason = str(problem).split(" <_io")[0] or type(problem).__name__
        raise BadPhotograph(
            f"the file is no readable image ({reason}): send a {', '.join(FORMATS)} file", 422
        ) from None


class PixelBudget:
    """Holds back who would decode more pixels at once than the memory is meant for.

    Args:
        pixels: that may be decoded at once. Whoever asks for more than all of them waits until it is alone.
    """

    def __init__(self, pixels: int) -> None:
        self._free = self._all = pixels
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait for room for so many pixels; to be held once at a time by each thread."""
        pixels = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()

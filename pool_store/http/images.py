"""Checks of uploaded images before anything is stored; previews."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from pool_store.engine.images import LONGEST_SIDE
from rgsud_core.http.problems import Problem
from rgsud_core.images import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_REMEDY = "send an RGB image as PNG or as plain lossless WebP"


def decode_upload(body: bytes, pixels: int) -> tuple[Image, bool]:
    """The uint8 H,W,3 image of an upload, and whether the bytes may be stored as they are.

    Only PNG and plain lossless WebP are accepted (the pool's images are lossless), recognised by their first
    bytes. The size is checked against `pixels` before decoding, from the header, since a decoder allocates
    memory as soon as it is opened.

    Raises:
        Problem: 415 for another format, 413 for too many pixels, 422 for a damaged image.
    """
    if body[:4] == b"RIFF" and body[8:16] == b"WEBPVP8L":
        kind, (width, height) = "WEBP", _webp_size(body)
    elif body.startswith(_PNG) and body[12:16] == b"IHDR" and len(body) > 24:
        kind, (width, height) = "PNG", struct.unpack(">II", body[16:24])
    else:
        raise Problem(415, f"the body is neither PNG nor lossless WebP: {_REMEDY}")
    if width * height > pixels or max(width, height) > LONGEST_SIDE:
        raise Problem(
            413,
            f"{width}x{height} is too large: the pool takes {pixels} pixels, {LONGEST_SIDE} a side; send a "
            "smaller image, or start the service with larger limits",
        )
    try:
        with Pillow.open(io.BytesIO(body), formats=[kind]) as file:
            if file.mode != "RGB" or getattr(file, "n_frames", 1) != 1:
                raise Problem(422, f"the image has mode {file.mode}: {_REMEDY}")
            image = np.array(file)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise Problem(422, f"the image is damaged ({error}): {_REMEDY}") from None
    # Bytes after the picture would be stored and served too.
    return image, kind == "WEBP" and len(body) == 8 + int.from_bytes(body[4:8], "little")


def _webp_size(body: bytes) -> tuple[int, int]:
    """Width and height in a VP8L header: a signature, then twice 14 bits."""
    if len(body) < 25 or body[20] != 0x2F:
        raise Problem(422, f"the image is damaged (no WebP header): {_REMEDY}")
    bits = int.from_bytes(body[21:25], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def preview(image: Image, width: int) -> bytes:
    """A lossy WebP of a uint8 H,W,3 image, at most `width` pixels wide."""
    picture = Pillow.fromarray(image)
    if picture.width > width:
        height = max(1, round(picture.height * width / picture.width))
        picture = picture.resize((width, height), Pillow.Resampling.LANCZOS, reducing_gap=3)
    small = io.BytesIO()
    picture.save(small, "WEBP", quality=82, method=2)
    return small.getvalue()

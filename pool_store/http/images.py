"""Checks of uploaded images before anything is stored; previews."""

from __future__ import annotations

import io
import math
import struct

import numpy as np
from PIL import Image as Pillow

from pool_store.engine.images import LONGEST_SIDE, MEND, header_size, is_png, is_webp, opened
from pool_store.errors import PoolDamaged
from rgsud_core.http.problems import Problem
from rgsud_core.images import Image

_SPARE = 1024
"""Bytes that lossless WebP may take beyond those of the pixels and a quarter."""
_REMEDY = "send an RGB image as PNG or as plain lossless WebP"


def size_of(body: bytes, pixels: int) -> tuple[int, int]:
    """Width and height of an upload, from its header: a decoder allocates memory as soon as it is opened.

    Only PNG and plain lossless WebP are accepted (the pool's images are lossless), recognised by their first
    bytes.

    Raises:
        Problem: 415 for another format, 413 for more than `pixels` (half of them in PNG), 422 for a
            damaged image.
    """
    if not (is_webp(body) or is_png(body)):
        raise Problem(415, f"the body is neither PNG nor lossless WebP: {_REMEDY}")
    try:
        width, height = header_size(body)
    except ValueError as error:
        raise Problem(422, f"the image is damaged ({error}): {_REMEDY}") from None
    if is_png(body):
        pixels //= 2  # it is encoded again, which takes three times the memory of decoding
    if width * height > pixels or max(width, height) > LONGEST_SIDE:
        raise Problem(
            413,
            f"{width}x{height} is too large: the pool takes {pixels} pixels, {LONGEST_SIDE} a side, in this "
            "format; send a smaller image or lossless WebP, or start the service with larger limits",
        )
    return width, height


def decode_upload(body: bytes, size: tuple[int, int]) -> tuple[Image, bytes | None]:
    """The uint8 H,W,3 image of an upload of that `size_of`, and plain lossless WebP of it if it came as such.

    Raises:
        Problem: 422 for a damaged image.
    """
    kind = "WEBP" if is_webp(body) else "PNG"
    try:
        with Pillow.open(io.BytesIO(body), formats=[kind]) as file:
            if file.size != size:
                raise Problem(422, f"the image has two sizes, {size} and {file.size}: {_REMEDY}")
            if file.mode != "RGB" or getattr(file, "n_frames", 1) != 1:
                raise Problem(422, f"the image has mode {file.mode}: {_REMEDY}")
            image = np.array(file)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Pillow.DecompressionBombError) as error:
        raise Problem(422, f"the image is damaged ({error}): {_REMEDY}") from None
    if kind == "PNG":
        return image, None
    # Without what else is in the file or behind it, which would be stored and served too.
    length = (int.from_bytes(body[16:20], "little") + 1) // 2 * 2
    if length > 1.25 * image.nbytes + _SPARE:
        raise Problem(422, f"the image takes {length} bytes, which are more than its pixels: {_REMEDY}")
    return image, b"RIFF" + (12 + length).to_bytes(4, "little") + body[8 : 20 + length]


def stored_pixels(encoded: bytes, name: str) -> int:
    """Pixels of a stored image, lossless WebP; PoolDamaged names `name` if it has no header."""
    try:
        return math.prod(size_of(encoded, LONGEST_SIDE**2))
    except Problem:
        raise PoolDamaged(f"blob {name} is corrupt (no image): {MEND}") from None


def preview(encoded: bytes, name: str, width: int) -> bytes:
    """A lossy WebP, at most `width` pixels wide, of lossless WebP; PoolDamaged names `name` on damage."""
    with opened(encoded, name) as picture:
        height = max(1, round(picture.height * width / picture.width))
        if picture.width > width:
            picture = picture.resize((width, height), Pillow.Resampling.LANCZOS, reducing_gap=3)
        small = io.BytesIO()
        picture.save(small, "WEBP", quality=82, method=2)
    return small.getvalue()

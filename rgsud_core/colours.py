"""Pixels of any mode, depth and colour profile as 8-bit sRGB."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
from numpy.typing import NDArray

_SRGB = PIL.ImageCms.createProfile("sRGB")
_ORIENTATION = 0x0112
_SAMPLE_FORMAT = 339
_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image in 8-bit sRGB, upright as its EXIF says; its colour profile is applied, transparency dropped.

    Raises:
        ValueError: its pixels are numbers of no known range: floating-point outside [0,1], or below zero.
    """
    image = upright(image)
    profile = image.info.get("icc_profile")
    if is_deep(image):
        deep = deep_grey(image)
        image = PIL.Image.fromarray(deep if deep.dtype == np.uint8 else eight_bits(deep))
    return to_srgb(without_alpha(image), profile)


def orientation(image: PIL.Image.Image) -> int:
    """The orientation in the image's EXIF, 1 to 8; damaged EXIF says 1, which is upright."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF is read by as many ways as it can be damaged
        return 1
    return found if found in _TURNS else 1


def turned(image: PIL.Image.Image, orientation: int) -> PIL.Image.Image:
    """The image turned as an orientation of EXIF says."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image turned as the orientation in its EXIF says."""
    return turned(image, orientation(image))


def is_deep(image: PIL.Image.Image) -> bool:
    """Whether the pixels are one channel of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def deep_grey(image: PIL.Image.Image) -> NDArray[Any]:
    """One channel of 16 or 32 bits, or floating-point in [0,1], as uint8 or uint16 H,W.

    Raises:
        ValueError: see :func:`to_rgb`.
    """
    pixels = np.asarray(image)
    if image.mode == "F":
        return sixteen_bits(pixels)
    if image.mode != "I":
        return pixels.astype(np.uint16)
    # 32-bit integers are how some writers store 8 or 16 bits. Pillow gives unsigned ones as signed.
    unsigned = getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, (1,)) in (1, (1,))
    whole = pixels.view(np.uint32) if unsigned and pixels.dtype == np.int32 else pixels
    if whole.min() < 0:
        raise ValueError("pixels below zero have no known range")
    largest = int(whole.max())
    if largest < 256:
        return whole.astype(np.uint8)
    if largest < 65536:
        return whole.astype(np.uint16)
    return (whole >> (16 if unsigned else 15)).astype(np.uint16)


def sixteen_bits(pixels: NDArray[Any]) -> NDArray[np.uint16]:
    """Floating-point pixels in [0,1] as uint16 of the same shape.

    Raises:
        ValueError: they are outside of [0,1].
    """
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError("floating-point pixels outside of [0,1] have no known range")
    return np.rint(pixels * 65535.0).astype(np.uint16)


def eight_bits(pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Pixels of 16 bits, rounded to 8."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def without_alpha(image: PIL.Image.Image) -> PIL.Image.Image:
    """The colours of an image of 8 bits, as mode L, RGB, CMYK or LAB."""
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    if image.mode in ("1", "LA", "La"):
        return (image.convert("LA") if image.mode == "La" else image).convert("L")
    return (image.convert("RGBA") if image.mode == "RGBa" else image).convert("RGB")


def to_srgb(image: PIL.Image.Image, profile: bytes | None) -> PIL.Image.Image:
    """Mode L, RGB, CMYK or LAB in a colour profile -> mode RGB in sRGB; a damaged profile counts as none."""
    theirs = colour_profile(image.mode, profile)
    if image.mode == "LAB":
        theirs = theirs or PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("LAB"))
    if theirs is not None:
        with contextlib.suppress(PIL.ImageCms.PyCMSError, ValueError, OSError):
            turned = PIL.ImageCms.profileToProfile(image, theirs, _SRGB, outputMode="RGB")
            if turned is not None:
                return turned
    return image.convert("RGB")


def colour_profile(mode: str, profile: bytes | None) -> PIL.ImageCms.ImageCmsProfile | None:
    """The profile, if it is one of images of that mode, and says something other than sRGB."""
    spaces = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}
    with contextlib.suppress(PIL.ImageCms.PyCMSError, OSError, ValueError, TypeError):
        if profile:
            theirs = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
            fits = theirs.profile.xcolor_space.strip() == spaces.get(mode)
            if fits and "sRGB" not in (theirs.profile.profile_description or ""):
                return theirs
    return None

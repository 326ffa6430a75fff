"""Images as arrays: the same pixels wherever a file is read, and one way to list and to write them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from rgsud_core.errors import FileError, first_line
from rgsud_core.files import writing

Image: TypeAlias = NDArray[np.uint8]
"""uint8 H,W,3 RGB, C-contiguous."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in luma of full range: 0..1 of 0..1 (BT.601)."""
STUDIO_LUMA = np.array([65.481, 128.553, 24.966]) / 255
"""Weights of red, green and blue (0..255) in luma of studio range, to which 16 is added: 16..235 (BT.601)."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image in RGB, upright as its EXIF says; 16 bits become 8, transparency is dropped.

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


def read_image(path: Path | str) -> Image:
    """An image file as uint8 H,W,3 RGB: see :func:`to_rgb`.

    Raises:
        FileError: the file is missing, damaged, cut short, or no image.
    """
    try:
        with PIL.Image.open(path) as opened:
            return np.array(to_rgb(opened))
    except FileNotFoundError:
        raise FileError(f"{path} does not exist.") from None
    except PIL.UnidentifiedImageError:
        raise FileError(f"{path} is not an image: remove it or save it again.") from None
    except Exception as error:  # damage raises what the decoder of that format happens to raise
        raise FileError(f"{path} cannot be read ({first_line(error)}): remove it or save it again.") from None


def list_images(folder: Path | str) -> list[Path]:
    """Every image file below a folder, sorted by path; hidden files and folders are left out.

    Raises:
        FileError: the folder is missing or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.is_file() else "does not exist"
        raise FileError(f"{folder} {what}: name a folder of images.")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not found:
        raise FileError(f"{folder} holds no image: put {', '.join(SUFFIXES)} files there.")
    return found


def images_below(folder: Path | str) -> dict[str, Path]:
    """The files of :func:`list_images` by id: the path within the folder, without suffix, in POSIX form.

    Raises:
        FileError: also where two files have one id.
    """
    files: dict[str, Path] = {}
    for path in list_images(folder):
        identity = path.relative_to(folder).with_suffix("").as_posix()
        if identity in files:
            raise FileError(
                f"{files[identity]} and {path} differ in their suffix alone: rename or remove one of them."
            )
        files[identity] = path
    return files


def save_image(image: Image, path: Path) -> None:
    """Write uint8 H,W,3 RGB in the format of the path's suffix.

    Raises:
        FileError: there is no such format, or the file cannot be written.
    """
    format = image_format(path)
    with writing(path) as partial:
        # Lossless formats ignore the quality.
        PIL.Image.fromarray(image).save(partial, format, quality=95)


def image_format(path: Path) -> str:
    """Pillow's name for a suffix's format.

    Raises:
        FileError: no format that can be written has that suffix.
    """
    format = PIL.Image.registered_extensions().get(path.suffix.lower())
    if format is None or format not in PIL.Image.SAVE:
        raise FileError(f"{path} has no suffix of an image format: end it in .png, for example.")
    return format

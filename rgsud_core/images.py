"""Images as arrays: the one reader of image files, the one list of a folder's images, and how one is written.

What a photograph holds besides its pixels is in photographs.py.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from rgsud_core.colours import eight_bits, sixteen_bits, to_rgb
from rgsud_core.errors import FileError, first_line
from rgsud_core.files import writing

Image: TypeAlias = NDArray[np.uint8]
"""uint8 H,W,3 RGB, C-contiguous."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in luma of full range: 0..1 of 0..1 (BT.601)."""
STUDIO_LUMA = np.array([65.481, 128.553, 24.966]) / 255
"""Weights of red, green and blue (0..255) in luma of studio range, to which 16 is added: 16..235 (BT.601)."""

FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG"),
    *("PPM", "PSD", "QOI", "SGI", "TGA", "TIFF", "WEBP"),
)
"""Formats that are read, by Pillow's names: those of photographs, whose decoders start no other program."""
SUFFIXES = tuple(
    sorted(end for end, format in PIL.Image.registered_extensions().items() if format in (*FORMATS, "MPO"))
)
"""Suffixes of files that count as images in a folder."""
WRITTEN = {name: end for end, name in reversed(PIL.Image.EXTENSION.items()) if name in PIL.Image.SAVE}
"""A suffix of each format that can be written, by Pillow's name."""
_SHOWN_SUFFIXES = ".png, .jpg, .tif, .webp, .avif, .gif or .bmp"
MEGAPIXELS, MEGAPIXELS_VARIABLE = 500, "RGSUD_MAX_MEGAPIXELS"
"""Largest image that is read, in millions of pixels, and the environment variable that sets another limit."""
_QUALITY = {"AVIF": 90, "JPEG": 95, "WEBP": 95}


class NotAnImage(FileError):
    """The file is of none of :data:`FORMATS`."""


class TooLarge(FileError):
    """The image has more pixels than are read."""


def read_image(path: Path | str) -> Image:
    """An image file as uint8 H,W,3 RGB: see :func:`to_rgb`; of several frames the first.

    Raises:
        FileError: the file is missing, damaged, cut short, too large, or no image.
    """
    with opened(path) as image:
        return np.array(to_rgb(image))


@contextlib.contextmanager
def opened(path: Path | str, *, decoded: bool = True, limit: int | None = None) -> Iterator[PIL.Image.Image]:
    """``with opened(path) as image``: the decoded file; the block, which converts it, fails as it does.

    Args:
        path: an image file.
        decoded: False where format and size are enough, which the head of the file says.
        limit: largest image in pixels, by default that of :func:`pixel_limit`.

    Raises:
        NotAnImage, TooLarge: what they say.
        FileError: whatever goes wrong, in a sentence that names the file.
    """
    limit = pixel_limit() if limit is None else limit
    try:
        # A pipe would be waited for, and a device never ends.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileError(f"{path} is a folder or a device: name an image file.")
        with _PILLOW.raised(limit), _open(path, limit) as image:
            size = image.size
            _check_size(path, size, limit)
            if decoded:
                image.load()
            # TIFF is turned upright as it is loaded; anything else was given two sizes.
            if image.size not in (size, size[::-1]):
                raise ValueError(f"it has two sizes, {size} and {image.size}")
            yield image
    except FileError:
        raise
    except FileNotFoundError:
        raise FileError(f"{path} does not exist.") from None
    except PIL.UnidentifiedImageError:
        raise NotAnImage(f"{path} is not an image: remove it or save it again.") from None
    except PIL.Image.DecompressionBombError:
        raise TooLarge(_too_large(path, "far too many", limit)) from None
    except MemoryError:
        raise FileError(f"{path} cannot be read: there is too little memory for its pixels.") from None
    except Exception as error:  # damage raises what the decoder of that format happens to raise
        # Some name the object in memory that the file was read from.
        reason = first_line(error).split(" <_io")[0]
        raise FileError(f"{path} cannot be read ({reason}): remove it or save it again.") from None


def frames(path: Path | str) -> int:
    """Frames or pages of an image file, of which the first is read; previews beside a photograph are none.

    Raises:
        FileError: see :func:`opened`.
    """
    with opened(path, decoded=False) as image:
        return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


class _Pillow:
    """Pillow's own limit, one for the process: raised as long as a file is open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._before = PIL.Image.MAX_IMAGE_PIXELS

    @contextlib.contextmanager
    def raised(self, limit: int) -> Iterator[None]:
        with self._lock:
            if self._open == 0:
                self._before = PIL.Image.MAX_IMAGE_PIXELS
            self._open += 1
            PIL.Image.MAX_IMAGE_PIXELS = max(PIL.Image.MAX_IMAGE_PIXELS or 0, limit)
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1
                if self._open == 0:
                    PIL.Image.MAX_IMAGE_PIXELS = self._before


_PILLOW = _Pillow()


def _open(path: Path | str, limit: int) -> PIL.Image.Image:
    try:
        return PIL.Image.open(path, formats=FORMATS)
    except PIL.UnidentifiedImageError:
        with Path(path).open("rb") as file:
            if file.read(4) not in (b"II*\0", b"MM\0*"):
                raise
    # TIFF of several channels of 32 bits, which Pillow does not know.
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        if page.ndim != 3 or not {page.shape[0], page.shape[2]} & {3, 4}:
            raise PIL.UnidentifiedImageError
        _check_size(path, (page.size // 3, 1), limit)
        pixels = page.asarray()
    pixels = pixels if pixels.shape[2] in (3, 4) else np.moveaxis(pixels, 0, 2)
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = sixteen_bits(pixels)
    elif pixels.dtype == np.uint32:
        pixels = (pixels >> 16).astype(np.uint16)
    if pixels.dtype != np.uint16:
        raise ValueError(f"its pixels are {pixels.dtype}")
    image = PIL.Image.fromarray(np.ascontiguousarray(eight_bits(pixels)))
    image.format = "TIFF"
    return image


def _check_size(path: Path | str, size: tuple[int, int], limit: int) -> None:
    pixels = size[0] * size[1]
    if pixels > limit:
        raise TooLarge(_too_large(path, f"{pixels / 1e6:.0f}", limit))


def _too_large(path: Path | str, megapixels: str, limit: int) -> str:
    return (
        f"{path} has {megapixels} megapixels, more than {limit / 1e6:g}: if it is yours, set "
        f"{MEGAPIXELS_VARIABLE} to a higher number."
    )


def pixel_limit(megapixels: float = MEGAPIXELS) -> int:
    """Largest image in pixels: `RGSUD_MAX_MEGAPIXELS` millions, or else so many.

    Raises:
        FileError: the variable holds no number.
    """
    given = os.environ.get(MEGAPIXELS_VARIABLE, "")
    try:
        return int(float(given or megapixels) * 1_000_000)
    except (ValueError, OverflowError):
        raise FileError(f"{MEGAPIXELS_VARIABLE}={given} is no number of megapixels.") from None


class Listing(NamedTuple):
    """What is below a folder."""

    images: list[Path]
    """Image files, sorted by path."""
    left_out: list[Path]
    """Files of other kinds, linked folders, and folders that cannot be read; not hidden ones."""


def listing(folder: Path | str) -> Listing:
    """Every image file below a folder, and what else is there; hidden files and folders are ignored.

    Raises:
        FileError: the folder is missing or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.is_file() else "does not exist"
        raise FileError(f"{folder} {what}: name a folder of images.")
    found = Listing([], [])

    def unreadable(problem: OSError) -> None:
        found.left_out.append(Path(problem.filename))

    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        # A link may lead out of the folder, or round in circles.
        found.left_out.extend(Path(place, name) for name in folders if Path(place, name).is_symlink())
        for name in files:
            path = Path(place, name)
            if not name.startswith("."):
                wanted = path.suffix.lower() in SUFFIXES and path.is_file()
                (found.images if wanted else found.left_out).append(path)
    if not found.images:
        raise FileError(f"{folder} holds no image: put {_SHOWN_SUFFIXES} files there.")
    return Listing(sorted(found.images), sorted(found.left_out))


def list_images(folder: Path | str) -> list[Path]:
    """Every image file below a folder, sorted by path; hidden files and folders are left out.

    Raises:
        FileError: the folder is missing or holds no image.
    """
    return listing(folder).images


def identity(path: Path, folder: Path | str) -> str:
    """The id of an image in a folder: its path there, without suffix, in POSIX form."""
    return path.relative_to(folder).with_suffix("").as_posix()


def images_below(folder: Path | str) -> dict[str, Path]:
    """The files of :func:`list_images` by :func:`identity`.

    Raises:
        FileError: also where two files have one id.
    """
    files: dict[str, Path] = {}
    for path in list_images(folder):
        other = files.setdefault(identity(path, folder), path)
        if other is not path:
            raise FileError(f"{other} and {path} differ in their suffix alone: rename or remove one of them.")
    return files


def save_image(image: Image, path: Path) -> None:
    """Write uint8 H,W,3 RGB in the format of the path's suffix.

    Raises:
        FileError: there is no such format, it does not take so large an image, or the file cannot be written.
    """
    write_encoded(encoded(PIL.Image.fromarray(image), image_format(path), path), path)


def encoded(picture: PIL.Image.Image, format: str, path: Path, **options: Any) -> bytes:
    """The file's content, for :func:`write_encoded`.

    Args:
        picture: of a mode that the format takes.
        format: Pillow's name of the format.
        path: the file that it is for, to be named.
        options: those of Pillow's writer.

    Raises:
        FileError: the format does not take the image or an option.
    """
    file = io.BytesIO()
    try:
        default = {} if "qtables" in options else {"quality": _QUALITY[format]} if format in _QUALITY else {}
        picture.save(file, format, **(default | options))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SystemError, struct.error) as problem:
        raise FileError(
            f"{path} cannot be written, since {format} does not take it ({first_line(problem)}): give the "
            "result a name that ends in .png."
        ) from None
    return file.getvalue()


def write_encoded(data: bytes, path: Path) -> None:
    """Write a file's content, whole or not at all.

    Raises:
        FileError: the file cannot be written.
    """
    with writing(path) as partial:
        partial.write_bytes(data)


def written_format(found: str) -> str:
    """The format of what is made of an image of this one, by Pillow's names: PNG where it is only read."""
    return {"MPO": "JPEG"}.get(found, found if found in WRITTEN else "PNG")


def image_format(path: Path) -> str:
    """Pillow's name for a suffix's format.

    Raises:
        FileError: no format that can be written has that suffix.
    """
    format = PIL.Image.registered_extensions().get(path.suffix.lower())
    if format is None or format not in PIL.Image.SAVE:
        raise FileError(f"{path} has no suffix of an image format: end it in .png, for example.")
    return format

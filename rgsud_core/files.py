"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from rgsud_core.errors import FileError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class writing:
    """``with writing(path) as partial``: ``path`` appears, synced to the disk, if all went well.

    Raises:
        FileError: the disk is full or the folder cannot be written; what was there before stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")

    def __enter__(self) -> Path:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise unwritable(self._path, problem) from None
        return self._partial

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, _: object) -> None:
        try:
            if problem is None:
                with open(self._partial, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(self._partial, self._path)
                return
        except OSError as failed:
            problem = failed
        self._partial.unlink(missing_ok=True)
        if isinstance(problem, OSError):
            raise unwritable(self._path, problem) from None


def unwritable(path: Path, problem: OSError) -> FileError:
    """What to say of a file or folder that the operating system refuses to write."""
    if problem.errno in FULL:
        remedy = "free space on that disk and resume; what was written before is intact"
    else:
        remedy = "name another place, or see to its permissions"
    return FileError(f"{path} cannot be written ({problem.strerror or problem}): {remedy}.")


def save_image(image: NDArray[np.uint8], path: Path) -> None:
    """Write uint8 H,W,3 RGB in the format of the path's suffix; FileError where that cannot be done."""
    format = image_format(path)
    with writing(path) as partial:
        # Formats without loss take no notice of the quality.
        PIL.Image.fromarray(image).save(partial, format, quality=95)


def image_format(path: Path) -> str:
    """Pillow's name for a suffix's format; FileError where there is none that can be written."""
    format = PIL.Image.registered_extensions().get(path.suffix.lower())
    if format is None or format not in PIL.Image.SAVE:
        raise FileError(f"{path} has no suffix of an image format: end it in .png, for example.")
    return format

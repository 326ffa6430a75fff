"""Files that appear whole or not at all, and survive a power cut once they are there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rgsud_core.errors import FileError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk."""
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """``with writing(path) as partial``: what the block writes to ``partial`` becomes ``path``, durably.

    Raises:
        FileError: the disk is full or the folder cannot be written; the previous file stays.
    """
    try:
        # Of another name where a longer one would not fit: file systems take 255 bytes.
        name = (
            path.name
            if len(os.fsencode(path.name)) < 240
            else hashlib.sha256(os.fsencode(path.name)).hexdigest()
        )
        with replacing(path, path.with_name(f".{name}.partial")) as partial:
            yield partial
    except OSError as problem:
        raise unwritable(path, problem) from None


@contextlib.contextmanager
def replacing(path: Path, partial: Path) -> Iterator[Path]:
    """As :func:`writing`, by way of a file of the caller's choice in the same folder. Raises OSError."""
    make_folder(path.parent)
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync(path.parent)


def check_writable(folder: Path) -> None:
    """Make a folder and write into it, before work whose results it will hold.

    Raises:
        FileError: nothing can be written there.
    """
    try:
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise unwritable(folder, problem) from None


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, durably. Raises OSError."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as problem:
        # Some network file systems sync no folders.
        if problem.errno not in _NO_SYNC or not path.is_dir():
            raise
    finally:
        os.close(handle)


def unwritable(path: Path, problem: OSError) -> FileError:
    """The error for a file or folder that the operating system refuses to write."""
    if problem.errno in FULL:
        remedy = "free space on that disk and resume; what was written before is intact"
    else:
        remedy = "name another place, or check its permissions"
    return FileError(f"{path} cannot be written ({problem.strerror or problem}): {remedy}.")

"""Files of an export, which may be of anybody: plain files of bounded size, in the folder or .tar itself."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from pool_store.errors import PoolError

_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
_HEAD_BYTES = 64 << 10
"""Largest head of a member: those of long names and of extended attributes have any length they say."""
_LINE = 64 << 10
"""Longest line of a table, in characters."""


class ExportFiles(Protocol):
    """Files of an export by name."""

    def open(self, name: str) -> tuple[BinaryIO, int]:
        """A file and its size in bytes.

        Raises:
            FileNotFoundError: there is no such file.
            PoolError: it is a link or a device, or outside of the export.
        """
        ...


@contextlib.contextmanager
def reading(source: Path) -> Iterator[ExportFiles]:
    """The files of the export in a folder or a .tar.

    Raises:
        PoolError: `source` is neither, its archive is compressed, damaged or cut short, or reading fails.
    """
    try:
        if not source.is_dir():
            descriptor = _open_plain(
                source, f"{source} is neither a folder nor a .tar: give one of an export"
            )
            with io.FileIO(descriptor) as file:
                yield _Tar(file, source)
        else:
            yield _Folder(source)
    except OSError as error:
        raise PoolError(
            f"cannot import {str(error.filename or source)[:500]}: {error.strerror or error}; "
            "give the folder or the .tar of an export"
        ) from error


def read(files: ExportFiles, name: str, limit: int) -> bytes:
    """The content of a file; PoolError if it has more than `limit` bytes."""
    opened, size = files.open(name)
    with opened:
        # What grows while it is read is no more trusted than what is large.
        data = opened.read(limit + 1) if size <= limit else b""
    if size > limit or len(data) > limit:
        raise PoolError(f"'{name}' has {max(size, len(data))} bytes, more than {limit}: export it again")
    return data


def lines(files: ExportFiles, name: str) -> Iterator[str]:
    """Lines of a text in UTF-8, one at a time; PoolError if one has more than 65,536 characters."""
    opened, _ = files.open(name)
    with io.TextIOWrapper(opened, "utf-8", "replace", newline="") as text:
        while line := text.readline(_LINE + 1):
            if len(line) > _LINE:
                raise PoolError(f"a line of '{name}' is longer than {_LINE} characters: export it again")
            yield line


def cut_short(source: Path) -> PoolError:
    """The error for an export that lacks its end."""
    return PoolError(
        f"{source} is cut short, its export or its copy was interrupted: export or copy it again"
    )


def _open_plain(path: Path, otherwise: str) -> int:
    """A file opened to be read; PoolError with `otherwise` where it is a device, a pipe or a folder."""
    # A pipe that nobody writes to would be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PoolError(otherwise)
    return descriptor


def _checked(name: str, source: Path) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise PoolError(f"{source} names a file outside of itself, {name[:200]!r}: do not trust it")
    return str(path)


class _Folder:
    def __init__(self, source: Path) -> None:
        self._source = source

    def open(self, name: str) -> tuple[BinaryIO, int]:
        place = Path(os.path.realpath(self._source), _checked(name, self._source))
        no_file = f"'{name[:200]}' of {self._source} is no file but a link or a device: export it again"
        try:
            if os.path.realpath(place, strict=True) != str(place):
                raise PoolError(no_file)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise PoolError(no_file) from None
            raise
        except ValueError:  # a name with a zero byte
            raise PoolError(f"{self._source} names a file that cannot be: export it again") from None
        file = io.FileIO(_open_plain(place, no_file))
        return io.BufferedReader(file), os.fstat(file.fileno()).st_size


class _Tar:
    """A plain tar archive, read by the index of its heads: nothing is extracted by the rules of tar."""

    def __init__(self, file: io.FileIO, source: Path) -> None:
        self._file, self._source = file, source
        self._size = os.fstat(file.fileno()).st_size
        self._found: dict[str, tuple[int, int] | None] = {}
        """Place and size of each plain file; None for a member that is none."""
        try:
            self._index()
        except (tarfile.TarError, OverflowError, RecursionError, EOFError, ValueError) as error:
            if re.match("empty|unexpected end", str(error)):
                raise cut_short(source) from None
            raise PoolError(
                f"{source} is no tar archive, compressed or damaged ({error}): unpack it first, or export it "
                "again"
            ) from None

    def _index(self) -> None:
        with tarfile.open(fileobj=_Heads(self._file), mode="r:", errors="replace") as archive:
            last = -1
            while (member := archive.next()) is not None:
                # Heads that lead back would be read for ever.
                if member.offset <= last or member.size < 0:
                    raise tarfile.ReadError("its heads lead back")
                last = member.offset
                plain = member.type in _PLAIN and not member.issparse()
                if plain and member.offset_data + member.size > self._size:
                    raise cut_short(self._source)
                name = str(PurePosixPath(member.name))
                self._found[name] = (member.offset_data, member.size) if plain else None
                archive.members.clear()  # type: ignore[attr-defined] # or all heads stay in memory
            end = os.pread(self._file.fileno(), tarfile.BLOCKSIZE, archive.offset)
            if len(end) < tarfile.BLOCKSIZE or any(end):
                raise cut_short(self._source)

    def open(self, name: str) -> tuple[BinaryIO, int]:
        path = _checked(name, self._source)
        if path not in self._found:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self._source}/{path}")
        place = self._found[path]
        if place is None:
            raise PoolError(f"'{name[:200]}' of {self._source} is no file: export it again")
        start, size = place
        return io.BufferedReader(_Slice(self._file.fileno(), start, start + size)), size


class _Heads(io.BufferedReader):
    """An archive whose heads are read: never much at a time, and not on and on at its end."""

    def __init__(self, file: io.FileIO) -> None:
        super().__init__(file)
        self._ends = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _HEAD_BYTES:
            raise tarfile.ReadError(f"a head of {size} bytes")
        data = super().read(size)
        self._ends = 0 if data or not size else self._ends + 1
        if self._ends > 4:
            raise tarfile.ReadError("unexpected end of data")
        return data

    def close(self) -> None:
        """The file below stays open."""


class _Slice(io.RawIOBase):
    """Some of the bytes of a file, with a position of its own."""

    def __init__(self, descriptor: int, start: int, end: int) -> None:
        self._descriptor, self._at, self._end = descriptor, start, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = os.pread(self._descriptor, min(len(buffer), self._end - self._at), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

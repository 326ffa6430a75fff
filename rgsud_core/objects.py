"""Object storage: bytes by key, on this machine's disk or in an object store.

Files on disk are written here and not by obstore, whose local store does not sync them: an acknowledged image
has to survive a power cut. Object stores acknowledge only what is durable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from rgsud_core.errors import StorageError, StorageFull, StorageMissing, first_line
from rgsud_core.files import FULL, make_folder, replacing

_ASIDE = ".removed"
"""Suffix of a file that is being removed."""
RESERVE = 4 << 20
"""Free bytes that images leave on a disk, for the log of an embedded server on it."""
PATIENCE: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=20)}
"""Retries of an object store that does not answer."""
OBJECT_STORES = ("s3", "gs", "az", "memory")


class ErrorKinds(NamedTuple):
    """Classes of the errors that a storage raises."""

    unusable: type[Exception] = StorageError
    """The address names no storage."""
    failing: type[Exception] = StorageError
    """The storage cannot be read or written."""
    full: type[Exception] = StorageFull
    """The disk is full."""
    missing: type[Exception] = StorageMissing
    """There is no such key."""


class Item(NamedTuple):
    """One stored object: its key, size in bytes, and when it was last put or touched, seconds since 1970."""

    key: str
    size: int
    time: float


class Storage(Protocol):
    """Bytes by key ("ab/abcd.webp"). Every method may raise the errors of its :class:`ErrorKinds`."""

    address: str
    tolerance: float
    """Seconds by which an object may seem older than it is."""

    def put(self, key: str, data: bytes) -> bool:
        """Store durably bytes that are always the same for this key.

        Returns:
            Whether the key is new; without a lock, so that two writers of one key may both get True.
        """

    def replace(self, key: str, data: bytes) -> None:
        """Store durably, and replace what the key had."""

    def get(self, key: str) -> bytes:
        """The bytes of a key; StorageMissing if there are none."""

    def touch(self, key: str) -> bool:
        """Set the age of an object to zero; False if there is no such key."""

    def remove(self, key: str, older_than: float | None = None) -> bool:
        """Remove an object, with `older_than` only if it was not put or touched for so many seconds.

        Returns:
            Whether it was removed.
        """

    def items(self) -> Iterator[Item]:
        """All objects in no order, including leftovers of interrupted writes."""

    def path(self, key: str) -> str:
        """The object's name in messages."""


def open_storage(location: str, *parts: str, errors: ErrorKinds = ErrorKinds()) -> Storage:
    """The storage below `parts` of a folder or of an object store's URL.

    `s3://BUCKET/PREFIX` (compatible stores with AWS_ENDPOINT in the environment), `gs://BUCKET/PREFIX` and
    `az://CONTAINER/PREFIX` with their usual credentials, or `memory:///`. `errors.unusable` for others.
    """
    scheme = urlsplit(location).scheme if "://" in location else ""
    if not scheme:
        return DiskStorage(Path(location).expanduser(), errors, parts)
    if scheme in OBJECT_STORES:
        return ObjectStorage("/".join((location.rstrip("/"), *parts)), errors)
    known = ", ".join(f"{name}://" for name in OBJECT_STORES)
    raise errors.unusable(f"unknown place for objects '{location}': use a folder, or one of {known}")


class DiskStorage:
    """Files below `parts` of a folder, which several processes may use.

    The folder may be a link. Nothing below it is followed as one, since its files may be somebody else's.
    """

    tolerance = 0.0

    def __init__(
        self, location: Path, errors: ErrorKinds = ErrorKinds(), parts: tuple[str, ...] = ()
    ) -> None:
        self._raised = errors
        self._location = location.resolve()
        self.root = self._location.joinpath(*parts)
        self._plain: set[Path] = set()  # folders that have been found to be no links
        self.address = str(self.root)
        with self._disk("create"):
            make_folder(self.root)

    def put(self, key: str, data: bytes) -> bool:
        with self._disk("write a blob to"):
            path = self._file(key)
            free = os.statvfs(self.root)
            if free.f_bavail * free.f_frsize < RESERVE + len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with replacing(path, path.with_name(f"{uuid.uuid4().hex}.tmp")) as temporary:
                temporary.write_bytes(data)
                new = not path.exists()
        return new

    def replace(self, key: str, data: bytes) -> None:
        self.put(key, data)

    def get(self, key: str) -> bytes:
        with self._disk("read a blob of"):
            path = self._file(key)
            for file in (path, path.with_name(path.name + _ASIDE)):
                with contextlib.suppress(FileNotFoundError):
                    if not stat.S_ISREG(os.lstat(file).st_mode):
                        raise self._raised.missing(f"blob {file} is no plain file")
                    return file.read_bytes()
        raise self._raised.missing(f"blob {path} is missing")

    def touch(self, key: str) -> bool:
        with self._disk("use"), contextlib.suppress(FileNotFoundError):
            path = self._file(key)
            try:
                plain = stat.S_ISREG(os.lstat(path).st_mode)
            except FileNotFoundError:
                os.rename(path.with_name(path.name + _ASIDE), path)
                plain = True
            if plain:
                os.utime(path, follow_symlinks=False)
            return plain
        return False

    def remove(self, key: str, older_than: float | None = None) -> bool:
        with self._disk("sweep"), contextlib.suppress(FileNotFoundError):
            path = self._file(key)
            if older_than is None:
                os.unlink(path)
                return True
            horizon = time.time() - older_than
            # The age is read here and not from a listing, since a put may have touched the file since.
            if os.lstat(path).st_mtime > horizon:
                return False
            # It may be touched now as well. Under another name it is removed by one, or taken back by the
            # other, never both.
            aside = path.with_name(path.name + _ASIDE)
            os.rename(path, aside)
            if os.lstat(aside).st_mtime > horizon:
                os.rename(aside, path)
                return False
            os.unlink(aside)
            return True
        return False

    def items(self) -> Iterator[Item]:
        with self._disk("list"):
            for folder, _, names in os.walk(self._file("x").parent):
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        path = Path(folder, name)
                        if name.endswith(_ASIDE):  # of a removal that was killed
                            path = path.with_name(name.removesuffix(_ASIDE))
                            if not os.path.lexists(path):
                                os.rename(Path(folder, name), path)
                        status = os.lstat(path)
                        yield Item(os.path.relpath(path, self.root), status.st_size, status.st_mtime)

    def _file(self, key: str) -> Path:
        """The file of a key. Raises OSError where a folder below the location is a link."""
        path = self.root / key
        folder = path.parent
        while folder != self._location and folder not in self._plain:
            if folder.is_symlink():
                raise OSError(errno.ELOOP, f"{folder} is a link, which is not followed")
            if folder.is_dir():
                self._plain.add(folder)
            folder = folder.parent
        return path

    def path(self, key: str) -> str:
        return f"{self.address}/{key}"

    @contextlib.contextmanager
    def _disk(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = self._raised.full if error.errno in FULL else self._raised.failing
            reason = error.strerror or error
            raise kind(f"cannot {what} {self.root}: {reason}; check that disk") from error


class ObjectStorage:
    """Objects below a URL, through obstore.

    An object store cannot change an object's age, so `touch` puts the same bytes again if they are older than
    `tolerance`, and `remove` adds `tolerance` to `older_than`.
    """

    tolerance = 60.0

    def __init__(self, url: str, errors: ErrorKinds = ErrorKinds()) -> None:
        self._raised = errors
        # Imported here, since a pool on disk does not need it.
        import obstore
        from obstore import exceptions
        from obstore.store import MemoryStore, from_url

        self._api: Any = obstore
        self._errors = exceptions
        self.address = url
        parts = urlsplit(url)
        if parts.scheme == "memory":
            self._prefix = f"{parts.netloc}{parts.path}".strip("/") + "/"
            self._store: Any = _MEMORY.setdefault("", MemoryStore())
        else:
            self._prefix = ""
            try:
                self._store = from_url(url, retry_config=PATIENCE)
            except exceptions.BaseError as error:
                raise self._raised.unusable(f"cannot use {url} for objects: {first_line(error)}") from error

    def put(self, key: str, data: bytes) -> bool:
        try:
            self._call("write a blob to", self._api.put, key, data, mode="create")
        except self._errors.AlreadyExistsError:
            return False
        except self._errors.NotSupportedError:
            # A store without conditional puts: the same key has the same bytes, so it may be put again.
            new = not self._age(key)
            self._call("write a blob to", self._api.put, key, data)
            return new
        return True

    def replace(self, key: str, data: bytes) -> None:
        self._call("write to", self._api.put, key, data)

    def get(self, key: str) -> bytes:
        try:
            return bytes(self._call("read a blob of", self._api.get, key).bytes())
        except FileNotFoundError:
            raise self._raised.missing(f"blob {self.path(key)} is missing") from None

    def touch(self, key: str) -> bool:
        age = self._age(key)
        if age is not None and age > self.tolerance:
            self._call("use", self._api.put, key, self.get(key))
        return age is not None

    def remove(self, key: str, older_than: float | None = None) -> bool:
        age = self._age(key)
        if age is None or (older_than is not None and age < older_than + self.tolerance):
            return False
        self._call("sweep", self._api.delete, key)
        return True

    def items(self) -> Iterator[Item]:
        with self._answering("list"):
            for page in self._api.list(self._store, prefix=self._prefix or None):
                for found in page:
                    key = str(found["path"]).removeprefix(self._prefix)
                    yield Item(key, int(found["size"]), found["last_modified"].timestamp())

    def path(self, key: str) -> str:
        return f"{self.address}/{key}"

    def _age(self, key: str) -> float | None:
        """Seconds since the object was put, None where there is none."""
        try:
            found = self._call("use", self._api.head, key)
        except FileNotFoundError:
            return None
        return float((datetime.now(UTC) - found["last_modified"]).total_seconds())

    def _call(self, what: str, function: Callable[..., Any], key: str, *rest: Any, **options: Any) -> Any:
        with self._answering(what):
            return function(self._store, self._prefix + key, *rest, **options)

    @contextlib.contextmanager
    def _answering(self, what: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, self._errors.AlreadyExistsError, self._errors.NotSupportedError):
            raise
        except (self._errors.BaseError, OSError) as error:
            raise self._raised.failing(
                f"cannot {what} {self.address}: {first_line(error)}; check that store and its credentials"
            ) from error


_MEMORY: dict[str, Any] = {}
"""The store of `memory:///`, one for the whole process."""

"""Object storage: bytes by key, on this machine's disk or in an object store.

The disk is written here and not through obstore, whose local store leaves its files to the kernel: an
acknowledged image has to survive a power cut, so the file is synced before it gets its name, and its folder
after. Object stores acknowledge what is durable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from rgsud_core.errors import StorageError, StorageFull, StorageMissing, first_line
from rgsud_core.files import FULL, make_folder, replacing

RESERVE = 4 << 20
"""Bytes of a disk that images leave free: the log of an embedded server on the same disk needs them more."""
PATIENCE: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=20)}
"""With an object store that does not answer."""
OBJECT_STORES = ("s3", "gs", "az", "memory")


class ErrorKinds(NamedTuple):
    """What a storage raises: for an address that is no storage, one that fails, one that is full, and a key
    that it does not hold."""

    unusable: type[Exception] = StorageError
    failing: type[Exception] = StorageError
    full: type[Exception] = StorageFull
    missing: type[Exception] = StorageMissing


class Item(NamedTuple):
    """One stored object: its key, size in bytes, and when it was last put or touched, seconds since 1970."""

    key: str
    size: int
    time: float


class Storage(Protocol):
    """Bytes by key ("ab/abcd.webp"). Every method raises StorageError where the storage fails, or the
    kinds of error that it was opened with.

    `tolerance` is by how many seconds an object may seem older than it is.
    """

    address: str
    tolerance: float

    def put(self, key: str, data: bytes) -> bool:
        """Stores durably; whether the key is new, as far as can be told without a lock."""

    def replace(self, key: str, data: bytes) -> None:
        """Stores durably, in place of other bytes that the key may have had."""

    def get(self, key: str) -> bytes:
        """StorageMissing where there is no such key."""

    def touch(self, key: str) -> bool:
        """Whether the key exists; if so its age starts anew."""

    def remove(self, key: str, older_than: float | None = None) -> bool:
        """Whether it was there; with `older_than` only if it has not been touched for as many seconds."""

    def items(self) -> Iterator[Item]:
        """Everything that is stored, in no order, leftovers of broken writes included."""

    def path(self, key: str) -> str:
        """What errors call the object."""


def open_storage(location: str, *parts: str, errors: ErrorKinds = ErrorKinds()) -> Storage:
    """The storage below `parts` of a folder or of an object store's URL.

    `s3://BUCKET/PREFIX` (what is compatible too, with AWS_ENDPOINT in the environment), `gs://BUCKET/PREFIX`,
    `az://CONTAINER/PREFIX`, all with their usual credentials, or `memory:///`. StorageError for others.
    """
    scheme = urlsplit(location).scheme if "://" in location else ""
    if not scheme:
        return DiskStorage(Path(location).expanduser().joinpath(*parts), errors)
    if scheme in OBJECT_STORES:
        return ObjectStorage("/".join((location.rstrip("/"), *parts)), errors)
    known = ", ".join(f"{name}://" for name in OBJECT_STORES)
    raise errors.unusable(f"unknown place for objects '{location}': use a folder, or one of {known}")


class DiskStorage:
    """Files below a folder, which processes may share."""

    tolerance = 0.0

    def __init__(self, root: Path, errors: ErrorKinds = ErrorKinds()) -> None:
        self._raised = errors
        self.root = root.resolve()
        self.address = str(self.root)
        with self._disk("create"):
            make_folder(self.root)

    def put(self, key: str, data: bytes) -> bool:
        path = Path(self.path(key))
        with self._disk("write a blob to"):
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
            try:
                return Path(self.path(key)).read_bytes()
            except FileNotFoundError:
                raise self._raised.missing(f"blob {self.path(key)} is missing") from None

    def touch(self, key: str) -> bool:
        with self._disk("use"):
            try:
                os.utime(self.path(key))
            except FileNotFoundError:
                return False
        return True

    def remove(self, key: str, older_than: float | None = None) -> bool:
        with self._disk("sweep"), contextlib.suppress(FileNotFoundError):
            path = self.path(key)
            # Looked up here and not from a listing, since a put may have touched it since.
            if older_than is None or os.stat(path).st_mtime <= time.time() - older_than:
                os.unlink(path)
                return True
        return False

    def items(self) -> Iterator[Item]:
        with self._disk("list"):
            for folder, _, names in os.walk(self.root):
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        path = os.path.join(folder, name)
                        status = os.stat(path)
                        yield Item(os.path.relpath(path, self.root), status.st_size, status.st_mtime)

    def path(self, key: str) -> str:
        return f"{self.address}/{key}"

    @contextlib.contextmanager
    def _disk(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = self._raised.full if error.errno in FULL else self._raised.failing
            reason = error.strerror or error
            raise kind(f"cannot {what} {self.root}: {reason}; see to that disk") from error


class ObjectStorage:
    """Objects below a URL, through obstore.

    An object store cannot change an object's age, so `touch` puts the same bytes again once they are older
    than `tolerance`, and what looks older than it is by as much is spared by a sweep.
    """

    tolerance = 60.0

    def __init__(self, url: str, errors: ErrorKinds = ErrorKinds()) -> None:
        self._raised = errors
        # Here, since a pool on disk needs none of it.
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
                f"cannot {what} {self.address}: {first_line(error)}; see to that store and its credentials"
            ) from error


_MEMORY: dict[str, Any] = {}
"""The one store in memory of this process, so that `memory:///` opened again is the same."""

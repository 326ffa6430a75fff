"""Images as content-addressed, lossless files: equal images are stored once, none is overwritten."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
import uuid
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from pool_store.errors import PoolError
from pool_store.schemas import Swept

Image: TypeAlias = NDArray[np.uint8]
"""uint8 H,W,3 RGB."""

LONGEST_SIDE = 16383
"""What lossless WebP can hold, in pixels."""


class Blobs(Protocol):
    """Where a pool keeps its images. Every method raises PoolError where the storage fails."""

    def put(self, image: Image) -> str:
        """Stores the image durably and returns its digest."""

    def get(self, digest: str) -> Image:
        """The image; PoolError where it is missing or not what its digest says."""

    def touch(self, digest: str) -> bool:
        """Whether the blob exists; if so its age starts anew, which keeps it from the next sweeps."""

    def sweep(self, referenced: Set[str], older_than: float) -> Swept:
        """Removes what is older than `older_than` seconds and not `referenced`, broken leftovers included."""

    def usage(self) -> tuple[int, int]:
        """Number of blobs and their bytes."""


def digest_of(image: Image) -> str:
    """SHA-256 (64 hexadecimal digits) of shape and pixels; PoolError unless the image is uint8 H,W,3."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise PoolError(
            f"the pool takes uint8 H,W,3 images, not {image.dtype} {image.shape}: convert it first"
        )
    digest = hashlib.sha256(f"{image.shape[0]}x{image.shape[1]} ".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


class DiskBlobs:
    """Blobs as `ROOT/ab/abcd....webp`, where abcd... is the digest. Processes may share ROOT."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        with self._storage("create"):
            self.root.mkdir(parents=True, exist_ok=True)

    def put(self, image: Image) -> str:
        digest = digest_of(image)
        if self.touch(digest):
            return digest
        if max(image.shape) > LONGEST_SIDE:
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise PoolError(f"an image of {size} pixels is too large: the pool takes {LONGEST_SIDE} a side")
        encoded = io.BytesIO()
        # Two thirds of the bytes of PNG at level 1, and faster; a higher quality is slower and saves nothing.
        Pillow.fromarray(image).save(encoded, "WEBP", lossless=True, method=0, quality=0)
        path = self._path(digest)
        with self._storage("write a blob to"):
            if not path.parent.exists():
                path.parent.mkdir(exist_ok=True)
                _fsync_folder(self.root)
            temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
            try:
                with open(temporary, "xb") as file:
                    file.write(encoded.getbuffer())
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _fsync_folder(path.parent)
        return digest

    def get(self, digest: str) -> Image:
        path = self._path(digest)
        try:
            with Pillow.open(path, formats=["WEBP"]) as file:
                image = np.array(file.convert("RGB"))
        except FileNotFoundError:
            raise PoolError(f"blob {path} is missing: restore it from a copy, or delete the pool") from None
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
            raise PoolError(
                f"blob {path} is corrupt ({error}): restore it from a copy, or delete the pool"
            ) from None
        if digest_of(image) != digest:
            raise PoolError(
                f"blob {path} is corrupt (other pixels): restore it from a copy, or delete the pool"
            )
        return image

    def touch(self, digest: str) -> bool:
        with self._storage("use"):
            try:
                os.utime(self._path(digest))
            except FileNotFoundError:
                return False
        return True

    def sweep(self, referenced: Set[str], older_than: float) -> Swept:
        horizon = time.time() - older_than
        blobs = freed = 0
        with self._storage("sweep"):
            for file in self._files():
                # Looked up here and not from the listing, since a put may have touched the blob since.
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(file)
                    if Path(file).stem not in referenced and status.st_mtime <= horizon:
                        os.unlink(file)
                        blobs, freed = blobs + 1, freed + status.st_size
        return Swept(blobs=blobs, bytes=freed)

    def usage(self) -> tuple[int, int]:
        blobs = size = 0
        with self._storage("list"):
            for file in self._files():
                with contextlib.suppress(FileNotFoundError):
                    size += file.stat().st_size
                    blobs += 1
        return blobs, size

    def _path(self, digest: str) -> Path:
        return self.root / digest[:2] / f"{digest}.webp"

    def _files(self) -> Iterator[os.DirEntry[str]]:
        for folder in os.scandir(self.root):
            if folder.is_dir():
                yield from os.scandir(folder)

    @contextlib.contextmanager
    def _storage(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PoolError(
                f"cannot {what} {self.root}: {error.strerror or error}; see to that disk"
            ) from error


def _fsync_folder(folder: Path) -> None:
    """Makes new names in the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

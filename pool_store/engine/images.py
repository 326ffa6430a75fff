"""Content-addressed storage of images as lossless WebP: equal images are stored once, none is overwritten."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image as Pillow

from pool_store.errors import PoolDamaged, PoolError, PoolMissing
from pool_store.schemas import Swept
from rgsud_core.images import Image
from rgsud_core.objects import Storage

LONGEST_SIDE = 16383
"""Longest side that lossless WebP allows, in pixels."""
SOURCES, MARKS = "sources/", "pools/"
CLEARED = 64
"""Images of a pool that are removed between two looks at whether it is still to be removed."""
THREADS = min(32, 2 * (os.cpu_count() or 2))
"""Images that a process encodes, decodes or writes at a time."""
MEND = "put that image again, restore it from a copy, or delete the pool"
T = TypeVar("T")
R = TypeVar("R")


class Stored(NamedTuple):
    """A stored image: its digest, and its size in bytes, or 0 if it was stored before."""

    digest: str
    added: int


def digest_of(image: Image) -> str:
    """SHA-256 (64 hexadecimal digits) of shape and pixels; PoolError unless the image is uint8 H,W,3."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise PoolError(
            f"the pool takes uint8 H,W,3 images, not {image.dtype} {image.shape}: convert it first"
        )
    digest = hashlib.sha256(f"{image.shape[0]}x{image.shape[1]} ".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def is_webp(data: bytes) -> bool:
    """Whether a file begins as plain lossless WebP."""
    return data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8L"


def is_png(data: bytes) -> bool:
    """Whether a file begins as PNG."""
    return data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) > 24


def header_size(data: bytes) -> tuple[int, int]:
    """Width and height in the header of PNG or plain lossless WebP: decoders allocate them when they open it.

    Raises:
        ValueError: it is of neither format, or has no header.
    """
    if is_webp(data) and len(data) >= 25 and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")  # twice 14, after a signature
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if is_png(data):
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    raise ValueError("no header of PNG or lossless WebP")


def encode(image: Image) -> bytes:
    """The image as lossless WebP; PoolError if it is too large for that format."""
    if max(image.shape) > LONGEST_SIDE:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise PoolError(f"an image of {size} pixels is too large: the pool takes {LONGEST_SIDE} a side")
    encoded = io.BytesIO()
    # Two thirds of the bytes of PNG at level 1, and faster; a higher quality is slower and saves nothing.
    Pillow.fromarray(image).save(encoded, "WEBP", lossless=True, method=0, quality=0)
    return encoded.getvalue()


def several(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results of `work` on each item, several at a time in threads: codecs, digests and file operations
    release the interpreter. Raises the error of the first item that failed, once all have ended."""
    if len(items) < 2:
        return [work(item) for item in items]
    threads = _threads(os.getpid())
    futures = [threads.submit(work, item) for item in items]
    wait(futures)
    return [future.result() for future in futures]


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Shared by all calls, since starting threads takes as long as writing an image. A fork needs its own."""
    return ThreadPoolExecutor(THREADS, f"images-{process}")


class Blobs:
    """A pool's images in its own part of a storage: candidates as `ab/abcd....webp`, where abcd... is the
    digest; rainy images below `sources/`; below `pools/` the birth of the pool that they belong to."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def put(self, image: Image, digest: str | None = None) -> Stored:
        """Stores the image durably; `digest` saves computing it."""
        digest = digest or digest_of(image)
        height, width, _ = image.shape
        whole = self.whole(digest, width, height)
        return Stored(digest, 0) if whole else self.put_encoded(digest, encode(image))

    def put_encoded(self, digest: str, data: bytes) -> Stored:
        """Stores lossless WebP whose decoded image has been found to have that digest, instead of what may be
        damaged."""
        new = self.storage.put(_key(digest), data)
        if not new:
            self.storage.replace(_key(digest), data)
        return Stored(digest, len(data) if new else 0)

    def whole(self, digest: str, width: int, height: int) -> bool:
        """Whether the image, of that size, is stored and undamaged; if so, its age for sweeps restarts."""
        if not self.touch(digest):
            return False
        try:
            data = self.encoded(digest)
            if not is_webp(data) or header_size(data) != (width, height):  # nothing larger is decoded
                return False
            check(data, digest, self.storage.path(_key(digest)))
        except (PoolDamaged, PoolMissing, ValueError):
            return False
        return True

    def encoded(self, digest: str) -> bytes:
        """The image as it is stored: lossless WebP, unchecked; PoolMissing if it is not there."""
        try:
            return self.storage.get(_key(digest))
        except PoolMissing as error:
            raise PoolMissing(f"{error}: {MEND}") from None

    def get(self, digest: str) -> Image:
        """The image; PoolMissing if it is not there, PoolDamaged if it does not match its digest."""
        return check(self.encoded(digest), digest, self.storage.path(_key(digest)))

    def touch(self, digest: str) -> bool:
        """Whether the image is stored; if so, its age for sweeps restarts."""
        return self.storage.touch(_key(digest))

    def put_source(self, id: str, image: Image) -> None:
        """Stores the rainy image of `id`, replacing an earlier one."""
        self.put_source_encoded(id, encode(image))

    def put_source_encoded(self, id: str, data: bytes) -> None:
        """Stores the rainy image of `id` as lossless WebP, replacing an earlier one."""
        self.storage.replace(_source(id), data)

    def source_encoded(self, id: str) -> bytes:
        """The rainy image as lossless WebP; PoolMissing if none was stored."""
        try:
            return self.storage.get(_source(id))
        except PoolMissing:
            raise PoolMissing(f"no rainy image of '{id}' was put: it is optional") from None

    def source(self, id: str) -> Image | None:
        """The rainy image of `id`, or None if none was stored."""
        try:
            return decode(self.source_encoded(id), self.storage.path(_source(id)))
        except PoolMissing:
            return None

    def sweep(self, referenced: Set[bytes], older_than: float) -> tuple[Swept, tuple[int, int]]:
        """Removes what is older than `older_than` seconds and not needed, leftovers of crashes too; returns
        what was removed, and the number of candidates that are left and their bytes.

        Args:
            referenced: raw digests of the images that are needed.
        """
        blobs = freed = left = size = 0
        horizon = time.time() - older_than
        for item in self.storage.items():
            name = item.key.rpartition("/")[2].removesuffix(".webp")
            candidate = not item.key.startswith((SOURCES, MARKS))
            spared = not candidate or _raw(name) in referenced
            if item.time <= horizon and not spared and self.storage.remove(item.key, older_than):
                blobs, freed = blobs + 1, freed + item.size
            else:
                left, size = left + candidate, size + candidate * item.size
        return Swept(blobs=blobs, bytes=freed), (left, size)

    def mark(self, birth: str) -> None:
        """Stores that these are the images of the pool of that birth."""
        self.storage.put(MARKS + birth, birth.encode())

    def marked(self, birth: str) -> bool:
        """Whether these are the images of the pool of that birth."""
        return self.storage.touch(MARKS + birth)

    def clear(self, going: Callable[[], bool] = lambda: True) -> None:
        """Removes everything; `going` is called now and then, and ends it when it gives False."""
        for number, item in enumerate(list(self.storage.items())):
            if number % CLEARED == 0 and not going():
                return
            self.storage.remove(item.key)


def _key(digest: str) -> str:
    return f"{digest[:2]}/{digest}.webp"


def _source(id: str) -> str:
    name = hashlib.sha256(id.encode()).hexdigest()
    return f"{SOURCES}{name[:2]}/{name}.webp"


def _raw(name: str) -> bytes | None:
    try:
        return bytes.fromhex(name)
    except ValueError:
        return None


def check(data: bytes, digest: str, path: str) -> Image:
    """Decodes lossless WebP; PoolDamaged that names `path` if it does not match its digest."""
    image = decode(data, path)
    if digest_of(image) != digest:
        raise PoolDamaged(f"blob {path} is corrupt (other pixels): {MEND}")
    return image


def decode(data: bytes, path: str) -> Image:
    """Decodes lossless WebP; PoolDamaged that names `path` if it is damaged."""
    with opened(data, path) as file:
        return np.array(file)


@contextmanager
def opened(data: bytes, path: str) -> Iterator[Pillow.Image]:
    """Lossless WebP as an RGB picture; PoolDamaged that names `path` where its pixels cannot be read."""
    try:
        with Pillow.open(io.BytesIO(data), formats=["WEBP"]) as file:
            yield file if file.mode == "RGB" else file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
        raise PoolDamaged(f"blob {path} is corrupt ({error}): {MEND}") from None

"""What the service does with a photograph, in threads of its own, and how many may wait for that."""

from __future__ import annotations

import asyncio
import functools
import io
import math
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL.Image
import prometheus_client
import torch
from pydantic import Field

from rgsud.api import Derainer
from rgsud_core.errors import FileError, RgsudError
from rgsud_core.http.limits import Limits, PixelBudget
from rgsud_core.http.problems import Problem
from rgsud_core.images import FORMATS, WRITTEN, NotAnImage, TooLarge, opened, read_image, written_format
from rgsud_core.settings import Settings
from trainer.restore.files import derain_file

PREVIEW_SIDE = 2048
"""Longest side of a preview in pixels."""
_FIRST_GUESS = 2.0
"""Seconds that a photograph takes, before one was timed."""
_LATEST = 0.2
"""Weight of the latest photograph in the mean time that one takes."""
_SAMPLE = (64, 64, 3)
_Result = TypeVar("_Result")

MEDIA = {name: PIL.Image.MIME.get(name, f"image/{name.lower()}") for name in FORMATS}
"""Media types of the formats that are read, by Pillow's names."""


class Busy(RgsudError):
    """As many photographs wait as may; ``retry_after`` is the time in seconds until there is room."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} photographs are waiting already: send this one again a little later")
        self.retry_after = retry_after


class WorkSettings(Settings):
    """How much the service does at a time."""

    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Photographs worked on at a time; they share the cores."""
    waiting: int = Field(16, ge=0)
    """Photographs that may wait for that; others are refused with a Retry-After."""
    pixels: int = Field(50_000_000, ge=1)
    """Largest photograph in pixels, and pixels that are decoded at a time."""


@dataclass(frozen=True)
class Derained:
    """An answer: the file and its media type, and what it lacks that the photograph had, in words."""

    content: bytes
    media_type: str
    lacks: tuple[str, ...] = ()


class Metrics:
    """Prometheus metrics of the service."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self.images = prometheus_client.Counter(
            "rgsud_derain_images", "Photographs by result.", ["result"], registry=self.registry
        )
        self.pixels = prometheus_client.Counter(
            "rgsud_derain_pixels", "Pixels of derained photographs.", registry=self.registry
        )
        self.inside = prometheus_client.Gauge(
            "rgsud_derain_inside", "Photographs that are worked on or wait.", registry=self.registry
        )


class Deraining:
    """Derains files in threads: one each at a time, and a bounded number that wait.

    Args:
        derainer: tried once here, so that a broken one ends the service and not its answers.
        settings: how much is done at a time.

    Raises:
        RgsudError: the derainer's output is none.
    """

    def __init__(self, derainer: Derainer, settings: WorkSettings) -> None:
        self.derainer, self.settings, self.metrics = derainer, settings, Metrics()
        derainer(np.zeros(_SAMPLE, np.uint8))
        cores = max(1, torch.get_num_threads() // settings.workers)
        # The number of a loop's threads belongs to the thread that it is set in.
        self._threads = ThreadPoolExecutor(settings.workers, "derain", torch.set_num_threads, (cores,))
        self._room = PixelBudget(settings.pixels)
        self._inside, self._seconds = 0, _FIRST_GUESS

    def close(self) -> None:
        """Finishes what is worked on."""
        self._threads.shutdown(cancel_futures=True)

    async def derained(self, body: bytes) -> Derained:
        """The photograph in a file without its rain, as a file of the same format.

        Raises:
            Busy: too many wait.
            Problem: 413 for a photograph that is too large, 415 for no image, 422 for a damaged one.
        """
        try:
            answer = await self._queued(self._derain, body)
        except Busy:
            self.metrics.images.labels("busy").inc()
            raise
        except Problem:
            self.metrics.images.labels("refused").inc()
            raise
        self.metrics.images.labels("derained").inc()
        return answer

    async def preview(self, body: bytes) -> bytes:
        """A PNG file of at most `PREVIEW_SIDE` of whatever image can be read; raises as :meth:`derained`."""
        return await self._queued(self._preview, body)

    async def _queued(self, work: Callable[[Path, bytes], _Result], body: bytes) -> _Result:
        most = self.settings.workers + self.settings.waiting
        if self._inside >= most:
            rounds = math.ceil((self._inside - most + 1) / self.settings.workers)
            raise Busy(self.settings.waiting, max(1.0, rounds * self._seconds))
        self._inside += 1
        self.metrics.inside.set(self._inside)
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, functools.partial(self._in_folder, work, body))
        finally:
            self._inside -= 1
            self.metrics.inside.set(self._inside)

    def _in_folder(self, work: Callable[[Path, bytes], _Result], body: bytes) -> _Result:
        """Works on a file that is gone afterwards: readers of images take paths."""
        with tempfile.TemporaryDirectory(prefix="rgsud-") as folder:
            file = Path(folder, "photograph")
            try:
                return work(file, body)
            except NotAnImage:
                shown = ", ".join(name for name in FORMATS if name != "DIB")
                raise Problem(415, f"this is no image that can be read: send a file of {shown}") from None
            except TooLarge:
                most = f"{self.settings.pixels / 1e6:g} megapixels"
                raise Problem(
                    413, f"the photograph has more than {most}: make it smaller, or raise --megapixels"
                ) from None
            except FileError as problem:
                raise Problem(422, str(problem).replace(str(file), "the photograph")) from None
            except (MemoryError, torch.OutOfMemoryError):
                raise Problem(
                    413, "there is too little memory for this photograph: make it smaller, or lower --tile"
                ) from None

    def _derain(self, file: Path, body: bytes) -> Derained:
        began = time.monotonic()
        file.write_bytes(body)
        with opened(file, decoded=False, limit=self.settings.pixels) as image:
            pixels, format = image.width * image.height, written_format(str(image.format))
        with self._room.hold(pixels):
            result = file.with_name(f"derained{WRITTEN[format]}")
            lacks = derain_file(
                self.derainer.network,
                file,
                result,
                tile=self.derainer.tile,
                overlap=self.derainer.overlap,
            )
            content = result.read_bytes()
        self.metrics.pixels.inc(pixels)
        self._seconds += _LATEST * (time.monotonic() - began - self._seconds)
        return Derained(content, MEDIA[format], tuple(lacks))

    def _preview(self, file: Path, body: bytes) -> bytes:
        file.write_bytes(body)
        with opened(file, decoded=False, limit=self.settings.pixels) as image:
            pixels = image.width * image.height
        with self._room.hold(pixels):
            picture = PIL.Image.fromarray(read_image(file))
            picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), reducing_gap=3)
        small = io.BytesIO()
        picture.save(small, "PNG", compress_level=1)
        return small.getvalue()


def limits(body_megabytes: int) -> Limits:
    """Limits of the HTTP service."""
    body = body_megabytes << 20
    return Limits(body=body, bodies=max(body, Limits().bodies))

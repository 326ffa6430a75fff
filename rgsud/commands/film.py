"""`rgsud derain` of a film, and of raw frames."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from rgsud_core.console import make_console
from rgsud_core.errors import RgsudError
from rgsud_core.images import Image

if TYPE_CHECKING:
    from rgsud.api import Derainer

_SUFFIXES = frozenset(
    (
        *(".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v", ".mj2", ".mkv"),
        *(".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogg", ".ogv", ".qt", ".rm", ".ts"),
        *(".vob", ".webm", ".wmv", ".y4m"),
    )
)
console = make_console(stderr=True)


def is_film(source: str, target: str) -> bool:
    """Whether it is a film that is to be derained: its suffix says so, or that of the result."""
    return not Path(source).is_dir() and any(
        Path(one).suffix.lower() in _SUFFIXES for one in (source, target)
    )


def derain_film(
    derainer: Derainer,
    source: str,
    target: str,
    *,
    frame_by_frame: bool,
    overwrite: bool,
    skip_existing: bool,
    progress: Callable[[int, int | None], None],
) -> None:
    """Derain a film into a file or a folder, and say so.

    Raises:
        RgsudError: what is wrong with the film, or a file lies in the place of a result that was not named.
    """
    result = Path(target)
    if target.endswith("/") or result.is_dir() or not result.suffix:
        result = result / Path(source).name
        if result.exists() and skip_existing:
            console.print(f"{result} is there, and left as it is.")
            return
        if result.exists() and not overwrite:
            raise RgsudError(
                f"{result} would be replaced: --overwrite replaces it, --skip-existing leaves it as it is."
            )
    try:
        frames = derainer.write_film(
            source, result, progress, frame_by_frame=frame_by_frame, notice=console.print
        )
    except KeyboardInterrupt:
        console.print(f"{result} was not written: a film is derained whole.")
        raise
    console.print(f"{frames} frames derained: {result}")


def derain_raw(derainer: Derainer, size: str, source: str, target: str, *, frame_by_frame: bool) -> None:
    """Derain raw frames, RGB of 8 bits without any header, from a file or stream into another one.

    Args:
        size: of the frames, WIDTHxHEIGHT.

    Raises:
        RgsudError: the size is none, or the source ends within a frame.
    """
    numbers = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
    if numbers is None:
        raise RgsudError(f"'{size}' is no size of raw frames: give it as 640x480.")
    width, height = map(int, numbers.groups())
    with ExitStack() as files:
        given: BinaryIO = sys.stdin.buffer if source == "-" else files.enter_context(open(source, "rb"))
        made: BinaryIO = sys.stdout.buffer if target == "-" else files.enter_context(open(target, "wb"))
        for frame in derainer.frames(_raw_frames(given, height, width), frame_by_frame=frame_by_frame):
            made.write(frame.tobytes())
            made.flush()


def _raw_frames(given: BinaryIO, height: int, width: int) -> Iterator[Image]:
    whole = height * width * 3
    while data := given.read(whole):
        if len(data) < whole:
            raise RgsudError(
                f"the raw frames end {len(data)} bytes into one of {whole}: give rgb24 of {width}x{height}."
            )
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)

"""Deraining of films, frame by frame or with what a frame's neighbours show of its rain."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import av
from numpy.typing import NDArray
from torch import nn

from rgsud_core.errors import FileError
from trainer.errors import TrainerError
from trainer.restore.film_files import first_frame, main_stream, open_film, pixels_of, reading, writing_film
from trainer.restore.inference import derain_image
from trainer.restore.temporal import TemporalFilter

Pixels = NDArray[Any]
"""A frame: uint8 or uint16 H,W,3 RGB."""


def derain_frames(
    net: nn.Module,
    frames: Iterable[Pixels],
    *,
    frame_by_frame: bool = False,
    tile: int | None = None,
    overlap: int = 32,
) -> Iterator[Pixels]:
    """The frames of a film, uint8 or uint16 H,W,3 RGB of one size -> the same without rain, in their order.

    Args:
        frames: any number; two are held at a time, and each result comes when the next frame has been read.
        frame_by_frame: without :class:`~trainer.restore.temporal.TemporalFilter`.

    Other arguments are those of :func:`~trainer.restore.inference.derain_pixels`.
    """
    parameter = next(net.parameters(), None)
    film = TemporalFilter("cpu" if parameter is None else parameter.device)
    for frame in frames:
        derained: Pixels | None = derain_image(net, frame, tile=tile, overlap=overlap)
        if not frame_by_frame and derained is not None:
            derained = film.push(frame, derained)
        if derained is not None:
            yield derained
    if (last := film.end()) is not None:
        yield last


def derain_film(
    net: nn.Module,
    source: Path | str,
    target: Path | str,
    *,
    frame_by_frame: bool = False,
    tile: int | None = None,
    overlap: int = 32,
    on_progress: Callable[[int, int | None], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> int:
    """Derains a film into a file, and returns the number of its frames.

    Sound, subtitles and all other streams are copied as they are; frames keep their time stamps. Size,
    rotation, colours, depth, chapters and titles are those of the source, and its codec, where there is an
    encoder of it. The file has its name once it is complete.

    Args:
        target: its suffix names the container; a file that is there is replaced.
        on_progress: called with (done, total) after each frame; total is None where the file does not say.
        on_notice: called with a sentence for whatever is left out, or was missing in the source.

    Other arguments are those of :func:`derain_frames`.

    Raises:
        FileError: the source is no film, or the container cannot hold it, or it cannot be written.
    """
    source, target = Path(source), Path(target)
    notice = on_notice or (lambda text: None)
    if target.exists() and source.exists() and target.samefile(source):
        raise TrainerError(f"The result would overwrite {source}: name another file.")
    first = first_frame(source)
    with open_film(source) as given:
        stream = main_stream(given, source)
        total = stream.frames or _estimate(stream, given)
        likes: deque[av.VideoFrame] = deque()
        broken = done = 0
        with writing_film(target, given, stream, first, notice) as film:

            def frames() -> Iterator[Pixels]:
                nonlocal broken
                packets = iter(given.demux())
                while True:
                    with reading(source):
                        packet = next(packets, None)
                    if packet is None:
                        return
                    if packet.stream_index != stream.index:
                        film.copy(packet)
                        continue
                    try:
                        decoded: list[Any] = packet.decode()
                    except av.InvalidDataError:
                        broken += 1
                        continue
                    for frame in decoded:
                        if (frame.width, frame.height) != (first.width, first.height):
                            raise FileError(
                                f"{source} changes its size from {first.width}x{first.height} to "
                                f"{frame.width}x{frame.height}: cut it there, and derain the parts."
                            )
                        likes.append(frame)
                        yield pixels_of(frame)

            for pixels in derain_frames(
                net, frames(), frame_by_frame=frame_by_frame, tile=tile, overlap=overlap
            ):
                film.write(pixels, likes.popleft())
                done += 1
                if on_progress:
                    on_progress(done, total)
    if broken:
        notice(f"{broken} frames of {source} are damaged and left out.")
    if done + broken < 0.9 * stream.frames:
        notice(f"{source} ends early: it is to have {stream.frames} frames, and {done} are there.")
    return done


def _estimate(stream: av.VideoStream, film: av.container.InputContainer) -> int | None:
    """The number of frames by the film's length."""
    rate = stream.average_rate
    if rate and stream.duration and stream.time_base:
        return round(stream.duration * stream.time_base * rate)
    return round(film.duration * rate / av.time_base) if rate and film.duration else None

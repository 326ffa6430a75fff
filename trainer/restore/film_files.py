"""Files of films: frames in and out as arrays, everything else as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from numpy.typing import NDArray

from rgsud_core.errors import FileError, first_line
from rgsud_core.files import FULL, replacing, unwritable

Pixels = NDArray[np.generic]

# By codec, what gives a result that cannot be told from its source; codecs without loss need nothing.
_QUALITY: dict[str, dict[str, str]] = {
    "h264": {"crf": "17"},
    "hevc": {"crf": "19", "x265-params": "log-level=error"},
    "vp9": {"crf": "20", "b": "0", "row-mt": "1", "cpu-used": "2"},
    "vp8": {"crf": "6", "b": "40M"},
    "av1": {"crf": "22", "preset": "6", "svtav1-params": "keyint=5s"},
    **{name: {"qmin": "1", "qmax": "3"} for name in ("mpeg4", "mpeg2video", "mpeg1video", "mjpeg")},
    **{name: {} for name in ("prores", "ffv1", "huffyuv", "ffvhuff", "utvideo", "png", "qtrle", "rawvideo")},
}
_FALLBACKS = {8: ("yuv420p", "yuvj420p", "yuv422p", "yuv444p"), 16: ("yuv420p10le", "yuv422p10le")}
"""Pixel formats for codecs that lack that of the source, by depth."""
_ABLE = ("mp4", "mov", "ipod", "3gp", "3g2", "matroska")
"""Containers that say how a film is to be turned, and hold frames that are not stored in order."""
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
"""FFmpeg's numbers of colour matrices, as its scaler counts them; BT.601 (5) where none is stated."""
_LISTS = ("hls", "concat", "dash", "imf")
"""Formats of files that name others."""
_VARIABLE = 0x400
"""FFmpeg's flag of containers whose frame rate may vary."""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """The errors of the block, which reads a film, in a sentence."""
    try:
        yield
    except FileError:
        raise
    except (av.FFmpegError, OSError, ValueError) as problem:
        said = getattr(problem, "strerror", None) or first_line(problem)
        raise FileError(
            f"{path} cannot be read as a film ({said}): it is none, is damaged, or of an unknown codec."
        ) from None


def open_film(path: Path) -> Any:
    """A film, opened for reading.

    Raises:
        FileError: it cannot be read, or is a list of other files.
    """
    if not path.is_file():
        raise FileError(f"{path} is no file: name a film.")
    with reading(path):
        film = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    # What a file that was handed in names elsewhere is not followed.
    if film.format.name.split(",")[0] in _LISTS:
        film.close()
        raise FileError(f"{path} is a list of films: name one of them.")
    return film


def first_frame(path: Path) -> av.VideoFrame:
    """The first frame of a film, which says how large and of which colours all are.

    Raises:
        FileError: there is none, or it cannot be read.
    """
    with open_film(path) as film, reading(path):
        stream = main_stream(film, path)
        for packet in film.demux(stream):
            with contextlib.suppress(av.InvalidDataError):
                frames: list[av.VideoFrame] = packet.decode()
                if frames:
                    return frames[0]
    raise FileError(f"{path} has no frame that can be read: the film is damaged or empty.")


def main_stream(film: Any, path: Path) -> Any:
    """The stream of pictures of an open film that a player shows.

    Raises:
        FileError: it has none.
    """
    streams = [stream for stream in film.streams.video if not stream.disposition & Disposition.attached_pic]
    best = film.streams.best("video")
    if not streams:
        raise FileError(f"{path} has no moving pictures: name a film.")
    stream = best if best in streams else streams[0]
    if stream.codec_context is None:
        raise FileError(f"{path} is of a codec that is not known here: convert it first.")
    stream.thread_type = "AUTO"
    return stream


def pixels_of(frame: av.VideoFrame) -> Pixels:
    """A frame as an upright array H,W,3 RGB, uint8, or uint16 where it has more than 8 bits."""
    deep = max(part.bits for part in frame.format.components) > 8
    shown = frame.reformat(
        format="rgb48le" if deep else "rgb24",
        src_colorspace=_MATRICES.get(frame.colorspace, 5),
        src_color_range=_range(frame),
        dst_color_range=2,
    )
    return np.ascontiguousarray(np.rot90(shown.to_ndarray(), _quarters(frame)))


def _range(frame: av.VideoFrame) -> int:
    """FFmpeg's number of the range of values: 1 is 16 to 235, 2 is full."""
    return frame.color_range or (2 if frame.format.name.startswith("yuvj") else 1)


def _quarters(frame: av.VideoFrame) -> int:
    """Quarter turns, counterclockwise, after which a frame is upright."""
    return round(frame.rotation / 90) % 4


class FilmWriter:
    """A film like another one, with other pictures.

    Args:
        path: where it goes; its suffix names the container.
        source: the open film that it is like.
        stream: of it, whose pictures are others here; all other streams are copied.
        first: its first frame.
        notice: called with a sentence for whatever is left out.

    Raises:
        FileError: the container cannot hold the film.
    """

    def __init__(
        self, path: Path, source: Any, stream: Any, first: av.VideoFrame, notice: Callable[[str], None]
    ) -> None:
        self._path, self._stream = path, stream
        try:
            self._film = av.open(f"file:{path}", "w")
        except ValueError:
            raise FileError(
                f"{path.suffix or path.name} names no kind of film: end it in .mp4 or .mkv."
            ) from None
        self._film.metadata.update(source.metadata)
        self._film.set_chapters(source.chapters())
        self._copies: dict[int, Any] = {}
        for one in source.streams:
            if one is stream:
                self._out = self._pictures(first)
                if any(part.is_alpha for part in first.format.components):
                    notice("The result is without transparency.")
            else:
                self._copy(one, notice)
        self._last: int | None = None

    def _pictures(self, first: av.VideoFrame) -> Any:
        stream, able = self._stream, self._film.format.name in _ABLE
        for name in (stream.codec.canonical_name, self._film.default_video_codec):
            if name in _QUALITY:
                options = _QUALITY[name] | ({} if able else {"bf": "0"})
                with contextlib.suppress(ValueError, av.FFmpegError):
                    made: Any = self._film.add_stream(name, options=options)
                    break
        else:
            raise FileError(
                f"{self._path.suffix} takes no codec that can be written: end the result in .mkv or .mp4."
            )
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        context = made.codec_context
        self._turn = 0 if able else _quarters(first)
        width, height = (first.width, first.height)[:: -1 if self._turn % 2 else 1]
        made.width, made.height, made.pix_fmt = width, height, self._pixel_format(context.codec, first)
        context.framerate = rate
        finest = Fraction(1, 60000) if name == "mpeg4" else Fraction(0)
        variable = self._film.format.flags & _VARIABLE and name not in ("mpeg1video", "mpeg2video")
        self._tick = context.time_base = max(stream.time_base, finest) if variable else 1 / rate
        if ratio := stream.sample_aspect_ratio:
            context.sample_aspect_ratio = 1 / ratio if self._turn % 2 else ratio
        for what in ("color_range", "colorspace", "color_primaries", "color_trc"):
            setattr(context, what, getattr(first, what))
        data: Any = first.side_data
        if able and (matrix := data.get(Type.DISPLAYMATRIX)) is not None:
            made.set_display_matrix(np.frombuffer(bytes(matrix), np.int32).tolist())
        self._describe(made, stream)
        return made

    def _pixel_format(self, codec: Any, first: av.VideoFrame) -> str:
        own = first.format
        known = [form.name for form in codec.video_formats or []]
        alpha = any(part.is_alpha for part in own.components)
        if not alpha and (own.name in known or not known):
            return str(own.name)
        depth = 16 if max(part.bits for part in own.components) > 8 else 8
        wanted = [*_FALLBACKS[depth], *_FALLBACKS[8]]
        if first.width % 2 or first.height % 2:
            wanted = ["yuv444p"]
        return next((name for name in wanted if name in known), known[0] if known else "yuv420p")

    def _copy(self, stream: Any, notice: Callable[[str], None]) -> None:
        try:
            made = self._film.add_stream_from_template(stream, opaque=True)
        except (ValueError, av.FFmpegError):
            codec = stream.codec_context.name if stream.codec_context else "no known codec"
            if stream.type in ("audio", "subtitle"):
                what = "sound" if stream.type == "audio" else "subtitles"
                raise FileError(
                    f"{self._path.suffix} cannot hold the film's {what} ({codec}): end the result in .mkv, "
                    "or as its source."
                ) from None
            notice(
                f"The result is without a stream of {stream.type} ({codec}): {self._path.suffix} holds none."
            )
            return
        self._describe(made, stream)
        self._copies[stream.index] = made

    @staticmethod
    def _describe(made: Any, stream: Any) -> None:
        made.metadata.update(stream.metadata)
        made.disposition = stream.disposition

    def copy(self, packet: Any) -> None:
        """Take over a packet of another stream."""
        made = self._copies.get(packet.stream_index)
        # The empty packet at the end of each stream is for decoders.
        if made is not None and packet.size:
            packet.stream = made
            self._film.mux(packet)

    def write(self, pixels: Pixels, like: av.VideoFrame) -> None:
        """Write a frame, H,W,3 RGB and upright as :func:`pixels_of` gives it, in place of another one."""
        turned: Any = np.ascontiguousarray(np.rot90(pixels, self._turn - _quarters(like)))
        depth = "rgb24" if turned.dtype == np.uint8 else "rgb48le"
        shown = av.VideoFrame.from_ndarray(turned, format=depth)
        frame = shown.reformat(
            format=self._out.pix_fmt,
            src_color_range=2,
            dst_colorspace=_MATRICES.get(like.colorspace, 5),
            dst_color_range=_range(like),
        )
        for what in ("color_range", "colorspace", "color_primaries", "color_trc"):
            setattr(frame, what, getattr(like, what))
        frame.time_base = self._tick
        if like.pts is not None and like.time_base:
            frame.pts = round(like.pts * like.time_base / self._tick)
            frame.duration = round(like.duration * like.time_base / self._tick)
        # Of frames without a time, and of those that a constant rate brings together.
        if self._last is not None and (frame.pts is None or frame.pts <= self._last):
            frame.pts = self._last + (1 if like.pts is not None else self._step)
        self._last = frame.pts = frame.pts or 0
        self._film.mux(self._out.encode(frame))

    @property
    def _step(self) -> int:
        return max(1, round(1 / Fraction(self._out.codec_context.framerate) / Fraction(self._tick)))

    def end(self) -> None:
        """Write what the encoder still holds."""
        self._film.mux(self._out.encode(None))

    def close(self) -> None:
        """Close the file."""
        self._film.close()


@contextlib.contextmanager
def writing_film(
    path: Path, source: Any, stream: Any, first: av.VideoFrame, notice: Callable[[str], None]
) -> Iterator[FilmWriter]:
    """``with writing_film(...) as film``: the file has its name when the block has ended, and only then.

    Arguments are those of :class:`FilmWriter`.

    Raises:
        FileError: the container cannot hold the film, or it cannot be written.
    """
    partial = path.with_name(f".{path.stem[:50]}.partial{path.suffix}")
    try:
        with replacing(path, partial):
            film = FilmWriter(partial, source, stream, first, notice)
            try:
                yield film
                film.end()
            except BaseException:
                with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                    film.close()
                raise
            film.close()
    except FileError:
        raise
    except (av.FFmpegError, OSError) as problem:
        number = getattr(problem, "errno", None)
        if isinstance(problem, OSError) and (number in FULL or not isinstance(problem, av.FFmpegError)):
            raise unwritable(path, problem) from None
        raise FileError(
            f"{path} cannot be written ({first_line(problem)}): end it in .mkv, which holds most films."
        ) from None

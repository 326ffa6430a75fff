"""Small films, written with PyAV, and what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

Frames = list[np.ndarray[Any, np.dtype[np.uint8]]]


def moving(count: int, height: int = 48, width: int = 64) -> Frames:
    """Smooth colours that move, which codecs keep well."""
    y, x = np.mgrid[:height, :width]
    waves = [
        np.stack([np.sin((x + 2 * t) / 9), np.cos(y / 7), np.sin((x + y - t) / 11)], -1) for t in range(count)
    ]
    return [np.rint(128 + 90 * wave).astype(np.uint8) for wave in waves]


def write_film(
    path: Path,
    frames: Frames,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    tick: Fraction = Fraction(1, 25),
    sound: str | None = None,
    options: dict[str, str] | None = None,
    rotation: int = 0,
    colours: dict[str, int] | None = None,
) -> Path:
    """A film of frames, at times in ticks; with some sound of a codec."""
    with av.open(str(path), "w") as film:
        film.metadata["title"] = "Rain"
        stream = film.add_stream(codec, rate=25, options=options or {})
        height, width = frames[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = tick
        for key, value in (colours or {}).items():
            setattr(stream.codec_context, key, value)
        if rotation:
            stream.set_display_rotation(rotation)
        voice = film.add_stream(sound, rate=48000, layout="mono") if sound else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels).reformat(
                format=pix_fmt,
                dst_colorspace=(colours or {}).get("colorspace", 5),
                dst_color_range=(colours or {}).get("color_range", 1),
            )
            frame.pts, frame.time_base = times[number] if times else number, tick
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
        if voice is not None:
            for number in range(25):
                noise = np.random.default_rng(number).normal(0, 0.1, (1, 1920)).astype(np.float32)
                block = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = 48000, 1920 * number, Fraction(1, 48000)
                film.mux(voice.encode(block))
            film.mux(voice.encode(None))
    return path


def packets(path: Path, kind: str) -> list[bytes]:
    """The packets of the streams of one kind, in their order."""
    with av.open(str(path)) as film:
        return [bytes(one) for one in film.demux() if one.stream.type == kind and one.size]


def read_film(path: Path) -> tuple[Frames, list[Fraction], list[av.VideoFrame]]:
    """Its frames as RGB, their times in seconds, and the frames themselves."""
    with av.open(str(path)) as film:
        found = list(film.decode(film.streams.best("video")))
        pixels = [frame.to_ndarray(format="rgb24") for frame in found]
    return pixels, [frame.pts * frame.time_base for frame in found], found

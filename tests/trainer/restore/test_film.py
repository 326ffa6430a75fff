"""Films come back with other pictures and all else as it was; what cannot be is one sentence."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from torch import Tensor, nn

from rgsud_core.errors import RgsudError
from tests.trainer.restore.films import moving, packets, read_film, write_film
from trainer.restore import film as films
from trainer.restore.film import derain_film, derain_frames


class Darker(nn.Module):
    """Halves the light."""

    def forward(self, image: Tensor) -> Tensor:
        return image / 2


class Identity(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image


VARIABLE = [0, 40, 41, 100, 230, 231, 500]


@pytest.mark.parametrize(
    ("source", "target", "given"),
    [
        ("a.mp4", "b.mp4", {"sound": "aac"}),
        ("a.mkv", "b.mp4", {"sound": "aac"}),
        ("a.mkv", "b.mkv", {"sound": "libopus", "codec": "ffv1", "pix_fmt": "yuv444p"}),
        ("a.webm", "b.webm", {"sound": "libopus", "codec": "libvpx", "options": {"deadline": "realtime"}}),
        ("a.avi", "b.avi", {"sound": "pcm_s16le", "codec": "mpeg4"}),
        ("a.mp4", "b.mkv", {"times": VARIABLE, "tick": Fraction(1, 1000)}),
        ("a.mkv", "b.mp4", {"times": VARIABLE, "tick": Fraction(1, 1000)}),
        ("a.mov", "b.mov", {"rotation": 90}),
        ("a.mp4", "b.mkv", {"rotation": -90}),
        ("a.mp4", "b.mp4", {"rotation": 180}),
        ("a.mov", "b.mov", {"codec": "prores", "pix_fmt": "yuv422p10le"}),
        *(
            (f"a.{kind}", f"b.{kind}", {"colours": {"colorspace": matrix, "color_range": extent}})
            for kind, matrix, extent in (("mp4", 1, 1), ("mkv", 1, 2), ("mp4", 6, 1), ("mkv", 9, 1))
        ),
    ],
)
def test_a_film_comes_back_as_it_was(source: str, target: str, given: dict[str, Any], tmp_path: Path) -> None:
    path = write_film(tmp_path / source, moving(7), **given)
    assert derain_film(Identity(), path, tmp_path / target) == 7
    before, times, frames = read_film(path)
    after, later, made = read_film(tmp_path / target)
    assert later == times
    # Two codecs lose a little, where the colours are right.
    assert np.abs(np.mean(np.stack(after).astype(float) - np.stack(before), (0, 1, 2))).max() < 2.5
    assert np.abs(np.stack(after).astype(float) - np.stack(before)).mean() < 4
    for what in ("rotation", "color_range", "colorspace", "color_primaries", "color_trc"):
        assert getattr(made[0], what) == getattr(frames[0], what), what
    assert made[0].format.name == frames[0].format.name
    assert packets(tmp_path / target, "audio") == packets(path, "audio")
    with av.open(str(path)) as one, av.open(str(tmp_path / target)) as other:
        assert other.streams.video[0].codec.canonical_name == one.streams.video[0].codec.canonical_name
        if "times" not in given:
            assert other.streams.video[0].average_rate == one.streams.video[0].average_rate
        assert other.metadata["title"] == "Rain"
    assert sorted(os.listdir(tmp_path)) == sorted([source, target])


def test_a_container_that_knows_no_rotation_gets_upright_pictures(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", moving(3, 32, 64), rotation=90)
    derain_film(Identity(), path, tmp_path / "b.avi")
    (stored, *_), _, _ = read_film(path)
    (upright, *_), _, frames = read_film(tmp_path / "b.avi")
    assert frames[0].rotation == 0
    assert np.abs(np.rot90(stored).astype(int) - upright).mean() < 4


def test_the_network_sees_upright_frames_and_its_result_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_film(tmp_path / "a.mp4", moving(3, 32, 64), rotation=90)
    real, seen = films.derain_image, []

    def look(net: nn.Module, image: Any, **options: Any) -> Any:
        seen.append(image.shape)
        return real(net, image, **options)

    monkeypatch.setattr(films, "derain_image", look)
    derain_film(Darker(), path, tmp_path / "b.mp4", frame_by_frame=True)
    assert seen == [(64, 32, 3)] * 3
    before, after = (np.mean(read_film(one)[0]) for one in (path, tmp_path / "b.mp4"))
    assert after == pytest.approx(before / 2, abs=2)


def test_subtitles_chapters_and_covers_come_along(tmp_path: Path) -> None:
    words = tmp_path / "a.srt"
    words.write_text("1\n00:00:00,000 --> 00:00:00,200\nrain\n\n")
    plain = write_film(tmp_path / "plain.mkv", moving(6))
    path, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    with av.open(str(plain)) as one, av.open(str(words)) as two, av.open(str(path), "w") as film:
        pictures = film.add_stream_from_template(one.streams.video[0], opaque=True)
        text = film.add_stream_from_template(two.streams.subtitles[0])
        text.metadata["language"] = "eng"
        chapter = {
            "id": 1,
            "start": 0,
            "end": 3,
            "time_base": Fraction(1, 25),
            "metadata": {"title": "Drops"},
        }
        film.set_chapters([chapter])  # type: ignore[list-item]
        for source, made in ((one, pictures), (two, text)):
            for packet in source.demux():
                if packet.size:
                    packet.stream = made
                    film.mux(packet)
    derain_film(Identity(), path, target)
    assert packets(target, "subtitle") == packets(path, "subtitle") != []
    with av.open(str(target)) as film:
        assert film.streams.subtitles[0].language == "eng"
        assert [one["metadata"] for one in film.chapters()] == [{"title": "Drops"}]


def _without_pictures(folder: Path) -> Path:
    path = folder / "sound.mkv"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("pcm_s16le", rate=8000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        block.sample_rate = 8000
        film.mux(stream.encode(block))
        film.mux(stream.encode(None))
    return path


def _cut(folder: Path) -> Path:
    """The index of an .mp4 is at its end."""
    path = write_film(folder / "cut.mp4", moving(9))
    path.write_bytes(path.read_bytes()[:-300])
    return path


def _text(folder: Path) -> Path:
    path = folder / "text.mp4"
    path.write_text("no film at all\n" * 40)
    return path


def _playlist(folder: Path) -> Path:
    """Files that name others: nothing is followed out of a film."""
    other, path = write_film(folder / "other.ts", moving(3)), folder / "list.mp4"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n")
    return path


def _concatenation(folder: Path) -> Path:
    write_film(folder / "other.mkv", moving(3))
    path = folder / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile other.mkv\n")
    return path


def _good(folder: Path) -> Path:
    return write_film(folder / "good.mkv", moving(3), sound="libopus")


@pytest.mark.parametrize(
    ("make", "target", "said"),
    [
        (lambda folder: folder / "none.mp4", "b.mp4", "none.mp4 is no file: name a film"),
        (_text, "b.mp4", "text.mp4 cannot be read as a film (Invalid data"),
        (_cut, "b.mp4", "cut.mp4 has no frame that can be read"),
        (_playlist, "b.mp4", "list.mp4 "),
        (_concatenation, "b.mp4", "list.mp4 "),
        (_without_pictures, "b.mkv", "sound.mkv has no moving pictures"),
        (_good, "b.xyz", ".xyz names no kind of film"),
        (_good, "b.gif", ".gif takes no codec that can be written"),
        (_good, "b.avi", ".avi cannot hold the film's sound (opus)"),
        (_good, "good.mkv", "would overwrite"),
        (_good, "/proc/none/b.mkv", "/proc/none"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(
    make: Any, target: str, said: str, tmp_path: Path
) -> None:
    path = make(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(RgsudError) as problem:
        derain_film(Identity(), path, tmp_path / target)
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)
    assert ".partial" not in str(problem.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_film(tmp_path / "a.mp4", moving(3))
    real = av.container.OutputContainer.mux

    class Full:
        """A container whose disk fills up."""

        def __init__(self, film: Any) -> None:
            self._film = film

        def __getattr__(self, name: str) -> Any:
            return getattr(self._film, name)

        def mux(self, given: Any) -> None:
            if given:
                raise OSError(28, "No space left on device", "somewhere")
            real(self._film, given)

    opened = av.open

    def open_film(file: str, mode: str = "r", **options: Any) -> Any:
        return opened(file, mode, **options) if mode == "r" else Full(opened(file, mode))

    monkeypatch.setattr(av, "open", open_film)
    with pytest.raises(RgsudError, match=r"b\.mp4 cannot be written \(No space left on device\): free space"):
        derain_film(Identity(), path, tmp_path / "b.mp4")
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_an_interrupted_film_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", moving(6))
    (tmp_path / "b.mp4").write_text("before")

    def stop(done: int, total: int | None) -> None:
        assert total == 6
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        derain_film(Identity(), path, tmp_path / "b.mp4", on_progress=stop)
    assert (tmp_path / "b.mp4").read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]


def test_damage_is_counted_and_the_rest_is_derained(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.avi", moving(20), codec="mjpeg", pix_fmt="yuvj420p")
    content = bytearray(path.read_bytes())
    places = [place for place in range(len(content)) if content[place : place + 4] == b"00dc"][:20]
    content[places[4] + 8 : places[5] - 4] = b"\0" * (places[5] - 4 - places[4] - 8)
    path.write_bytes(content[: places[12]])
    notices: list[str] = []
    count = derain_film(Identity(), path, tmp_path / "b.avi", on_notice=notices.append)
    assert count == len(read_film(tmp_path / "b.avi")[0]) < 13
    assert any("damaged and left out" in text for text in notices)
    assert any(f"is to have 20 frames, and {count} are there" in text for text in notices)


@pytest.mark.parametrize("frame_by_frame", [False, True])
def test_frames_are_read_only_as_they_are_needed(frame_by_frame: bool) -> None:
    read = 0

    def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield moving(1)[0]

    results = derain_frames(Darker(), endless(), frame_by_frame=frame_by_frame)
    for number in range(1, 6):
        next(results)
        assert read == number + (0 if frame_by_frame else 1)

"""`rgsud derain` of films and raw frames."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.rgsud.command import rgsud
from tests.trainer.restore.films import moving, packets, read_film, write_film
from trainer.models.registry import build_derainer, serialise_derainer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A derainer that changes nothing."""
    path = tmp_path / "derainer.safetensors"
    path.write_bytes(serialise_derainer(build_derainer("nafnet-tiny", identity_start=True), "nafnet-tiny"))
    return path


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_film(tmp_path / "film.mp4", moving(4), sound="aac")


def test_a_film_goes_into_a_file_or_a_folder(
    model: Path,
    film: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for target, result in ((tmp_path / "out.mkv", tmp_path / "out.mkv"), (folder, folder / "film.mp4")):
        assert rgsud(monkeypatch, "derain", model, film, target) == 0
        assert f"4 frames derained: {result}" in capsys.readouterr().err
        assert len(read_film(result)[0]) == 4
        assert packets(result, "audio") == packets(film, "audio")
    assert rgsud(monkeypatch, "derain", model, film, folder) == 2
    assert "film.mp4 would be replaced: --overwrite" in capsys.readouterr().err
    assert rgsud(monkeypatch, "derain", model, film, folder, "--skip-existing") == 0
    assert "left as it is" in capsys.readouterr().err
    assert rgsud(monkeypatch, "derain", model, film, folder, "--overwrite", "--frame-by-frame") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.mp4", "b.mp4"), "none.mp4 is no file: name a film"),
        (("film.mp4", "b.png"), ".png cannot hold"),
        (("film.mp4", "b.mp4", "--format", "png"), "--format and --watch are for images"),
        (("film.mp4", "b.mp4", "--watch"), "--format and --watch are for images"),
        (("--raw", "640", "-", "-"), "'640' is no size of raw frames"),
        (("--raw", "0x4", "-", "-"), "'0x4' is no size of raw frames"),
        (("--raw", "64x48", "film.mp4", "out.rgb"), "give rgb24 of 64x48"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: tuple[str, ...],
    said: str,
    model: Path,
    film: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rgsud(monkeypatch, "derain", "--model", model, *arguments) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed


def test_an_interrupted_film_is_not_written(
    model: Path,
    film: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.restore.film.derain_image", stop)
    assert rgsud(monkeypatch, "derain", model, film, tmp_path / "out.mp4") == 130
    assert "out.mp4 was not written" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["derainer.safetensors", "film.mp4"]


def test_raw_frames_go_through_a_pipe(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = b"".join(frame.tobytes() for frame in moving(3))
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(frames)))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=output, flush=lambda: None))
    assert rgsud(monkeypatch, "derain", model, "--raw", "64x48", "--frame-by-frame", "-", "-") == 0
    made = np.frombuffer(output.getvalue(), np.uint8).reshape(3, 48, 64, 3)
    assert np.array_equal(made, np.stack(moving(3)))

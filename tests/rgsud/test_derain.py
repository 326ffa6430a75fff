"""`rgsud derain`: formats, streams, and a folder that is watched."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.patience import PATIENCE, wait_until
from tests.rgsud.command import rgsud


@pytest.fixture
def photograph(photographs: Path) -> Path:
    return photographs / "val" / "rainy" / "0.png"


def _stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def _image(content: bytes) -> PIL.Image.Image:
    image = PIL.Image.open(io.BytesIO(content))
    image.load()
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
def test_an_image_goes_through_a_pipe_in_its_format(
    kind: str,
    photograph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    file = io.BytesIO()
    PIL.Image.open(photograph).save(file, kind)
    _stdin(monkeypatch, file.getvalue())
    assert rgsud(monkeypatch, "derain", "-", "-") == 0
    out = capsysbinary.readouterr().out
    assert _image(out).format == kind
    (tmp_path / "same.x").write_bytes(file.getvalue())
    assert rgsud(monkeypatch, "derain", tmp_path / "same.x", "-") == 0
    assert capsysbinary.readouterr().out == out
    _stdin(monkeypatch, file.getvalue())
    assert rgsud(monkeypatch, "derain", "rgsud-base", "-", tmp_path / "out.png") == 0
    written = PIL.Image.open(tmp_path / "out.png")
    assert np.abs(np.subtract(written, _image(out).convert("RGB"), dtype=float)).mean() < 12
    _stdin(monkeypatch, file.getvalue())
    assert rgsud(monkeypatch, "derain", "-", "-", "--format", "png") == 0
    assert np.array_equal(_image(capsysbinary.readouterr().out), written)


def test_what_a_result_lacks_is_said_of_standard_input(
    photograph: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    file, frame = io.BytesIO(), PIL.Image.open(photograph)
    frame.save(file, "GIF", save_all=True, append_images=[frame.transpose(PIL.Image.Transpose.ROTATE_180)])
    _stdin(monkeypatch, file.getvalue())
    assert rgsud(monkeypatch, "derain", "-", "-") == 0
    said = capsysbinary.readouterr().err
    assert b"without 1 more frames, pages or previews: standard input" in said


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (b"", ("-", "-"), "standard input is not an image"),
        (b"no image", ("-", "x.png"), "standard input is not an image"),
        (b"PNG", ("-", "-"), "standard input cannot be read"),
        (b"", ("-", "."), ". is a folder: name a file"),
        (b"", ("-", "new/"), "new/ is a folder"),
        (b"", (".", "-"), ". is a folder: standard output takes one image"),
        (b"", ("none.png", "-"), "none.png does not exist"),
        (b"PNG", ("-", "x.doc"), "x.doc names no known image format"),
        (b"", ("-", "-", "--watch"), "--watch takes folders"),
        (b"", ("-", "-", "--format", "mp4"), "'mp4' is no image format: give one of .apng, "),
        (b"", ("none", "out", "--watch"), "none is no folder"),
    ],
)
def test_what_cannot_be_piped_or_watched_is_a_sentence(
    content: bytes,
    arguments: tuple[str, ...],
    said: str,
    photograph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.chdir(tmp_path / "val")
    _stdin(monkeypatch, photograph.read_bytes()[:500] if content == b"PNG" else content)
    assert rgsud(monkeypatch, "derain", *arguments) == 2
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert said in err.decode()
    assert "rgsud-" not in err.decode().replace("rgsud-base", "")


@pytest.mark.parametrize(
    ("stream", "arguments", "said"),
    [("stdin", ("-", "x.png"), "input is a terminal"), ("stdout", ("x.png", "-"), "output is a terminal")],
)
def test_no_image_is_read_from_a_terminal_or_shown_on_one(
    stream: str,
    arguments: tuple[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True)
    assert rgsud(monkeypatch, "derain", *arguments) == 2
    assert said in capsys.readouterr().err


def test_a_format_is_chosen_for_a_folder(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = photographs / "out"
    assert rgsud(monkeypatch, "derain", photographs / "val" / "rainy", out, "--format", "jpg") == 0
    assert {path.name: PIL.Image.open(path).format for path in out.iterdir()} == {
        "0.jpg": "JPEG",
        "1.jpg": "JPEG",
    }


def test_a_folder_is_watched_until_it_is_interrupted(photographs: Path, photograph: Path) -> None:
    source, out = photographs / "incoming", photographs / "out"
    source.mkdir()
    command = [sys.executable, "-c", "from rgsud.cli import main; main()", "derain", source, out, "--watch"]
    log = photographs / "said"
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file, stdout=subprocess.PIPE, text=True)
    odd = f"{source / 'odd.png'} is not an image"
    try:
        (source / "odd.png").write_text("no image")
        (source / "a.png").write_bytes(photograph.read_bytes())
        wait_until(lambda: (out / "a.png").is_file() and odd in log.read_text(), log.read_text)
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    said = log.read_text()
    assert process.returncode == 130
    assert shown == ""
    assert f" derained: {out}; --watch goes on with what is not." in said
    assert said.endswith("rgsud: interrupted.\n")
    assert "Traceback" not in said

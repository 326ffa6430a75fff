"""The command on people's files: their names, where results go, what an interruption leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rgsud.command import rgsud


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from trainer.models.registry import build_derainer, serialise_derainer

    path = tmp_path / "small.safetensors"
    path.write_bytes(serialise_derainer(build_derainer("nafnet-tiny", identity_start=True), "nafnet-tiny"))
    return path


@pytest.mark.parametrize(
    "name", ["photo[copy]", "d[/bold]", "it :car: is", "[red]x[/]", "x" * 120, "a\udce9"]
)
def test_names_are_shown_as_they_are(
    name: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "in" / f"{name.replace('/', '-')}.jpg"
    path.parent.mkdir()
    path.write_text("no image")
    assert rgsud(monkeypatch, "derain", model, path.parent, tmp_path / "out") == 2
    assert str(path).encode(errors="backslashreplace").decode() in capsys.readouterr().err
    assert (
        rgsud(monkeypatch, "train", "demo", f"data.rainy={path}", "data.clean=nowhere", "launch=inline") == 2
    )
    assert str(path).encode(errors="backslashreplace").decode() in capsys.readouterr().err
    assert rgsud(monkeypatch, "status", path.parent) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("derain", "MODEL", "rainy", "/proc/none/out"),
        ("evaluate", "MODEL", "val/rainy", "val/clean", "--sheet", "/proc/none/x.png"),
        ("score", "rainy", "--heatmap", "/proc/none/x"),
        ("scorer", "reference", "niqe,musiq", "rainy", "--output", "/proc/none/x.json"),
        ("scorer", "pretrain", "rainy", "--output", "/proc/none/x.safetensors"),
        ("demo", "runs=/proc/none", "launch=inline"),
        ("train", "demo", "data.rainy=rainy", "data.clean=clean", "runs=/proc/none", "launch=inline"),
    ],
)
def test_where_results_cannot_go_is_said_before_the_work(
    arguments: tuple[str, ...],
    model: Path,
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    for place in (
        "trainer.restore.comparison.score_pair",
        "trainer.restore.files.derain_image",
        "trainer.launch.start.work",
    ):
        monkeypatch.setattr(place, never)
    monkeypatch.chdir(photographs)
    assert rgsud(monkeypatch, *(str(model) if word == "MODEL" else word for word in arguments)) == 2
    said = capsys.readouterr().err
    assert "/proc/none" in said
    assert "cannot be written" in said


def test_an_interrupted_derain_says_how_to_go_on(
    model: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.restore import files

    real, calls = files.derain_image, []

    def one(*given: object, **options: object) -> object:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "derain_image", one)
    out = photographs / "out"
    assert rgsud(monkeypatch, "derain", model, photographs / "rainy", out) == 130
    assert f"2 derained: {out}; --skip-existing goes on" in capsys.readouterr().err
    assert rgsud(monkeypatch, "derain", model, photographs / "rainy", out) == 2
    assert "--skip-existing leaves them" in capsys.readouterr().err
    assert rgsud(monkeypatch, "derain", model, photographs / "rainy", out, "--skip-existing") == 0
    assert len(list(out.iterdir())) == 4
    assert "2 derained" in capsys.readouterr().err


def test_derain_takes_the_model_that_comes_with_rgsud(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rainy, results = photographs / "val" / "rainy", photographs / "results"
    assert rgsud(monkeypatch, "derain", rainy, results) == 0
    named = photographs / "named"
    assert rgsud(monkeypatch, "derain", "--model", "rgsud-base", rainy, named) == 0
    assert rgsud(monkeypatch, "derain", "rgsud-base", rainy, photographs / "in front") == 0
    for file in rainy.iterdir():
        derained = (results / file.name).read_bytes()
        assert derained == (named / file.name).read_bytes()
        assert derained == (photographs / "in front" / file.name).read_bytes()
    assert rgsud(monkeypatch, "derain", rainy) == 2
    assert "derain takes [MODEL] SOURCE TARGET" in capsys.readouterr().err

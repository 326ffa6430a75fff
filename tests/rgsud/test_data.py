"""`rgsud data`: sets are described and read, and a recipe is written for one's own folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.rgsud.command import rgsud
from trainer.data.sets import KNOWN_SETS


def test_sets_are_listed_and_described(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rgsud(monkeypatch, "data", "list") == 0
    shown = capsys.readouterr().out
    for known in KNOWN_SETS:
        assert known.name in shown
        assert rgsud(monkeypatch, "data", "check", known.name) == 0
        described = capsys.readouterr().out
        assert all(text in described for text in (known.paper, known.licence, known.source, known.pairing))
    assert rgsud(monkeypatch, "data", "check", "Rain20L") == 2
    assert "did you mean 'Rain200L'" in capsys.readouterr().err


def test_the_page_says_of_each_set_what_the_catalogue_does() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data-sets.md").read_text()
    for known in KNOWN_SETS:
        counts = " / ".join("?" if number is None else f"{number}" for number in (known.train, known.test))
        cells = (known.name, counts, known.protocol, known.layout, known.pairing, known.licence, known.source)
        assert f"| {' | '.join(cells)} |" in page


def test_a_copy_of_a_set_is_read(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = photographs / "sets"
    shutil.copytree(photographs / "val" / "rainy", root / "Rain800" / "test" / "rain")
    shutil.copytree(photographs / "val" / "clean", root / "Rain800" / "test" / "norain")
    shutil.copytree(photographs / "rainy", root / "SIRR" / "rainy")
    assert rgsud(monkeypatch, "data", "check", "rain800", root) == 0
    test = root / "Rain800" / "test"
    said = f"For testing: 2 of 100 rainy images in {test / 'rain'}, 2 truths in {test / 'norain'}, 72x64: all"
    assert said in capsys.readouterr().out
    assert rgsud(monkeypatch, "data", "check", "SIRR", root) == 0
    out = capsys.readouterr().out
    assert "For training: 4 of 147 rainy images in" in out
    assert "no ground truth, 72x64: all can be read." in out
    assert "For testing" not in out
    (test / "rain" / "1.png").write_bytes((test / "rain" / "1.png").read_bytes()[:200])
    (test / "norain" / "0.png").unlink()
    assert rgsud(monkeypatch, "data", "check", "rain800", root) == 2
    err = capsys.readouterr().err
    assert "For testing: " in err
    assert "1.png cannot be read" in err
    assert "1 images of" in err
    assert "have no partner" in err
    assert rgsud(monkeypatch, "data", "check", "Rain12", root) == 2
    assert "Rain12 is not below" in capsys.readouterr().err


def test_a_recipe_is_written_for_folders_of_ones_own(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photographs)
    assert rgsud(monkeypatch, "data", "recipe", "rainy", "clean") == 0
    out, err = capsys.readouterr()
    assert out == (photographs / "recipe.yaml").read_text()
    assert "rgsud train recipe.yaml" in err
    assert rgsud(monkeypatch, "settings", "data", "--recipe", "recipe.yaml") == 0
    assert f"data.rainy={photographs / 'rainy'}" in capsys.readouterr().out
    for arguments, said in (
        (("rainy", "clean"), "recipe.yaml is there already"),
        (("rainy", "clean", "--output", "x.txt"), "end it in .yaml"),
        (("rainy", "nowhere", "--output", "y.yaml"), "nowhere does not exist"),
        (("rainy", "clean", "--output", "/proc/none/y.yaml"), "/proc/none cannot be written"),
    ):
        assert rgsud(monkeypatch, "data", "recipe", *arguments) == 2
        assert said in capsys.readouterr().err

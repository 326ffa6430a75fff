"""Parts by import path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rgsud_core.errors import PluginError
from rgsud_core.plugins import load, search_path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, from which modules of strangers are imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_a_file_in_the_working_directory_and_one_in_a_package_are_found(folder: Path) -> None:
    (folder / "strange_file.py").write_text("class Mine: pass\n")
    (folder / "strange_package").mkdir()
    (folder / "strange_package" / "inside.py").write_text("def made(): return 3\n")
    assert load("strange_file:Mine").__name__ == "Mine"
    assert load("strange_package.inside:made")() == 3


def test_the_working_directory_shadows_nothing(folder: Path) -> None:
    (folder / "colorsys.py").write_text("rgb_to_hsv = None\n")
    assert callable(load("colorsys:rgb_to_hsv"))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("absent_module:Mine", "no module 'absent_module': install it, or put the folder"),
        ("rgsud_core.absent:Mine", "no module 'rgsud_core.absent'"),
        ("rgsud_core.plugins:laod", "rgsud_core.plugins has no 'laod': did you mean 'load'?"),
        ("rgsud_core.plugins", "'rgsud_core.plugins' is no import path: write package.module:Name"),
        ("some/file.py:Mine", "is no import path"),
        ("strange_broken:Mine", "strange_broken fails with ValueError (no luck): see"),
        ("strange_needy:Mine", r"(No module named 'absent_dependency'): install what it needs"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(folder: Path, place: str, message: str) -> None:
    (folder / "strange_broken.py").write_text("raise ValueError('no luck')\n")
    (folder / "strange_needy.py").write_text("import absent_dependency\n")
    with pytest.raises(PluginError) as raised:
        load(place)
    assert message in str(raised.value)


def test_another_process_finds_the_same_modules_by_the_search_path(folder: Path) -> None:
    (folder / "strange_handed_on.py").write_text("word = 'found'\n")
    path = search_path()
    assert str(folder) in path.split(os.pathsep)
    assert not any(entry.startswith(sys.prefix) for entry in path.split(os.pathsep))
    found = subprocess.run(
        [sys.executable, "-c", "import strange_handed_on; print(strange_handed_on.word)"],
        cwd="/",
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "found\n"


def test_a_working_directory_that_is_gone_costs_its_own_modules_alone(folder: Path) -> None:
    sys.path[:0] = ["relative", ""]
    folder.rmdir()
    assert "relative" not in search_path()
    assert callable(load("colorsys:rgb_to_hsv"))

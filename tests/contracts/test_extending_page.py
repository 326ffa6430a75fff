"""The page about parts of one's own shows the examples as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trainer.data import catalogue
from trainer.data.sets import KnownSet

EXAMPLES = Path(__file__).parent / "examples"
PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def _blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_its_examples_are_the_files_that_the_tests_train_with() -> None:
    files = sorted(file.read_text() for file in EXAMPLES.glob("*.py"))
    assert len(files) == 4
    assert sorted(_blocks()[:-1]) == files


def test_its_data_set_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = eval(_blocks()[-1], {"KnownSet": KnownSet})
    monkeypatch.setattr(catalogue, "KNOWN_SETS", (*catalogue.KNOWN_SETS, entry))
    for side in ("input", "target"):
        (tmp_path / "MyRain" / "test" / side).mkdir(parents=True)
    assert catalogue.find("my-rain-2026", tmp_path).known is entry

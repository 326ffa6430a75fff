"""`rgsud evaluate`: what it cannot mean. What it measures: tests/trainer/restore/test_comparison.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rgsud.command import rgsud


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "[MODEL] RAINY [CLEAN], or --set NAME --root DIR"),
        (("--model", "m", "a", "b", "c"), "[MODEL] RAINY [CLEAN]"),
        (("--set", "DDN"), "one folder of data sets: --root DIR"),
        (("m", "a", "b", "--set", "DDN"), "one folder of data sets"),
        (("m", "a", "--set", "DDN", "--root", "b"), "one folder of data sets"),
        (("m", "a", "--root", "b"), "say which by --set NAME"),
        (("m", "a", "--output", "table.xls"), "table.xls names no kind of table"),
        (("m", "a", "--output", "/proc/none/t.md"), "/proc/none cannot be written"),
    ],
)
def test_what_evaluate_cannot_mean_is_said_before_the_work(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rgsud(monkeypatch, "evaluate", *arguments) == 2
    assert said in capsys.readouterr().err

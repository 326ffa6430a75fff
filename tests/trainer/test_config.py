"""Moments of a run: numbers of samples and shares, and never the one for the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rgsud_core.settings import Percentage
from trainer.config import Config, ScheduleSettings, read_config


def test_a_whole_number_is_samples_and_a_percentage_is_a_share() -> None:
    schedule = ScheduleSettings.model_validate(
        {"recycle_from": 1, "recycle_until": "87.5%", "stage2_from": "100%"}
    )
    assert (schedule.recycle_from, schedule.recycle_until, schedule.stage2_from) == (1, 0.875, 1.0)
    assert not isinstance(schedule.recycle_from, Percentage)
    assert isinstance(schedule.stage2_from, Percentage)


@pytest.mark.parametrize("written", ["7%", "33.3333%", "plateau", "never", 0, 20_000])
def test_a_moment_is_written_as_it_was_read(written: object) -> None:
    schedule = ScheduleSettings.model_validate({"stage2_from": written})
    for mode in ("json", "python"):
        assert schedule.model_dump(mode=mode)["stage2_from"] == written
    assert ScheduleSettings.model_validate(yaml.safe_load(yaml.safe_dump(schedule.model_dump()))) == schedule


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        (0.5, r"\(50%\)"),
        (1.0, r"\(100%\)"),
        (0.07, r"\(7%\)"),
        ("half", "plateau, never"),
        (-3, ""),
        (True, ""),
    ],
)
def test_anything_else_is_refused_with_what_to_write(written: object, advice: str) -> None:
    with pytest.raises(ValidationError, match=rf"no moment of the run: write .*{advice}"):
        ScheduleSettings.model_validate({"stage2_from": written})


def test_a_run_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"data": {"rainy": "a", "clean": "b"}, "schedule": {"stage2_from": 0.5}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    assert read_config(tmp_path).schedule.stage2_from == Percentage(0.5)
    with pytest.raises(ValidationError):
        Config.model_validate(tree)

"""Moments of a run: numbers of samples and shares, and never the one for the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rgsud_core.settings import Percentage
from trainer.config import Config, ScheduleSettings, load_config, read_config
from trainer.errors import TrainerError


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


@pytest.mark.parametrize(
    "name", ["2024", "001", "no", "2024-05-01", "1e3", "~", "[old] run", "a: b", "x #2", "{a}"]
)
def test_a_text_is_taken_as_it_is_written(name: str) -> None:
    config = load_config("demo", [f"name={name}", f"data.rainy={name}/rainy", "data.clean=clean"])
    assert config.name == name
    assert config.data.rainy == Path(f"{name}/rainy").expanduser()


def test_quotes_and_null_are_those_of_yaml() -> None:
    config = load_config("demo", ['name="null"', "copies=null", "data.rainy='a b'", "data.clean=c", "seed=7"])
    assert (config.name, config.copies, config.data.rainy, config.seed) == ("null", None, Path("a b"), 7)


def test_the_home_folder_is_written_as_in_a_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {"data.rainy": "~/rain", "data.clean": "~", "runs": "~/runs", "recycling.record": "~/record"}
    config = load_config("demo", given)
    assert (config.data.rainy, config.data.clean) == (tmp_path / "rain", tmp_path)
    assert (config.runs, config.recycling.record) == (tmp_path / "runs", tmp_path / "record")
    with pytest.raises(TrainerError, match=r"data\.rainy: '~nobody-here/x' is no path"):
        load_config("demo", ["data.rainy=~nobody-here/x", "data.clean=c"])


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/etc", ".", "a\0b"])
def test_a_run_has_a_folder_below_runs(name: str) -> None:
    with pytest.raises(TrainerError, match="names no folder below runs"):
        load_config("demo", {"name": name, "data.rainy": "r", "data.clean": "c"})


def test_applications_of_runs_have_names_of_their_own() -> None:
    names = ("mine", "a?b", "a b", "a-b", "é")
    given = {"data.rainy": "r", "data.clean": "c"}
    apps = [load_config("demo", {"name": name, **given}).scorer_app() for name in names]
    assert apps[0] == "iqa-mine"
    assert len(set(apps)) == len(names)
    assert not {"?", " "} & set("".join(apps))

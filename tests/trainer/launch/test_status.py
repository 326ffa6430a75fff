"""A pipeline at a glance: what a run has written, what answers, and what does not."""

from __future__ import annotations

import json
import socket
import time
from contextlib import closing
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from pool_store.client import open_pool
from trainer.config import Config
from trainer.launch.pipeline import PipelineStatus, look
from trainer.launch.status import status

app = typer.Typer()
app.command()(status)


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def write(config: Config, *, ago: float = 1.0, samples: int = 12, **recycling: str) -> Path:
    """What a run leaves: a step, an evaluation and four notices, the last of them so many seconds old."""
    tree = config.model_dump(mode="json")
    tree["recycling"] |= recycling
    config.folder.mkdir(parents=True)
    (config.folder / "config.yaml").write_text(yaml.safe_dump(tree))
    base = {"time": time.time() - ago, "run": config.name, "step": 6, "samples": samples, "stage": 2}
    step = {
        "rate/images_per_second": 4.0,
        "rate/step_ms": 500.0,
        "rate/data_ms": 20.0,
        "pool/entries": 3,
        "pool/mean_log_odds": -1.5,
        "pool/acceptance": 0.25,
        "recycled/dropped": 1,
        "recycled/lost": 2,
    }
    measured = {
        "validation/psnr_y": 27.5,
        "validation/ssim_y": 0.9,
        "validation/psnr_rgb": 26.0,
        "validation/ssim_rgb": 0.88,
        "validation/gain_db": 0.5,
    }
    lines = [
        {"kind": "notice", "text": "the first"},
        {"kind": "step", **step},
        {"kind": "evaluation", **measured},
        *({"kind": "notice", "text": f"[{number}]"} for number in range(3)),
    ]
    text = "".join(json.dumps({**base, "seconds": 9.0, **line}) + "\n" for line in lines)
    (config.folder / "metrics.jsonl").write_text(text + '{"half a li')
    return config.folder


def test_a_run_is_read_from_its_folder(config: Config, nobody: str) -> None:
    run = look(write(config), nobody).run
    assert run.problem is None
    assert (run.state, run.stage, run.samples, run.samples_planned) == ("training", 2, 12, 24)
    assert (run.images_per_second, run.step_ms, run.data_ms, run.seconds_left) == (4.0, 500.0, 20.0, 3.0)
    assert (run.psnr_y, run.gain_db, run.evaluated_at) == (27.5, 0.5, 12)
    assert (run.candidates_dropped, run.candidates_lost) == (1, 2)
    assert run.notices == ("[0]", "[1]", "[2]")


def test_a_run_that_has_long_been_silent_is_called_so(config: Config, nobody: str) -> None:
    run = look(write(config, ago=3600), nobody).run
    assert run.state == "silent"
    assert run.silent_seconds == pytest.approx(3600, abs=60)


def test_a_run_at_its_end_is_finished(config: Config, nobody: str) -> None:
    folder = write(config, ago=3600, samples=24)
    assert look(folder, nobody).run.state == "silent"  # the summary is still to come
    told = {"samples": 12, "training_seconds": 9.0}
    (folder / "summary.json").write_text(json.dumps(told))
    assert look(folder, nobody).run.state == "silent"  # it is of a part that was interrupted
    (folder / "summary.json").write_text(json.dumps(told | {"samples": 24}))
    assert look(folder, nobody).run.state == "finished"


def test_a_run_that_time_ended_is_finished(config: Config, nobody: str) -> None:
    schedule = config.schedule.model_copy(update={"seconds": 60})
    folder = write(config.model_copy(update={"schedule": schedule}), ago=3600, samples=12)
    (folder / "summary.json").write_text(json.dumps({"samples": 14, "training_seconds": 60.2}))
    assert look(folder, nobody).run.state == "finished"


def test_a_pool_of_a_run_that_begins_is_left_alone(config: Config, nobody: str) -> None:
    config.folder.mkdir(parents=True)
    (config.folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    found = look(config.folder, nobody).pool
    assert found is not None
    assert found.problem == "the run itself holds it"
    assert not (config.folder / "pool").exists()


def test_the_pool_tells_by_itself(config: Config, nobody: str, tmp_path: Path) -> None:
    with closing(open_pool(f"embedded:{tmp_path / 'pool'}", fingerprint="f")) as pool:
        pool.declare_size(4)
        found = look(write(config, pool=pool.address), nobody).pool
    assert found is not None
    assert (found.source, found.entries, found.coverage, found.problem) == ("pool", 0, 0.0, None)


@pytest.mark.parametrize("pool", ["redis://user:secret@127.0.0.1:1/0?blobs=/nowhere", "embedded:{run}/pool"])
def test_a_pool_that_cannot_be_asked_is_told_by_the_run(config: Config, nobody: str, pool: str) -> None:
    found = look(write(config, pool=pool), nobody).pool
    assert found is not None
    assert found.problem
    assert (found.source, found.entries, found.acceptance, found.mean_log_odds) == ("run", 3, 0.25, -1.5)
    assert "secret" not in found.model_dump_json()


def test_services_that_are_away_are_said_and_nothing_fails(config: Config, nobody: str) -> None:
    changed = config.model_copy(update={"launch": "ray"})
    found = look(write(changed, scorer="serve:iqa"), nobody)
    for part in (found.scorer, found.job):
        assert part is not None
        assert part.problem is not None
        assert part.problem.startswith(f"no Ray cluster answers at {nobody}")
    tree = yaml.safe_load((config.folder / "config.yaml").read_text())
    tree["recycling"]["scorer"] = nobody
    (config.folder / "config.yaml").write_text(yaml.safe_dump(tree))
    scorer = look(config.folder, nobody).scorer
    assert scorer is not None
    assert scorer.problem is not None
    assert scorer.problem.startswith(f"no scorer answers at {nobody}")


def test_a_scorer_in_the_process_that_trains(config: Config, nobody: str) -> None:
    scorer = look(write(config), nobody).scorer
    assert scorer is not None
    assert (scorer.state, scorer.problem) == ("in the process that trains", None)


def test_the_scorer_that_a_run_on_ray_deploys_is_looked_for(config: Config, nobody: str) -> None:
    changed = config.model_copy(update={"launch": "ray", "name": "a run"})
    scorer = look(write(changed, scorer="daclip-lite"), nobody).scorer
    assert scorer is not None
    assert scorer.place == f"serve:{changed.scorer_app()}"


def test_a_folder_without_a_run(nobody: str, tmp_path: Path) -> None:
    found = look(tmp_path, nobody)
    assert found.run.problem == f"there is no run in {tmp_path}: give a run's folder"
    assert found.run.state == "unknown"


def test_the_command_shows_a_table_and_json(
    config: Config, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    folder = write(config)
    shown = CliRunner().invoke(app, [str(folder), "--address", nobody])
    assert shown.exit_code == 0
    for words in ("12 of 24 samples, 0:00:03 left", "27.50 dB (+0.50)", "[2]", "3 rewards, 25% accepted"):
        assert words in shown.stdout
    monkeypatch.chdir(folder.parent.parent)  # the newest run is found
    told = CliRunner().invoke(app, ["--address", nobody, "--json"])
    assert PipelineStatus.model_validate_json(told.stdout).run.samples == 12

"""Whole runs: stages, files, resuming, interruption, what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from pool_store.client import open_pool
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.launch import start as launch
from trainer.models.registry import load_derainer
from trainer.run import Callback, Run, Step
from trainer.state.checkpoints import Checkpoints


def _quiet() -> Console:
    return Console(quiet=True)


def _with(config: Config, **sections: dict[str, Any]) -> Config:
    tree = config.model_dump(mode="json")
    for section, values in sections.items():
        tree[section].update(values)
    return Config.model_validate(tree)


def _on_found_rain(config: Config) -> Config:
    """The same run by the other method; the small photographs are anything but flat."""
    tree = config.model_dump(mode="json")
    flat = {"name": "flat", "chroma": 1.0, "below": 1.0, "brightest": 1.0}
    sources = {1: [flat], 2: [{"name": "reward_smooth", "detail": 0.5}, "flat"]}
    tree["method"] = {"rain_gain": 2.0, "sources": sources, "overlay": "add", "discriminator": None}
    return Config.model_validate(tree)


def _lines(config: Config, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


class After(Callback):
    """Does something after so many steps."""

    def __init__(self, steps: int, action: Callable[[], object]) -> None:
        self.steps, self.action = steps, action

    def on_step(self, run: Run, step: Step) -> None:
        if run.progress.steps == self.steps:
            self.action()


def _killed_and_straight(config: Config, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Last checkpoints of a run that was killed after so many steps and resumed, and of one that was not."""
    straight = config.model_copy(update={"name": "straight"})
    launch.run(straight, console=_quiet())

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        launch.run(config, console=_quiet(), callbacks=[After(steps, die)])
    launch.run(config, resume=True, console=_quiet())
    ours, theirs = (Checkpoints(c.folder / "checkpoints", 3).load() for c in (config, straight))
    return ours, theirs


def test_a_run_goes_through_both_stages_and_leaves_everything(config: Config) -> None:
    summary = launch.run(config, console=_quiet())
    assert (summary.samples, summary.stage, summary.pool_entries) == (24, 2, 4)
    assert summary.gain_db is not None
    assert summary.input_psnr_y is not None
    steps = _lines(config, "step")
    assert [line["stage"] for line in steps] == [1, 1, 1, 2, 2, 2]
    assert all(("loss/re" in line) == (line["step"] > 6) for line in steps)
    assert len(_lines(config, "evaluation")) == 3
    for file in ("config.yaml", "environment.json", "summary.json", "samples/step-000000012.png"):
        assert (config.folder / file).stat().st_size > 0
    assert list((config.folder / "tensorboard").iterdir())
    assert len(Checkpoints(config.folder / "checkpoints", 3).files()) == 3
    assert Config.model_validate(yaml.safe_load((config.folder / "config.yaml").read_text())) == config
    assert load_derainer(config.folder)(torch.rand(1, 3, 17, 21)).shape == (1, 3, 17, 21)


def test_the_pool_holds_whole_derained_images(config: Config) -> None:
    launch.run(config, console=_quiet())
    fingerprint = "random-0"
    pool = open_pool(f"embedded:{config.folder}/pool", fingerprint=fingerprint)
    try:
        entries = {entry.id: entry for entry in pool.scan()}
        assert set(entries) == {"0", "1", "2", "3"}
        assert all(pool.image(e.candidates[0].digest).shape == (64, 72, 3) for e in entries.values())
        assert pool.stats().offers == 11
    finally:
        pool.close()


def test_a_pool_can_stay_as_it_is_from_some_moment_on(config: Config) -> None:
    summary = launch.run(_with(config, schedule={"recycle_until": 12}), console=_quiet())
    assert (summary.samples, summary.stage) == (24, 2)
    pool = open_pool(f"embedded:{config.folder}/pool", fingerprint="random-0")
    try:
        assert pool.stats().offers == 4  # after 4 to 10 samples, two at a time
    finally:
        pool.close()


@pytest.mark.parametrize("method", ["unet", "flat"])
def test_an_interrupted_run_resumes_exactly(config: Config, method: str) -> None:
    config = _on_found_rain(config) if method == "flat" else config
    # Two steps after a checkpoint of stage 2, so that the pool has moved on too.
    ours, theirs = _killed_and_straight(config, 11)
    assert {"derainer", "averaged"} <= set(theirs["method"])
    for part in {"derainer", "averaged", "G", "DEM", "D"} & set(theirs["method"]):
        for key, value in theirs["method"][part].items():
            assert torch.equal(ours["method"][part][key], value), f"{part}.{key}"
    assert {k: v for k, v in ours["progress"].items() if k != "seconds"} == {
        k: v for k, v in theirs["progress"].items() if k != "seconds"
    }


def test_a_run_on_found_rain_goes_through_both_stages(config: Config) -> None:
    config = _on_found_rain(config)
    assert launch.run(config, console=_quiet()).stage == 2
    steps = _lines(config, "step")
    assert [set(line) & {"loss/re", "loss/adv", "loss/D"} for line in steps] == 3 * [set()] + 3 * [
        {"loss/re"}
    ]
    assert (config.folder / "samples" / "found-rain.png").stat().st_size > 0
    assert any("Rain was found in 4 of 4 images" in line["text"] for line in _lines(config, "notice"))
    assert load_derainer(config.folder)(torch.rand(1, 3, 17, 21)).shape == (1, 3, 17, 21)


def test_a_run_on_found_rain_says_so_where_there_is_none(config: Config) -> None:
    config = _with(_on_found_rain(config), method={"sources": [{"name": "flat", "chroma": 1e-9}]})
    with pytest.raises(TrainerError, match="no flat place"):
        launch.run(config, console=_quiet())


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_and_resume_completes(config: Config) -> None:
    with pytest.raises(KeyboardInterrupt):
        launch.run(config, console=_quiet(), callbacks=[After(8, _interrupt)])
    assert Checkpoints(config.folder / "checkpoints", 3).files()[-1].name == "step-000000008.pt"
    assert launch.run(config, resume=True, console=_quiet()).samples == 24


class Calls(Callback):
    """Notes what is called, and at which step."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.notices: list[str] = []
        self.steps: list[Step] = []

    def on_begin(self, run: Run) -> None:
        self.seen.append(("begin", run.progress.steps))

    def on_step(self, run: Run, step: Step) -> None:
        self.steps.append(step)

    def on_stage(self, run: Run) -> None:
        self.seen.append(("stage", run.progress.steps))

    def on_evaluate(self, run: Run) -> None:
        assert run.measured is not None
        self.seen.append(("evaluate", run.progress.steps))

    def on_end(self, run: Run) -> None:
        self.seen.append(("end", run.progress.steps))

    def on_notice(self, run: Run, text: str) -> None:
        self.notices.append(text)


def test_callbacks_see_a_run_from_its_begin_to_its_end(config: Config) -> None:
    calls, resumed = Calls(), Calls()
    launch.run(config, console=_quiet(), callbacks=[calls])
    every = [("begin", 0), ("evaluate", 6), ("stage", 6), ("evaluate", 12), ("evaluate", 12), ("end", 12)]
    assert calls.seen == every
    counted = [step.recycled.scored for step in calls.steps if step.recycled is not None]
    assert counted == [1, 3, 5, 7, 9, 11]  # at every second step, a candidate in each but the first
    assert [("re" in step.losses) for step in calls.steps] == 6 * [False] + 6 * [True]
    other = config.model_copy(update={"name": "other"})
    with pytest.raises(KeyboardInterrupt):
        launch.run(other, console=_quiet(), callbacks=[After(2, _interrupt)])
    launch.run(other, resume=True, console=_quiet(), callbacks=[resumed])
    assert resumed.seen == [("begin", 2), *every[1:]]
    assert resumed.notices[0].startswith("Going on from ")


def test_a_second_run_does_not_overwrite_the_first(config: Config) -> None:
    launch.run(config, console=_quiet())
    with pytest.raises(TrainerError, match=r"already holds a run.*--resume"):
        launch.run(config, console=_quiet())


def test_a_loss_that_is_not_finite_ends_the_run_with_its_checkpoints(config: Config) -> None:
    class Spoil(Callback):
        def on_step(self, run: Run, step: Step) -> None:
            if run.progress.steps == 7:
                with torch.no_grad():
                    next(run.method.derainer.parameters()).fill_(float("nan"))

    with pytest.raises(TrainerError, match=r"the loss .*psnr.* is not finite at step 8: resume from"):
        launch.run(config, console=_quiet(), callbacks=[Spoil()])
    saved = Checkpoints(config.folder / "checkpoints", 3)
    assert saved.files()[-1].name == "step-000000006.pt"
    assert saved.load()["progress"]["steps"] == 6


def test_a_checkpoint_of_other_networks_is_refused(config: Config) -> None:
    launch.run(config, console=_quiet())
    wider = _with(config, derainer={"width": 8})
    with pytest.raises(TrainerError, match=r"another configuration: derainer\.width \(4 there, 8 here\)"):
        launch.run(wider, resume=True, console=_quiet())


def test_where_no_checkpoint_is_whole_the_folder_is_named(config: Config) -> None:
    launch.run(config, console=_quiet())
    for file in Checkpoints(config.folder / "checkpoints", 3).files():
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(TrainerError, match=r"none of the checkpoints in .* can be read"):
        launch.run(config, resume=True, console=_quiet())


def test_stage_2_waits_for_enough_rewards(config: Config) -> None:
    late = _with(config, schedule={"recycle_from": 1000})
    assert launch.run(late, console=_quiet()).stage == 1


def test_stage_2_can_begin_at_the_plateau_of_the_pool(config: Config) -> None:
    plateau = _with(
        config,
        schedule={"samples": 48, "stage2_from": "plateau", "plateau_patience": 2, "recycle_from": 0},
        recycling={"scorer": "local:random"},
        report={"evaluate_every": 2},
    )
    launch.run(plateau, console=_quiet())
    stages = [line["stage"] for line in _lines(plateau, "step")]
    assert stages[0] == 1
    assert stages[-1] == 2


def test_time_ends_a_run(config: Config) -> None:
    short = _with(config, schedule={"seconds": 1e-6})
    assert launch.run(short, console=_quiet()).samples == 2


@pytest.mark.parametrize(
    ("keep", "reward", "weights"),
    [(3, "mean", "current"), (1, "best", "averaged"), (2, "minimum", "current")],
)
def test_the_asynchronous_variants_train(config: Config, keep: int, reward: str, weights: str) -> None:
    chosen = {"keep": keep, "reward": reward, "weights": weights, "synchronous": False}
    varied = _with(config, recycling=chosen, schedule={"samples": 48})
    assert launch.run(varied, console=_quiet()).pool_entries == 4


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path: Path) -> None:
    before = Checkpoints(tmp_path, 3).save({"method": 1}, 1)
    script = (
        "import resource, signal\n"
        "from pathlib import Path\n"
        "from trainer.state.checkpoints import Checkpoints\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"Checkpoints(Path({str(tmp_path)!r}), 3).save({{'method': bytes(10000)}}, 2)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode != 0
    assert "FileError" in ended.stderr
    assert "step-000000002.pt cannot be written (File too large): free space" in ended.stderr
    assert list(tmp_path.iterdir()) == [before]


def test_a_run_that_dies_before_its_first_checkpoint_repeats_exactly(config: Config) -> None:
    ours, theirs = _killed_and_straight(_with(config, report={"checkpoint_every": 100}), 9)
    for key, value in theirs["method"]["derainer"].items():
        assert torch.equal(ours["method"]["derainer"][key], value), key


def test_from_an_earlier_checkpoint_a_run_goes_on_without_the_later_ones(config: Config) -> None:
    config = _with(config, recycling={"synchronous": False})
    launch.run(config, console=_quiet())
    saved = Checkpoints(config.folder / "checkpoints", 3)
    assert [file.stem[-2:] for file in saved.files()] == ["06", "09", "12"]
    launch.run(_with(config, schedule={"samples": 20}), checkpoint=saved.files()[0], console=_quiet())
    assert [file.stem[-2:] for file in saved.files()] == ["06", "09", "10"]
    abandoned = config.folder / "checkpoints" / "abandoned"
    assert sorted(file.stem[-2:] for file in abandoned.iterdir()) == ["09", "12"]
    other = config.model_copy(update={"name": "other"})
    start = saved.files()[-1]
    launch.run(other, checkpoint=start, console=_quiet())
    with pytest.raises(TrainerError, match="already holds a run"):
        launch.run(other, checkpoint=start, console=_quiet())


def test_who_resumes_with_another_learning_rate_gets_it(config: Config) -> None:
    launch.run(_with(config, schedule={"samples": 12}), console=_quiet())
    slower = _with(config, method={"derainer_optimizer": {"lr": 1e-7}, "generator_optimizer": {"lr": 1e-7}})
    launch.run(slower, resume=True, console=_quiet())
    method = Checkpoints(config.folder / "checkpoints", 3).load()["method"]
    rates = [
        method[name]["param_groups"][0]["lr"]
        for name in ("derainer_optimizer", "generator_optimizer", "discriminator_optimizer")
    ]
    assert rates == [1e-7, 1e-7, config.method.model_dump()["discriminator_optimizer"]["lr"]]


def test_a_pool_that_is_empty_is_no_reading_of_the_plateau(config: Config) -> None:
    plateau = _with(
        config,
        schedule={"samples": 48, "stage2_from": "plateau", "recycle_from": 24},
        report={"evaluate_every": 2},
    )
    launch.run(plateau, console=_quiet())
    progress = Checkpoints(config.folder / "checkpoints", 3).load()["progress"]
    stage1 = [line for line in _lines(plateau, "evaluation") if line["stage"] == 1 and line["samples"] > 24]
    assert len(progress["readings"]) == len(stage1)


def test_a_run_begins_from_trained_weights_and_its_rate_falls(config: Config, tmp_path: Path) -> None:
    launch.run(config, console=_quiet())
    rates: list[float] = []

    class Rates(Callback):
        def on_begin(self, run: Run) -> None:
            trained = load_derainer(config.folder).state_dict()
            for name, value in run.method.derainer.state_dict().items():
                assert torch.equal(value, trained[name])

        def on_step(self, run: Run, step: Step) -> None:
            rates.append(run.method.derainer_optimizer.param_groups[0]["lr"])

    again = _with(config, schedule={"learning_rate": "cosine"})
    again = again.model_copy(update={"name": "again", "start": str(config.folder)})
    launch.run(again, console=_quiet(), callbacks=[Rates()])
    assert rates[0] == config.method.derainer_optimizer.lr
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * rates[0]
    shutil.rmtree(config.folder)  # a run that goes on needs its start no longer
    longer = _with(again, schedule={"samples": again.schedule.samples + 4})
    launch.run(longer, resume=True, console=_quiet())
    with pytest.raises(TrainerError, match="there is no derainer at"):
        launch.run(again.model_copy(update={"name": "anew"}), console=_quiet())


def test_rendered_rain_needs_no_rainy_photograph(config: Config) -> None:
    tree = config.model_dump(mode="json")
    tree["data"]["rainy"] = tree["data"]["clean"]
    tree["method"] = {
        "sources": [{"name": "rendered", "maps": 2}],
        "overlay": "add",
        "discriminator": None,
        "camera": {},
    }
    tree["schedule"] |= {"recycle_from": "100%", "stage2_from": "never"}
    launch.run(Config.model_validate(tree), console=_quiet())
    with pytest.raises(TrainerError, match="photographs are both in"):
        launch.run(Config.model_validate(tree | {"method": {}, "name": "gan"}), console=_quiet())

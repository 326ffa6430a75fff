"""What is told before a run starts."""

from __future__ import annotations

import json
from typing import Any

import torch
from rich.console import Console

from trainer.config import Config
from trainer.launch import start as launch
from trainer.launch.estimate import Plan, out_of_reach
from trainer.state.checkpoints import Checkpoints


def _with(config: Config, **sections: dict[str, Any]) -> Config:
    tree = config.model_dump(mode="json")
    for section, values in sections.items():
        tree[section].update(values)
    return Config.model_validate(tree)


def test_a_plan_is_told_and_changes_nothing(config: Config) -> None:
    without = config.model_copy(update={"name": "without"})
    launch.run(without, console=Console(quiet=True))
    planned = _with(config, report={"plan": True})
    launch.run(planned, console=Console(quiet=True))
    told = [json.loads(line) for line in (planned.folder / "metrics.jsonl").read_text().splitlines()]
    notices = [line["text"] for line in told if line["kind"] == "notice"]
    assert notices[0] == "4 rainy and 3 clean images."
    assert notices[1].startswith("1 worker, 2 crops a step, 12 steps of ")
    assert notices[2] == "Stage 2 begins: rewards stand in for the ground truth."
    ours, theirs = (Checkpoints(c.folder / "checkpoints", 3).load()["method"] for c in (planned, without))
    for key, value in theirs["averaged"].items():
        assert torch.equal(ours["averaged"][key], value), key


def test_a_plan_is_for_what_is_left(config: Config) -> None:
    launch.run(config, console=Console(quiet=True))
    longer = _with(config, report={"plan": True}, schedule={"samples": 32, "stage2_from": 12})
    launch.run(longer, resume=True, console=Console(quiet=True))
    told = (longer.folder / "metrics.jsonl").read_text()
    assert "Going on from " in told
    assert "2 crops a step, 4 steps of " in told


def test_a_stage_2_that_cannot_begin_is_told(config: Config) -> None:
    assert out_of_reach(config, images=4) is None
    # 20 samples after the first 4, two a step, a candidate a step: 10, for half of the images.
    assert out_of_reach(config, images=20) is None
    assert (out_of_reach(config, images=21) or "").startswith(
        "Stage 2 will not begin: it waits until 11 images have a reward, and this run makes 10 candidates;"
    )
    shared = _with(config, schedule={"recycle_from": "50%"})
    assert "makes 6 candidates" in (out_of_reach(shared, images=100) or "")
    slow = Plan(
        workers=1, crops=2, steps=12, step_seconds=2.0, candidate_seconds=0.0, seconds=24.0, memory_bytes=1
    )
    timed = _with(config, schedule={"seconds": 12})
    assert out_of_reach(timed, images=20) is None
    # 12 samples in 12 seconds, a candidate from the fifth on.
    assert "makes 4 candidates; take more schedule.seconds" in (out_of_reach(timed, 20, slow) or "")
    assert out_of_reach(timed, 8, slow) is None
    assert out_of_reach(_with(config, schedule={"stage2_from": "never"}), images=10**6) is None

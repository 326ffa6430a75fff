"""Checkpoints made to harm, or of other parts, end in a sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trainer.methods import small
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.state.checkpoints import Checkpoints, TrainingState, networks
from trainer.state.schedule import Progress

Change = Callable[[dict[str, Any]], object]


def optimiser(state: dict[str, Any]) -> Any:
    return state["method"]["derainer_optimizer"]


CHANGES: dict[str, Change] = {
    "no method": lambda state: state.pop("method"),
    "a method that is none": lambda state: state.update(method=3),
    "a pool that is none": lambda state: state.update(pool=[1]),
    "no steps": lambda state: state["method"].pop("steps"),
    "steps that are none": lambda state: state["method"].update(steps={}),
    "a network that is none": lambda state: state["method"].update(derainer=[1]),
    "a network without a tensor": lambda state: state["method"]["derainer"].popitem(),
    "a network with another shape": lambda state: state["method"]["derainer"].update(
        {"intro.weight": torch.zeros(1)}
    ),
    "an optimiser without groups": lambda state: optimiser(state).update(param_groups=[]),
    "an optimiser of other weights": lambda state: optimiser(state)["param_groups"][0].update(params=[0]),
    "moments of another shape": lambda state: optimiser(state)["state"][0].update(exp_avg=torch.zeros(2)),
    "moments that are none": lambda state: optimiser(state).update(state=3),
    "progress that is none": lambda state: state["progress"].update(samples="many"),
    "no progress of a kind": lambda state: state["progress"].update(readings=3),
}


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    made = small.method()
    small.step(made, *small.batch()[:2])
    return {"networks": {}, "method": made.state_dict(), "progress": vars(Progress(steps=1)), "pool": None}


def resume(config: Config, path: Path) -> None:
    """What a run does with a checkpoint."""
    loaded = Checkpoints(path.parent, 3).load(path)
    made = TrainingState(config, small.method(), Progress())
    made.load_state_dict({**loaded, "networks": networks(config)})


def test_the_untouched_checkpoint_is_taken(config: Config, state: dict[str, Any], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "step-1.pt")
    resume(config, tmp_path / "step-1.pt")


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_of_other_parts_ends_in_a_sentence(
    config: Config, state: dict[str, Any], tmp_path: Path, name: str
) -> None:
    changed = copy.deepcopy(state)
    CHANGES[name](changed)
    torch.save(changed, tmp_path / "step-1.pt")
    with pytest.raises(TrainerError, match=r"the checkpoint .*: name another\.$"):
        resume(config, tmp_path / "step-1.pt")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_checkpoint_with_flipped_bytes_is_read_or_refused_in_a_sentence(
    config: Config, state: dict[str, Any], tmp_path: Path, changes: list[tuple[float, int]]
) -> None:
    torch.save(state, tmp_path / "step-1.pt")
    data = bytearray((tmp_path / "step-1.pt").read_bytes())
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    (tmp_path / "step-1.pt").write_bytes(data)
    said = ""
    try:
        resume(config, tmp_path / "step-1.pt")
    except TrainerError as problem:
        said = str(problem)
    assert "weights_only" not in said

"""The state of a run, and the checkpoint files that hold it."""

from __future__ import annotations

import io
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from pool_store.client import Pool
from rgsud_core.errors import first_line
from rgsud_core.files import writing
from rgsud_core.weights import WeightsError, read_torch
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.methods.base import Method
from trainer.models.registry import serialise_derainer
from trainer.state.schedule import Progress


@dataclass
class TrainingState:
    """One state_dict for networks, optimisers, progress and, in a synchronous run, the pool.

    When an asynchronous run resumes, the pool stays as it is: rewards made since the checkpoint are not lost.
    A synchronous run restores the pool, and so repeats the interrupted run exactly.
    """

    config: Config
    method: Method
    progress: Progress
    pool: Pool | None = None

    def state_dict(self) -> dict[str, Any]:
        """State of all parts; tensors are shared with the networks."""
        exact = self.pool is not None and self.config.recycling.synchronous
        return {
            "networks": networks(self.config),
            "method": self.method.state_dict(),
            "progress": asdict(self.progress),
            "pool": self.pool.dump() if exact and self.pool else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse; TrainerError if the checkpoint belongs to other networks."""
        theirs, ours = state["networks"], networks(self.config)
        differing = [
            f"{key} ({theirs.get(key)} there, {ours[key]} here)"
            for key in ours
            if theirs.get(key) != ours[key]
        ]
        if differing:
            raise TrainerError(
                f"the checkpoint is of another configuration: {', '.join(differing)}; use the recipe and the "
                "settings that it was trained with."
            )
        try:
            self.method.load_state_dict(state["method"])
            progress = TypeAdapter(Progress).validate_python(state["progress"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as problem:
            raise TrainerError(
                f"the checkpoint does not fit the run it is of ({first_line(problem)}): name another."
            ) from None
        vars(self.progress).update(vars(progress))
        if state["pool"] is not None and self.pool is not None:
            self.pool.restore(state["pool"])


def networks(config: Config) -> dict[str, Any]:
    """The settings that decide which weights fit, flat, by dotted key."""
    parts = {
        "derainer": config.derainer,
        **{f"method.{name}": sizes for name, sizes in config.method.networks().items()},
    }
    return {
        f"{part}.{key}": value for part, sizes in parts.items() for key, value in sizes.model_dump().items()
    }


class Checkpoints:
    """Numbered files in a folder. Each appears whole or not at all; the oldest are deleted."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def files(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted(self._folder.glob("step-*.pt"))

    def newest(self) -> Path:
        """The last checkpoint. TrainerError if there is none."""
        files = self.files()
        if not files:
            raise TrainerError(f"there is no checkpoint in {self._folder}: start the run without --resume.")
        return files[-1]

    def begin_after(self, start: Path) -> None:
        """Move checkpoints later than ``start`` into ``abandoned``, so that ``start`` is the newest."""
        for later in self.files():
            if later.name > start.name:
                (self._folder / "abandoned").mkdir(exist_ok=True)
                later.rename(self._folder / "abandoned" / later.name)

    def holds(self, path: Path) -> bool:
        """Whether a checkpoint lies in this folder."""
        return path.resolve().parent == self._folder.resolve()

    def age(self) -> float:
        """Seconds since the oldest kept checkpoint was written."""
        files = self.files()
        return time.time() - files[0].stat().st_mtime if files else 0.0

    def save(self, state: dict[str, Any], steps: int) -> Path:
        """Write a checkpoint, then delete those beyond the newest ``keep``."""
        path = self._folder / f"step-{steps:09d}.pt"
        # In memory first: torch's own writer hides the operating system's reason when the disk is full.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with writing(path) as partial:
            partial.write_bytes(buffer.getbuffer())
        for old in self.files()[: -self._keep]:
            old.unlink(missing_ok=True)
        return path

    def load_or_earlier(self, path: Path) -> tuple[dict[str, Any], Path, list[str]]:
        """Read a checkpoint; where it is damaged and one of this folder, the one before it.

        Returns:
            The state, its file, and a sentence for each file that could not be read.

        Raises:
            TrainerError: none can be read.
        """
        problems: list[str] = []
        earlier = [file for file in self.files() if file.name < path.name] if self.holds(path) else []
        for candidate in (path, *reversed(earlier)):
            try:
                return self.load(candidate), candidate, problems
            except TrainerError as problem:
                if not earlier:
                    raise
                problems.append(str(problem))
        raise TrainerError(
            f"none of the checkpoints in {self._folder} can be read: restore them from a copy, or start anew "
            "under another name=..."
        )

    def load(self, path: Path | None = None) -> dict[str, Any]:
        """Read a checkpoint, by default the newest. TrainerError if it cannot be read."""
        path = path or self.newest()
        try:
            state: Any = read_torch(path)
            kinds = {"networks": dict, "method": dict, "progress": dict, "pool": dict | None}
            if not (
                isinstance(state, dict)
                and all(key in state and isinstance(state[key], kind) for key, kind in kinds.items())
            ):
                raise WeightsError(path, "it is not of this program")
        except WeightsError as problem:
            raise TrainerError(
                f"the checkpoint {path} cannot be read ({problem.reason}): name another."
            ) from None
        found: dict[str, Any] = state
        return found


def save_model(config: Config, derainer: nn.Module) -> None:
    """Write a derainer into the run's folder, for :func:`trainer.models.registry.load_derainer`."""
    with writing(config.folder / "model" / "derainer.safetensors") as partial:
        partial.write_bytes(serialise_derainer(derainer, config.derainer))

"""What a run is made of, and what it calls while it trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.config import Config
from trainer.data.crops import PairedBatches, UnpairedBatches
from trainer.data.folders import ImageFolder
from trainer.data.pairing import PairedFolder
from trainer.errors import TrainerError
from trainer.methods.base import Method
from trainer.recycling.pool_link import PoolLink
from trainer.recycling.recycler import Recycled, Recycler
from trainer.recycling.rewards import RewardReader
from trainer.restore.evaluation import Evaluation
from trainer.state.checkpoints import Checkpoints, TrainingState
from trainer.state.mirror import Mirror
from trainer.state.schedule import Progress


@dataclass
class Step:
    """What one step came to."""

    losses: dict[str, Tensor]
    """Loss terms, detached scalars."""
    waited: float
    """Seconds that the step waited for its batch."""
    recycling: float = 0.0
    """Seconds that the step's candidate took: deraining it, and scoring it where that is synchronous."""
    recycled: Recycled | None = None
    """What became of the candidates of all workers so far: every `report.log_every` steps, else None."""

    def check(self, progress: Progress) -> None:
        """TrainerError where a loss is not finite: such weights must reach neither pool nor checkpoint."""
        if not torch.stack(list(self.losses.values())).isfinite().all():
            bad = [name for name, value in self.losses.items() if not value.isfinite()]
            raise TrainerError(
                f"the loss {', '.join(bad)} is not finite at step {progress.steps + 1}: resume from the last "
                "checkpoint with lower learning rates (method.*_optimizer.lr)."
            )


class Callback:
    """What a run calls on every worker while it trains. A subclass overrides what it needs.

    A callback exchanges nothing with other workers: those may have other callbacks.
    """

    def on_begin(self, run: Run) -> None:
        """Training is about to begin, or to go on from a checkpoint."""

    def on_step(self, run: Run, step: Step) -> None:
        """A step, and the candidate that it made, are done."""

    def on_stage(self, run: Run) -> None:
        """Stage 2 begins."""

    def on_evaluate(self, run: Run) -> None:
        """An evaluation is due; ``run.measured`` is the new one where there are validation pairs."""

    def on_end(self, run: Run) -> None:
        """Training is over or was interrupted; it has been saved and evaluated."""

    def on_notice(self, run: Run, text: str) -> None:
        """Something that a person should know."""


@dataclass
class Run:
    """What a run is made of."""

    config: Config
    rainy: ImageFolder
    """Rainy training images: candidates are made from them, whole."""
    validation: PairedFolder | None
    batches: UnpairedBatches | PairedBatches
    method: Method
    pool: PoolLink
    recycler: Recycler
    rewards: RewardReader
    checkpoints: Checkpoints
    mirror: Mirror
    state: TrainingState
    callbacks: list[Callback] = field(default_factory=list)
    """Called in this order."""
    measured: Evaluation | None = None
    """The newest evaluation, on worker 0."""
    clock: Callable[[], float] = time.perf_counter
    """Seconds of training; another clock may count processor time."""
    stopping: Callable[[], bool] = lambda: False
    """Called before every step: whether to save and end early."""

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        return self.state.progress

    def notice(self, text: str) -> None:
        """Hand something that a person should know to the callbacks."""
        for callback in self.callbacks:
            callback.on_notice(self, text)

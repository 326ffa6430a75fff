"""Starts a run: checks its folder and checkpoint, and decides where it trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rgsud_core.console import make_console
from rgsud_core.signals import until_interrupted
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.launch.holding import clear, holding
from trainer.launch.worker import Summary, view_of, work
from trainer.run import Callback
from trainer.state.checkpoints import Checkpoints
from trainer.state.mirror import fetch_run, refuse_mirrored


def run(
    config: Config,
    *,
    resume: bool = False,
    checkpoint: Path | None = None,
    fresh: bool = False,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
) -> Summary:
    """Check the data, open the services, train, and write ``summary.json`` into the run's folder.

    Args:
        config: the run.
        resume: continue from the run's newest checkpoint, or begin if there is none.
        checkpoint: start from this one. If it belongs to the run, later ones are moved to `abandoned`.
        fresh: remove an earlier run on the same data from the run's folder first.
        console: where progress is shown.
        callbacks: called by every worker while it trains; on Ray each worker has copies of them.

    Raises:
        TrainerError: the data, the folder or the checkpoint cannot be used, or another process trains there.
        ScorerError, PoolError: a service cannot be opened.
        KeyboardInterrupt: the user ended the run; it has been saved.
    """
    with holding(config.folder):
        if fresh:
            clear(config)
        return _run(config, resume, checkpoint, console or make_console(stderr=True), callbacks)


def _run(
    config: Config,
    resume: bool,
    checkpoint: Path | None,
    console: Console,
    callbacks: Sequence[Callback],
) -> Summary:
    checkpoints = Checkpoints(config.folder / "checkpoints", config.report.keep_checkpoints)
    own = checkpoint is not None and checkpoints.holds(checkpoint)
    if resume:
        fetch_run(config)
    elif not own:
        refuse_mirrored(config)
        if checkpoints.files():
            raise TrainerError(
                f"{config.folder} already holds a run: continue it with --resume, or choose another name=..."
            )
    if checkpoint is not None and own:
        checkpoints.load(checkpoint)  # before others make way for it
        checkpoints.begin_after(checkpoint)
    start = checkpoint or (checkpoints.newest() if resume and checkpoints.files() else None)
    if config.launch == "ray":
        from trainer.launch.on_ray import run_on_ray

        return run_on_ray(config, start, console, callbacks)
    with until_interrupted() as asked:
        summary, whole = work(config, start, [view_of(config, console)], asked.is_set, callbacks)
    if not whole:
        raise KeyboardInterrupt(f"the run in {config.folder} has been saved")
    return summary

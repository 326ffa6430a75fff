"""A process that trains, from the start of the run or a checkpoint to the summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console

from trainer.config import Config
from trainer.launch.assembly import assemble, describe, write_text
from trainer.launch.estimate import make_plan, out_of_reach
from trainer.methods.parallel import rank, wait_for_all
from trainer.reporting.sinks import ConsoleView, JsonView, View
from trainer.run import Callback, Run
from trainer.state.checkpoints import Checkpoints
from trainer.state.schedule import finished
from trainer.train import evaluate, save, train


class Summary(BaseModel):
    """Results of a finished run. PSNR and SSIM are means over the validation pairs, protocol A, None without
    pairs; the figures of the pool are None if it never answered."""

    folder: Path
    input_psnr_y: float | None
    psnr_y: float | None
    gain_db: float | None
    ssim_y: float | None
    training_seconds: float
    samples: int
    stage: int
    pool_entries: int | None
    pool_acceptance: float | None
    pool_mean_log_odds: float | None


def view_of(config: Config, console: Console) -> View:
    """View of the run for a person or for log collectors, by `report.log`."""
    return JsonView(console) if config.report.log == "json" else ConsoleView(console, config.schedule)


def work(
    config: Config,
    start: Path | None,
    views: Sequence[View],
    stopping: Callable[[], bool],
    callbacks: Sequence[Callback] = (),
    given: Config | None = None,
) -> tuple[Summary, bool]:
    """Train as one worker of a run, from a checkpoint or from the beginning; worker 0 shows it in views.

    A checkpoint of the run itself that is damaged makes way for the one before it. ``given`` is the
    configuration that is written into the folder, where services of the run's own stand in ``config``.

    Returns:
        The summary, which worker 0 has also written into ``summary.json``, and whether the schedule is over.
    """
    checkpoints = Checkpoints(config.folder / "checkpoints", config.report.keep_checkpoints)
    with ExitStack() as stack:
        run = assemble(config, checkpoints, views, stack, callbacks, from_checkpoint=start is not None)
        if start is not None:
            state, found, problems = checkpoints.load_or_earlier(start)
            run.state.load_state_dict(state)
            for problem in problems:
                run.notice(problem)
            if problems and rank() == 0:
                checkpoints.begin_after(found)
            run.notice(f"Going on from {found}.")
        if rank() == 0:
            describe(given or config, config.folder)  # now that nothing is left that would refuse it
        if start is None and config.recycling.synchronous:
            save(run)  # what dies before its first checkpoint begins again with the pool as it was
        run.stopping = stopping
        plan = make_plan(config, run.method, run.progress, run.rainy.load(0)) if config.report.plan else None
        if plan is not None:
            run.notice(str(plan))
        if (warning := out_of_reach(config, len(run.rainy), plan)) is not None:
            run.notice(warning)
        train(run)
        run.recycler.flush()
        evaluate(run)
        for callback in run.callbacks:
            callback.on_end(run)
        summary = _summarise(run)
        if rank() == 0:
            write_text(config.folder / "summary.json", summary.model_dump_json(indent=2))
            run.mirror.close()
            if run.mirror.problem is not None:
                run.notice(f"The run's end could not be copied: {run.mirror.problem}")
        wait_for_all()
        return summary, finished(config.schedule, run.progress)


def _summarise(run: Run) -> Summary:
    measured, pool, progress = run.measured, run.pool.stats(), run.progress
    return Summary(
        folder=run.config.folder,
        input_psnr_y=measured.input.psnr_y if measured else None,
        psnr_y=measured.output.psnr_y if measured else None,
        gain_db=measured.gain_db if measured else None,
        ssim_y=measured.output.ssim_y if measured else None,
        training_seconds=progress.seconds,
        samples=progress.samples,
        stage=progress.stage,
        pool_entries=pool.entries if pool else None,
        pool_acceptance=pool.acceptance if pool else None,
        pool_mean_log_odds=pool.mean_log_odds if pool else None,
    )

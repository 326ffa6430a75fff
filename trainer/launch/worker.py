"""One process that trains: from a checkpoint or from the beginning to the summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console

from trainer.config import Config
from trainer.launch.assembly import assemble, write_text
from trainer.launch.estimate import make_plan, out_of_reach
from trainer.methods.parallel import rank, wait_for_all
from trainer.reporting.sinks import ConsoleView, JsonView, View
from trainer.restore.evaluation import Evaluation
from trainer.state.checkpoints import Checkpoints
from trainer.state.schedule import finished
from trainer.train import Job, save, train


class Summary(BaseModel):
    """A finished run in figures; the PSNR and SSIM are means over the validation pairs, protocol A. Those of
    the pool are missing where it never answered."""

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
    """Where a person, or what collects logs, sees the run."""
    if config.report.log == "json":
        return JsonView(console)
    return ConsoleView(console, config.schedule.samples, config.schedule.seconds)


def work(
    config: Config, start: Path | None, views: Sequence[View], stopping: Callable[[], bool]
) -> tuple[Summary, bool]:
    """What each worker of a run does, from a checkpoint or from the beginning; worker 0 shows it in views.

    Returns:
        The figures, and whether the schedule is over; worker 0 has written them into ``summary.json``.
    """
    checkpoints = Checkpoints(config.folder / "checkpoints", config.report.keep_checkpoints)
    with ExitStack() as stack:
        job = assemble(config, checkpoints, views, stack)
        progress = job.state.progress
        if start is not None:
            job.state.load_state_dict(checkpoints.load(start))
            job.reporter.notice(f"Going on from {start}.", progress)
        elif config.recycling.synchronous:
            save(job)  # what dies before its first checkpoint begins again with the pool as it was
        job.stopping = stopping
        plan = make_plan(config, job.method, progress, job.rainy.load(0)) if config.report.plan else None
        if plan is not None:
            job.reporter.notice(str(plan), progress)
        if (warning := out_of_reach(config, len(job.rainy), plan)) is not None:
            job.reporter.notice(warning, progress)
        train(job)
        job.recycler.flush()
        job.reporter.evaluate(job.method.averaged, job.state.progress)
        job.reporter.sheet(job.method.averaged, job.state.progress)
        summary = _summarise(job, job.reporter.last)
        if rank() == 0:
            write_text(config.folder / "summary.json", summary.model_dump_json(indent=2))
            job.copies.close()
            if job.copies.problem is not None:
                job.reporter.notice(f"The run's end could not be copied: {job.copies.problem}", progress)
        wait_for_all()
        return summary, finished(config.schedule, job.state.progress)


def _summarise(job: Job, measured: Evaluation | None) -> Summary:
    pool, progress = job.pool.stats(), job.state.progress
    return Summary(
        folder=job.config.folder,
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

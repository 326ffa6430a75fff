"""The main loop: the two stages of RGSUD (Algorithm 1 of the paper)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from iqa_service.scorers.base import Candidate
from pool_store.schemas import Lineage
from trainer.batch import Batch
from trainer.config import Config
from trainer.data.crops import UnpairedBatches
from trainer.data.folders import ImageFolder
from trainer.errors import TrainerError
from trainer.methods.base import Method
from trainer.methods.parallel import as_worker_0, rank, wait_for_all, workers
from trainer.recycling.pool_link import Aside
from trainer.recycling.recycler import Recycler
from trainer.recycling.rewards import RewardReader
from trainer.reporting.reporter import Reporter, SilentReporter
from trainer.restore.inference import derain_image
from trainer.state.checkpoints import Checkpoints, TrainingState
from trainer.state.mirror import Copies
from trainer.state.schedule import Progress, finished, recycles, stage2_due


@dataclass
class Job:
    """What a run is made of."""

    config: Config
    rainy: ImageFolder
    batches: UnpairedBatches
    method: Method
    pool: Aside
    recycler: Recycler
    rewards: RewardReader
    reporter: Reporter | SilentReporter
    checkpoints: Checkpoints
    copies: Copies
    state: TrainingState
    clock: Callable[[], float] = time.perf_counter
    """Seconds of training; another clock may count processor time."""
    stopping: Callable[[], bool] = lambda: False
    """Asked after every step: whether to save and end early."""


def train(job: Job) -> None:
    """Train until the schedule ends, or the user ends it; leave a checkpoint either way."""
    config, method, progress, report = job.config, job.method, job.state.progress, job.config.report
    # Counted in samples, since the number of workers may change in an elastic run.
    number = progress.samples // (config.data.batch * workers())
    batches = job.batches.loader(number, config.data.workers)
    upcoming = next(batches)
    job.reporter.begin()

    while goes_on(job):
        started = job.clock()
        batch, (waited, upcoming) = upcoming, _timed(batches)
        if progress.stage == 2:
            batch.B_rw, batch.rewarded = job.rewards.crops(batch.crops)
            job.rewards.prepare(upcoming.crops)
        losses = method.step(batch)
        _check(losses, progress)

        progress.steps += 1
        progress.samples += len(batch) * workers()
        if recycles(config.schedule, progress) and progress.steps % config.recycling.every == 0:
            recycle(job)
        progress.seconds += job.clock() - started

        job.reporter.step(progress, losses, waited)
        if progress.steps % report.evaluate_every == 0:
            pool = job.pool.stats()
            if progress.stage == 1 and pool is not None and pool.mean_log_odds is not None:
                progress.readings.append(pool.mean_log_odds)
            job.reporter.evaluate(method.averaged, progress)
        if progress.steps % report.sheet_every == 0:
            job.reporter.sheet(method.averaged, progress)
        if progress.steps % report.checkpoint_every == 0:
            save(job)

    save(job)


def goes_on(job: Job) -> bool:
    """Whether there is another step, and of which stage: worker 0 decides for all."""
    config, progress = job.config, job.state.progress
    ends, begins2 = False, False
    if rank() == 0:
        ends = finished(config.schedule, progress) or job.stopping()
        begins2 = not ends and progress.stage == 1 and stage1_ends(job)
    ends, begins2 = map(bool, as_worker_0(ends, begins2))
    if begins2:
        progress.stage = 2
        job.reporter.notice("Stage 2 begins: rewards stand in for the ground truth.", progress)
    return not ends


def recycle(job: Job) -> None:
    """Derain the next whole rainy image and hand it in as a candidate for its reward.

    Every image belongs to one worker, so that no two derain the same one.
    """
    config, progress = job.config, job.state.progress
    number = progress.steps // config.recycling.every
    own = range(rank(), len(job.rainy), workers())
    if not own:
        return
    index = own[number % len(own)]
    rainy = job.rainy.load(index)
    net = job.method.averaged if config.recycling.weights == "averaged" else job.method.derainer
    derained = derain_image(net, rainy, tile=config.recycling.tile)
    lineage = Lineage(
        run=config.name, step=progress.steps, stage=progress.stage, worker=rank(), time=time.time()
    )
    job.recycler.submit(Candidate(id=job.rainy.ids[index], image=derained, rainy=rainy), lineage)


def stage1_ends(job: Job) -> bool:
    """Whether the moment for stage 2 has come and enough images have rewards."""
    schedule = job.config.schedule
    if not stage2_due(schedule, job.state.progress):
        return False
    pool = job.pool.stats()
    return pool is not None and pool.entries >= max(1, schedule.minimum_rewards * len(job.rainy))


def save(job: Job) -> None:
    """Write a checkpoint and the derainer, and let replaced rewards go that no checkpoint refers to."""
    wait_for_all()
    if rank() > 0:
        return
    job.checkpoints.save(job.state.state_dict(), job.state.progress.steps)
    job.reporter.model(job.method.averaged)
    job.pool.sweep(grace_seconds=job.checkpoints.age() + 60)
    job.copies.renew()


def _timed(batches: Iterator[Batch]) -> tuple[float, Batch]:
    started = time.perf_counter()
    batch = next(batches)
    return time.perf_counter() - started, batch


def _check(losses: dict[str, Tensor], progress: Progress) -> None:
    """Before anything is recycled or saved: weights that went wrong must not reach the pool."""
    if not torch.stack(list(losses.values())).isfinite().all():
        bad = [name for name, value in losses.items() if not value.isfinite()]
        raise TrainerError(
            f"the loss {', '.join(bad)} is not finite at step {progress.steps + 1}: resume from the last "
            "checkpoint with lower learning rates (method.*_optimizer.lr)."
        )

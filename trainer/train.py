"""The main loop: the two stages of RGSUD (Algorithm 1 of the paper)."""

from __future__ import annotations

import time
from dataclasses import astuple

from iqa_service.scorers.base import Candidate
from pool_store.schemas import Lineage
from trainer.data.loader import Loader
from trainer.methods.parallel import as_worker_0, rank, sum_over_workers, wait_for_all, workers
from trainer.recycling.recycler import Recycled
from trainer.restore.evaluation import evaluate_pairs
from trainer.restore.inference import derain_image
from trainer.run import Run, Step
from trainer.state.checkpoints import save_model
from trainer.state.schedule import finished, learning_rate, recycles, stage2_due


def train(run: Run) -> None:
    """Train until the schedule ends or ``run.stopping``; a checkpoint is left either way."""
    config, method, progress, report = run.config, run.method, run.progress, run.config.report
    # Counted in samples, since the number of workers may change in an elastic run.
    number = progress.samples // (config.data.batch * workers())
    batches = Loader(run.batches.loader(number, config.data.workers))
    for callback in run.callbacks:
        callback.on_begin(run)

    while goes_on(run):
        started = run.clock()
        batch = next(batches)
        if progress.stage == 2:
            batch.B_rw, batch.rewarded = run.rewards.crops(batch.crops)
            run.rewards.prepare(batches.upcoming.crops)
        step = Step(method.step(batch), batches.waited)
        step.check(progress)

        progress.steps += 1
        progress.samples += len(batch) * workers()
        if recycles(config.schedule, progress) and progress.steps % config.recycling.every == 0:
            before = run.clock()
            recycle(run)
            step.recycling = run.clock() - before
        progress.seconds += run.clock() - started

        if progress.steps % report.log_every == 0:
            step.recycled = Recycled(*sum_over_workers(*astuple(run.recycler.counts)))
        for callback in run.callbacks:
            callback.on_step(run, step)
        if progress.steps % report.evaluate_every == 0:
            evaluate(run)
        if progress.steps % report.checkpoint_every == 0:
            save(run)

    save(run)


def goes_on(run: Run) -> bool:
    """Whether there is another step, of which stage, and at which rate: worker 0 decides for all."""
    schedule, progress = run.config.schedule, run.progress
    ends, stage2, rate = False, False, round(1e6 * learning_rate(schedule, progress))
    if rank() == 0:
        ends = finished(schedule, progress) or run.stopping()
        if not ends and progress.stage == 1 and stage2_due(schedule, progress):
            pool = run.pool.stats()
            stage2 = pool is not None and pool.entries >= max(1, schedule.minimum_rewards * len(run.rainy))
    decided = as_worker_0(ends, stage2, rate)
    ends, stage2 = map(bool, decided[:2])
    run.method.set_rate(decided[2] / 1e6)
    if stage2:
        progress.stage = 2
        for callback in run.callbacks:
            callback.on_stage(run)
    return not ends


def recycle(run: Run) -> None:
    """Derain the next whole rainy image of this worker's share: a candidate for the image's reward."""
    recycling, progress = run.config.recycling, run.progress
    own = range(rank(), len(run.rainy), workers())
    if not own:
        return
    index = own[progress.steps // recycling.every % len(own)]
    rainy = run.rainy.load(index)
    net = run.method.averaged if recycling.weights == "averaged" else run.method.derainer
    candidate = Candidate(run.rainy.ids[index], derain_image(net, rainy, tile=recycling.tile), rainy)
    name, now = run.config.name, time.time()
    run.recycler.submit(
        candidate,
        Lineage(run=name, step=progress.steps, stage=progress.stage, worker=rank(), time=now),
    )


def evaluate(run: Run) -> None:
    """Read the pool's mean score in stage 1; worker 0 measures the averaged weights on pairs."""
    pool = run.pool.stats() if run.progress.stage == 1 else None
    if pool is not None and pool.mean_log_odds is not None:
        run.progress.readings.append(pool.mean_log_odds)
    net, tile = run.method.averaged, run.config.recycling.tile
    if rank() == 0 and run.validation is not None:
        images = run.validation.degraded.images()
        run.measured = evaluate_pairs(
            (derain_image(net, image, tile=tile) for image in images), run.validation
        )
    for callback in run.callbacks:
        callback.on_evaluate(run)


def save(run: Run) -> None:
    """Write a checkpoint and the derainer, and sweep replaced rewards that no checkpoint refers to."""
    wait_for_all()
    if rank() > 0:
        return
    run.checkpoints.save(run.state.state_dict(), run.progress.steps)
    save_model(run.config, run.method.averaged)
    run.pool.sweep(grace_seconds=run.checkpoints.age() + 60)
    run.mirror.update()

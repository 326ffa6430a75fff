"""Estimate of a run's time and memory, before it starts."""

from __future__ import annotations

import copy
import math
import resource
import time
from collections.abc import Callable
from datetime import timedelta

import torch
from pydantic import BaseModel

from rgsud_core.images import Image
from rgsud_core.settings import Percentage
from trainer.batch import Batch
from trainer.config import Config
from trainer.methods.base import Method
from trainer.methods.parallel import workers
from trainer.restore.inference import derain_image
from trainer.state.schedule import Progress, seconds_left

_MEASURED = 2
"""Number of measured steps, after one to warm up."""


class Plan(BaseModel):
    """Estimate for the rest of a run's schedule; times are measured on a copy of the networks."""

    workers: int
    crops: int
    """Crops of each domain in a step, over all workers."""
    steps: int
    """Steps that are left."""
    step_seconds: float
    """Duration of a training step."""
    candidate_seconds: float
    """Time to derain one whole image for the pool; scoring runs in parallel and is not counted."""
    seconds: float
    """Time for the rest of the run, at most what the schedule allows."""
    memory_bytes: int
    """Peak memory of a worker: of its GPU if it trains on one, of the process otherwise."""

    def __str__(self) -> str:
        plural = "s" if self.workers > 1 else ""
        return (
            f"{self.workers} worker{plural}, {self.crops} crops a step, {self.steps} steps "
            f"of {1000 * self.step_seconds:.0f} ms, {1000 * self.candidate_seconds:.0f} ms a candidate: "
            f"about {timedelta(seconds=round(self.seconds))}, {self.memory_bytes / 1e9:.1f} GB a worker."
        )


def make_plan(config: Config, method: Method, progress: Progress, rainy: Image) -> Plan:
    """Measure a few steps on a copy of the networks; the run and its random state are not changed.

    A collective: all workers call it. Loading of data and evaluations are not counted.

    Args:
        config: the run.
        method: its state at the start.
        progress: how far it is.
        rainy: a whole rainy image, uint8 H,W,3.
    """
    trial = copy.deepcopy(method)
    shape = (config.data.batch, 3, config.data.crop, config.data.crop)
    crops = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    # As in stage 2, the dearer of the two.
    batch = Batch(crops, crops, B_rw=crops, rain={source.name: crops[:, :1] for source in method.drawing})
    devices = [method.device] if method.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        trial.step(batch)
        step = _seconds(lambda: trial.step(batch), method.device)
        candidate = _seconds(
            lambda: derain_image(trial.derainer, rainy, tile=config.recycling.tile), method.device, 1
        )
    each = config.data.batch * workers()
    steps = max(0, -(-(config.schedule.samples - progress.samples) // each))
    return Plan(
        workers=workers(),
        crops=each,
        steps=steps,
        step_seconds=step,
        candidate_seconds=candidate,
        seconds=seconds_left(config.schedule, progress, each / (step + candidate / config.recycling.every)),
        memory_bytes=_memory(method.device),
    )


def out_of_reach(config: Config, images: int, plan: Plan | None = None) -> str | None:
    """Why stage 2 will never begin with so many rainy images, or None if it may.

    The limit `schedule.seconds` is considered only if there is a plan.
    """
    schedule = config.schedule
    if schedule.stage2_from == "never":
        return None
    total: float = schedule.samples
    if schedule.seconds is not None and plan is not None:
        total = min(total, plan.crops * schedule.seconds / plan.step_seconds)
    begin = schedule.recycle_from
    samples = total - (begin * total if isinstance(begin, Percentage) else begin)
    # A worker makes one candidate every few steps, of its own batch: as many an image on any number of them.
    candidates = int(samples / (config.data.batch * config.recycling.every))
    needed = max(1, math.ceil(schedule.minimum_rewards * images))
    if candidates >= needed:
        return None
    scarce = "samples" if total == schedule.samples else "seconds"
    return (
        f"Stage 2 will not begin: it waits until {needed} images have a reward, and this run makes "
        f"{candidates} candidates; take more schedule.{scarce}, a lower recycling.every or "
        "schedule.minimum_rewards."
    )


def _seconds(work: Callable[[], object], device: torch.device, times: int = _MEASURED) -> float:
    started = time.perf_counter()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / times


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux gives KB

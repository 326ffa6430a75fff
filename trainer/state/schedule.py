"""Progress of a run against its schedule: pure functions of settings and progress."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rgsud_core.settings import Percentage
from trainer.config import ScheduleSettings
from trainer.moments import Moment

_RISE = 0.02
"""Smallest rise of the pool's mean, in log-odds, that counts."""


class Position(Protocol):
    """How far a run is: a :class:`Progress`, or a line of ``metrics.jsonl``."""

    @property
    def samples(self) -> int: ...
    @property
    def seconds(self) -> float: ...


@dataclass
class Progress:
    """How far the run is."""

    steps: int = 0
    samples: int = 0
    """Rainy crops, over all workers."""
    stage: int = 1
    seconds: float = 0.0
    """Training time: recycling counted, evaluation not."""
    readings: list[float] = field(default_factory=list)
    """Mean log-odds of the pool at each evaluation of stage 1."""


def share(schedule: ScheduleSettings, position: Position) -> float:
    """Share of the run that is over, by samples or by time, whichever is ahead."""
    by_time = position.seconds / schedule.seconds if schedule.seconds else 0.0
    return max(position.samples / schedule.samples, by_time)


def finished(schedule: ScheduleSettings, position: Position) -> bool:
    """Whether the schedule is over."""
    return share(schedule, position) >= 1


def seconds_left(schedule: ScheduleSettings, position: Position, samples_per_second: float) -> float:
    """Training time that the rest of the run takes at this rate, at most what the schedule allows."""
    left = max(0, schedule.samples - position.samples) / max(samples_per_second, 1e-9)
    if schedule.seconds is not None:
        left = min(left, max(0.0, schedule.seconds - position.seconds))
    return left


def reached(schedule: ScheduleSettings, position: Position, moment: Moment) -> bool:
    """Whether a moment, in samples or as a share of the run, has come."""
    return (share(schedule, position) if isinstance(moment, Percentage) else position.samples) >= moment


def learning_rate(schedule: ScheduleSettings, position: Position) -> float:
    """What the learning rates of the settings are multiplied with, in [0,1]."""
    if schedule.learning_rate == "constant":
        return 1.0
    over = min(1.0, share(schedule, position))
    return (1 + math.cos(math.pi * over)) / 2


def recycles(schedule: ScheduleSettings, position: Position) -> bool:
    """Whether candidates are made at this point of the run."""
    until = schedule.recycle_until
    over = until is not None and reached(schedule, position, until)
    return not over and reached(schedule, position, schedule.recycle_from)


def stage2_due(schedule: ScheduleSettings, progress: Progress) -> bool:
    """Whether the moment for stage 2 has come; the number of rewards is checked elsewhere."""
    when = schedule.stage2_from
    if isinstance(when, str):
        return when == "plateau" and _level(progress.readings, schedule.plateau_patience)
    return reached(schedule, progress, when)


def _level(readings: Sequence[float], patience: int) -> bool:
    """Whether the last readings show no rise over those before them."""
    return len(readings) > patience and max(readings[-patience:]) <= max(readings[:-patience]) + _RISE

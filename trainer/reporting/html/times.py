"""What the time of a run was spent on, from its lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from trainer.reporting.html.folder import number
from trainer.reporting.lines import Line, NoticeLine, StepLine


@dataclass(frozen=True)
class Part:
    """A part of the time."""

    name: str
    seconds: float
    meaning: str
    colour: int
    """Of the page, 1 to 8; as in the plot of a step."""
    share: float = 0.0
    """Of all parts, 0 to 1."""


def time_parts(lines: Sequence[Line]) -> list[Part]:
    """Parts of the time in which the run's processes ran, without those that took none.

    Steps that were repeated after a resume count again: they took their time. Pauses between two processes
    do not count.
    """
    start = waiting = candidates = trained = wall = 0.0
    known = False
    for session in _sessions(lines):
        steps = [line for line in session if isinstance(line, StepLine)]
        wall += session[-1].time - session[0].time
        if not steps:
            start += session[-1].time - session[0].time
            continue
        before = session[: session.index(steps[0])]
        begun = next((line for line in reversed(before) if isinstance(line, NoticeLine)), None)
        seconds, step = (begun.seconds, begun.step) if begun else (steps[0].seconds, steps[0].step)
        start += max(0.0, steps[0].time - session[0].time - (steps[0].seconds - seconds))
        trained += session[-1].seconds - seconds
        for line in steps:
            count, step = number(max(0, line.step - step)), line.step
            waiting += count * number(line.data_ms) / 1000
            if line.candidates_ms is not None:
                known = True
                candidates += count * number(line.candidates_ms) / 1000
    networks = trained - waiting - candidates
    rest = wall - start - trained
    inside = "" if known else "; making candidates is part of it"
    parts = [
        Part("Start", start, "checking the images, looking for rain, measuring a few steps", 8),
        Part("Networks", networks, f"forward and backward passes of the training steps{inside}", 1),
        Part("Candidates", candidates, "deraining whole rainy images for the reward pool", 2),
        Part("Waiting for crops", waiting, "training steps that waited for images to be loaded", 3),
        Part("Measuring and saving", rest, "validation, sample sheets, checkpoints, sweeping of the pool", 4),
    ]
    parts = [part for part in parts if number(part.seconds) > 0.005]
    whole = sum(part.seconds for part in parts)
    return [replace(part, share=part.seconds / whole) for part in parts]


def _sessions(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """The lines of each process: it begins with notices of step 0, before a checkpoint is loaded."""
    session: list[Line] = []
    for line in lines:
        if session and isinstance(line, NoticeLine) and line.step == 0 and session[-1].step > 0:
            yield session
            session = []
        session.append(line)
    if session:
        yield session

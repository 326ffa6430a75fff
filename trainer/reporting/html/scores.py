"""Scores of a run's candidates against their true PSNR (the paper's Fig. 1b)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from rgsud_core.errors import RgsudError
from trainer.data.folders import ImageFolder
from trainer.recycling.candidate_log import LoggedCandidate, read_candidates
from trainer.reporting.html.folder import RunFolder, number
from trainer.restore.evaluation import psnr_y

_MOST = 400
"""Candidates that are measured, spread evenly over the run: each takes some 20 ms at 481x321."""


@dataclass(frozen=True)
class Graded:
    """A candidate with its score and its PSNR-Y against the ground truth, dB."""

    id: str
    stage: int
    log_odds: float
    psnr_y: float


@dataclass(frozen=True)
class Grades:
    """The candidates that were measured, or why there are none."""

    graded: Sequence[Graded] = ()
    problem: str | None = None
    recorded: int = 0
    """Candidates in the record that have a score and a truth."""

    @property
    def images(self) -> int:
        """Number of rainy images."""
        return len({one.id for one in self.graded})

    def agreement(self) -> float:
        """Spearman's rank correlation of score and PSNR-Y among the candidates of one image, the mean over
        images with three candidates or more; NaN where there is none."""
        by_id: dict[str, list[Graded]] = defaultdict(list)
        for one in self.graded:
            by_id[one.id].append(one)
        found = [
            float(spearmanr([one.log_odds for one in some], [one.psnr_y for one in some]).statistic)
            for some in by_id.values()
            if len(some) >= 3
            and len({one.log_odds for one in some}) > 1
            and len({one.psnr_y for one in some}) > 1
        ]
        return float(np.mean(found)) if found else math.nan


def grade(run: RunFolder, truth: Path | None) -> Grades:
    """Measure the recorded candidates of a run against the images of ``truth`` of the same ids.

    The record is read where ``truth`` is given: that its place is right is then said by a person, not by the
    run's folder alone.

    Raises:
        FileError: ``truth`` is no folder of images.
    """
    record = run.settings.get("recycling.record")
    if not isinstance(record, str) or not record:
        return Grades(
            problem="The run kept no record of its candidates. One that is trained with "
            "recycling.record=FOLDER keeps them with their scores (about 300 KB each at 481x321)."
        )
    if truth is None:
        return Grades(
            problem="The true PSNR of a candidate is known only with the ground truth of the rainy training "
            f"images: name its folder with --truth, to be compared with the record in {record}."
        )
    known = ImageFolder(truth)
    try:
        recorded = [
            one for one in read_candidates(Path(record)) if one.log_odds is not None and one.id in known.files
        ]
    except RgsudError as problem:
        return Grades(problem=f"The record cannot be read: {problem}")
    if not recorded:
        return Grades(
            problem=f"No candidate in {record} has both a score and a ground truth of its name in {truth}."
        )
    chosen = recorded
    if len(recorded) > _MOST:
        chosen = [recorded[round(place)] for place in np.linspace(0, len(recorded) - 1, _MOST)]
    graded = [one for one in (_graded(each, known) for each in chosen) if one is not None]
    if not graded:
        return Grades(problem=f"No image of the record in {record} can be compared with its ground truth.")
    return Grades(graded, None, len(recorded))


def _graded(candidate: LoggedCandidate, known: ImageFolder) -> Graded | None:
    try:
        image, truth = candidate.image(), known.load_id(candidate.id)
    except RgsudError:
        return None
    if image.shape != truth.shape:
        return None
    score, value = number(candidate.log_odds), psnr_y(image, truth)
    if not math.isfinite(score) or not math.isfinite(value):
        return None
    return Graded(candidate.id, candidate.lineage.stage, score, value)

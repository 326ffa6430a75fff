"""A scorer in one file, by its import path: ``sharpness_scorer:Sharpness?weights=FILE&size=32``.

It calls an image clean where few of its pixels are much brighter than their neighbours, as streaks are.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from iqa_service.errors import ScorerError
from iqa_service.scorers.base import ScoreBackend
from iqa_service.scorers.views import Views
from rgsud_core.images import Image


class Sharpness(ScoreBackend):
    """Log-odds that fall with the mean absolute difference between horizontal neighbours.

    Args:
        weights: a text file with one number, the slope per grey level.
        size: edge of the squares that are scored, pixels.
    """

    def __init__(self, weights: Path, size: Annotated[int, Field(ge=8)] = 32) -> None:
        try:
            content = weights.read_text()
            self._slope = float(content)
        except (OSError, ValueError) as problem:
            raise ScorerError(
                f"'{weights}' holds no slope ({problem}): write one number into it"
            ) from problem
        self.name = "sharpness"
        self.views = Views(kind="tiles", size=size)
        self.fingerprint = f"sharpness-1-{size}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"

    def score_views(self, views: Image) -> NDArray[np.float32]:
        """See ``ScoreBackend.score_views``."""
        steps = np.abs(np.diff(views.astype(np.float32), axis=2)).mean(axis=(1, 2, 3))
        odds: NDArray[np.float32] = (5 - self._slope * steps).astype(np.float32)
        return odds

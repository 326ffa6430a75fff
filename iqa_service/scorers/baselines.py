"""Baselines (the truth, the latest, chance), to measure what a real scorer contributes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from iqa_service.errors import ScorerError
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.views import check_image
from rgsud_core.errors import FileError
from rgsud_core.images import images_below, read_image
from rgsud_core.quality import luma, psnr


class OracleBackend(ScoreBackend):
    """Scores by the true PSNR-Y (at most 100 dB, luma not rounded) less 30 dB: for evaluation only.

    Args:
        truth: folder of clean images; the one of a candidate has the candidate's id as path without suffix.
    """

    name = "oracle"

    def __init__(self, truth: Path) -> None:
        try:
            self._files = images_below(truth)
        except FileError as error:
            raise ScorerError(f"no truth for the oracle: {error}") from None
        content = "\n".join(f"{id} {path.stat().st_size}" for id, path in self._files.items())
        self.fingerprint = "oracle-" + hashlib.sha256(content.encode()).hexdigest()[:16]
        self._truth = truth

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """PSNR-Y - 30 dB of each candidate, float32 N.

        Raises:
            ScorerError: an id without a truth, or one of another size.
        """
        return np.array([self._score(candidate) for candidate in candidates], np.float32)

    def _score(self, candidate: Candidate) -> float:
        check_image(candidate.image, f"candidate '{candidate.id}'")
        if candidate.id not in self._files:
            raise ScorerError(
                f"no truth for '{candidate.id}' in '{self._truth}': give the folder of its clean images"
            )
        try:
            truth = read_image(self._files[candidate.id])
        except FileError as error:
            raise ScorerError(str(error)) from None
        if truth.shape != candidate.image.shape:
            raise ScorerError(
                f"candidate '{candidate.id}' has the shape {candidate.image.shape} and its truth "
                f"{truth.shape}: derain at native size"
            )
        return min(psnr(luma(candidate.image), luma(truth)), 100.0) - 30


class LatestBackend(ScoreBackend):
    """Scores each candidate above all before it, so that a pool always takes the newest.

    Args:
        start: score of the first candidate; raise it when a run resumes with its old pool.
    """

    name = "latest"
    fingerprint = "latest"

    def __init__(self, start: int = 0) -> None:
        self._next = start
        self._lock = threading.Lock()

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """Consecutive whole numbers, float32 N."""
        with self._lock:
            first, self._next = self._next, self._next + len(candidates)
        return np.arange(first, first + len(candidates), dtype=np.float32)


class RandomBackend(ScoreBackend):
    """Normally distributed scores, a function of seed, id and pixels.

    Args:
        seed: seed of the scores.
    """

    name = "random"

    def __init__(self, seed: Annotated[int, Field(ge=0)] = 0) -> None:
        self._seed = seed
        self.fingerprint = f"random-{self._seed}"

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """A standard normal draw for each candidate, float32 N."""
        return np.array([self._score(candidate) for candidate in candidates], np.float32)

    def _score(self, candidate: Candidate) -> float:
        digest = hashlib.sha256(candidate.id.encode() + np.ascontiguousarray(candidate.image).tobytes())
        return np.random.default_rng([self._seed, *digest.digest()]).normal()

"""What a scorer is: how far an image is from showing rain, as log-odds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iqa_service.errors import ScorerError
from iqa_service.scorers.views import Views, check_image
from rgsud_core.images import Image

_VIEWS_HELD = 256
"""Candidates are cut until there are so many views, which are then scored together; bounds the memory."""


@dataclass(frozen=True)
class Candidate:
    """A derained image that may become a reward."""

    id: str
    """The rainy image's path without suffix."""
    image: Image
    """uint8 H,W,3 RGB."""
    rainy: Image | None = None
    """The rainy image itself, the same shape, for scorers that compare."""


class ScoreBackend:
    """A scorer, in this process or elsewhere.

    A subclass that scores squares of an image each by itself sets ``views`` and overrides
    :meth:`score_views`; the squares of many candidates then share batches, those of other callers included.
    One that needs whole images overrides :meth:`score`.
    """

    name: str
    """Name in tables and reports."""
    fingerprint: str
    """Digest of everything that changes a score (weights, options, version). Scores with different
    fingerprints must never be compared."""
    views: Views | None = None
    """The squares of an image that are scored, or None where the scorer needs whole images."""
    consistency: float = 0.0
    """Weight of the consistency with the rainy image that :meth:`score` adds to the mean over the views."""
    words: tuple[str, ...] = ()
    """Degradations that the scorer distinguishes, if any."""
    degraded: tuple[str, ...] = ()
    """The subset of the words that counts against an image."""
    unit: str = "log-odds"
    """What :meth:`in_unit` gives."""
    lower_better: bool = False
    """Whether lower is better in that unit; log-odds are always better where they are higher."""

    def in_unit(self, log_odds: float) -> float:
        """An image's log-odds as the scorer's own literature states them, for tables: see ``unit``."""
        return log_odds

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """Log-odds of "not degraded" of N candidates, float32 N, higher is better.

        The score of an image is the mean over its views, whatever else is in the batch.

        Raises:
            ScorerError: a candidate is no uint8 H,W,3 image, or the scorer fails on it.
        """
        scores: list[float] = []
        held: list[Image] = []
        for candidate in candidates:
            check_image(candidate.image, f"candidate '{candidate.id}'")
            held.append(self._cut(candidate.image))
            if sum(map(len, held)) >= _VIEWS_HELD:
                scores += self._means(held)
                held = []
        return np.array(scores + self._means(held), np.float32)

    def score_views(self, views: Image) -> NDArray[np.float32]:
        """Log-odds of "not degraded" of each view, float32 M, from uint8 M,S,S,3; without consistency.

        Raises:
            ScorerError: the scorer takes no such views, or fails on them.
        """
        raise ScorerError(f"{self.name} looks at whole images: send images, not views")

    def close(self) -> None:
        """Release whatever the scorer holds."""

    def _cut(self, image: Image) -> Image:
        if self.views is None:
            raise NotImplementedError(f"{type(self).__name__} sets no views and does not override score()")
        return self.views.cut(image)

    def _means(self, held: list[Image]) -> list[float]:
        if not held:
            return []
        each = self.score_views(np.concatenate(held))
        ends = np.cumsum([len(views) for views in held])[:-1]
        return [float(part.mean(dtype=np.float64)) for part in np.split(each, ends)]

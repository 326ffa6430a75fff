"""Consistency with the rainy image: rain adds light to some of the pixels and changes nothing else.

A scorer that sees a derained image alone cannot tell a cast or a drift of brightness from the photograph's
own light, nor rain that was left from the photograph's own texture. The rainy image shows all of them: a good
derained image has less light, nowhere more, and the same colours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iqa_service.errors import ScorerError
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.views import check_image
from rgsud_core.images import STUDIO_LUMA, Image

TAKEN, ADDED, SHIFTED = 0.25, 0.7, 0.1
"""Log-odds for each level of 0..255. Fitted to the order of candidates of five unpaired runs, on half of the
photographs; the order hardly changes while the first two keep their ratio (benchmarks/scorer_quality.py)."""


def consistency(image: Image, rainy: Image) -> float:
    """How much rainy - image looks like rain: log-odds, 0 where nothing was changed, higher is better.

    The weighted sum of three terms of rainy - image: + the root mean square of its positive luma (light that
    was taken), - the root mean square of its negative values (light that was added), - the absolute median of
    each channel, mean over channels (a shift of colour; rain covers less than half of the pixels). Compares
    versions of one image only: another image has other rain to take.

    Args:
        image: derained, uint8 H,W,3.
        rainy: what it was made from, the same shape.

    Raises:
        ScorerError: either is no image, or their shapes differ.
    """
    check_image(image)
    check_image(rainy, "rainy image")
    if image.shape != rainy.shape:
        raise ScorerError(
            f"the image has the shape {image.shape} and its rainy image {rainy.shape}: derain at native size"
        )
    removed = rainy.astype(np.float32) - image
    taken = np.sqrt(np.square(np.maximum(removed @ STUDIO_LUMA.astype(np.float32), 0)).mean())
    added = np.sqrt(np.square(np.minimum(removed, 0)).mean())
    shifted = np.abs(np.median(removed, axis=(0, 1))).mean()
    return float(TAKEN * taken - ADDED * added - SHIFTED * shifted)


class ConsistentBackend(ScoreBackend):
    """Another scorer, with the consistency between each candidate and its rainy image added.

    Args:
        backend: gives the log-odds, from the derained image alone or not.
        consistency: weight of :func:`consistency` in the log-odds; with 0 no rainy image is needed.
    """

    def __init__(self, backend: ScoreBackend, consistency: float) -> None:
        self.name, self.views = backend.name, backend.views
        self.words, self.degraded = backend.words, backend.degraded
        self.fingerprint = backend.fingerprint + (f"-consistent-{consistency:g}" if consistency else "")
        self.consistency = consistency
        self._backend = backend

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """See :meth:`ScoreBackend.score`.

        Raises:
            ScorerError: also where a candidate lacks its rainy image.
        """
        added = np.array([self._consistency(candidate) for candidate in candidates], np.float32)
        return self._backend.score(candidates) + added

    def score_views(self, views: Image) -> NDArray[np.float32]:
        """See :meth:`ScoreBackend.score_views`."""
        return self._backend.score_views(views)

    def _consistency(self, candidate: Candidate) -> float:
        if not self.consistency:
            return 0.0
        check_image(candidate.image, f"candidate '{candidate.id}'")
        if candidate.rainy is None:
            raise ScorerError(
                f"candidate '{candidate.id}' lacks its rainy image, which consistency={self.consistency:g} "
                "compares with: give it, or leave the option out"
            )
        return self.consistency * consistency(candidate.image, candidate.rainy)

    def close(self) -> None:
        """Close the other scorer."""
        self._backend.close()

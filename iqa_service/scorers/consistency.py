"""Consistency with the rainy image: rain adds light to some of the pixels and changes nothing else.

A scorer that sees a derained image alone can tell neither a cast or a drift of brightness from the
photograph's own light, nor rain that was left from the photograph's own texture. Beside the rainy image all
are plain: a good derained image has taken light, added none, and shifted no colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iqa_service.errors import ScorerError
from iqa_service.scorers.backends import Candidate, ScoreBackend
from iqa_service.scorers.views import LUMA, Image, check_image

TAKEN, ADDED, SHIFTED = 0.25, 0.7, 0.1
"""Log-odds for each level of 0..255. Fitted to the order of candidates of five unpaired runs, on half of the
photographs; the order hardly changes while the first two keep their ratio (benchmarks/scorer_quality.py)."""


def consistency(image: Image, rainy: Image) -> float:
    """How much rainy - image looks like rain: log-odds, 0 where nothing was changed, higher is better.

    For light that was taken, the root mean square in luma of what is positive; less, for light that was
    added, that of what is negative; less, for a shift of colour, the absolute median of each channel (rain
    covers less than half of the pixels), mean over channels. To compare versions of one image: another one
    has other rain to take.

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
    taken = np.sqrt(np.square(np.maximum(removed @ LUMA.astype(np.float32), 0)).mean())
    added = np.sqrt(np.square(np.minimum(removed, 0)).mean())
    shifted = np.abs(np.median(removed, axis=(0, 1))).mean()
    return float(TAKEN * taken - ADDED * added - SHIFTED * shifted)


class ConsistentBackend:
    """Any backend, held to the rainy image beside each candidate.

    Args:
        backend: gives the log-odds, from the derained image alone or not.
        consistency: how much of :func:`consistency` is added to the log-odds; 0 adds nothing, and then no
            rainy image is needed.
    """

    def __init__(self, backend: ScoreBackend, consistency: float) -> None:
        self.name = backend.name
        self.fingerprint = backend.fingerprint + (f"-consistent-{consistency:g}" if consistency else "")
        self.backend = backend
        self.consistency = consistency

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """See :meth:`ScoreBackend.score`.

        Raises:
            ScorerError: also where a candidate lacks its rainy image.
        """
        evidence = np.array([self._evidence(candidate) for candidate in candidates], np.float32)
        return self.backend.score(candidates) + evidence

    def _evidence(self, candidate: Candidate) -> float:
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
        """Close the backend."""
        self.backend.close()

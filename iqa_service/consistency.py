"""Consistency with the rainy image: rain adds light to some of the pixels and changes nothing else.

No scorer that sees a derained image alone can tell a cast or a drift of brightness from the photograph's own
light. Beside the rainy image both are plain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iqa_service.backends import Candidate, ScoreBackend
from iqa_service.errors import ScorerError
from iqa_service.views import Image, check_image


def inconsistency(image: Image, rainy: Image) -> float:
    """How far rainy - image is from rain, in levels of 0..255; 0 for what only takes light from some pixels.

    The median of the difference in each channel, absolute, mean over channels (rain covers less than half of
    the pixels, so the rest says what colour shifted), and the root mean square of its negative part.

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
    taken = rainy.astype(np.float32) - image
    shift = np.abs(np.median(taken, axis=(0, 1))).mean()
    added = np.sqrt(np.square(np.minimum(taken, 0)).mean())
    return float(shift + added)


class ConsistentBackend:
    """Any backend, held to the rainy image beside each candidate.

    Args:
        backend: gives the log-odds, from the derained image alone or not.
        consistency: log-odds taken off for each level of :func:`inconsistency`; 0 takes nothing off, and
            then no rainy image is needed.
    """

    def __init__(self, backend: ScoreBackend, consistency: float) -> None:
        self.name = backend.name
        self.fingerprint = backend.fingerprint + (f"-consistency-{consistency:g}" if consistency else "")
        self.backend = backend
        self.consistency = consistency

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """See :meth:`ScoreBackend.score`.

        Raises:
            ScorerError: also where a candidate lacks its rainy image.
        """
        penalties = np.array([self._penalty(candidate) for candidate in candidates], np.float32)
        return self.backend.score(candidates) - penalties

    def _penalty(self, candidate: Candidate) -> float:
        if not self.consistency:
            return 0.0
        check_image(candidate.image, f"candidate '{candidate.id}'")
        if candidate.rainy is None:
            raise ScorerError(
                f"candidate '{candidate.id}' lacks its rainy image, which consistency={self.consistency:g} "
                "compares with: give it, or leave the option out"
            )
        return self.consistency * inconsistency(candidate.image, candidate.rainy)

    def close(self) -> None:
        """Close the backend."""
        self.backend.close()

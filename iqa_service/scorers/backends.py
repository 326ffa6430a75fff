"""Where scores come from, behind one protocol: a scorer in this process, a control, a service."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from iqa_service.scorers.base import LITE_WEIGHTS, Candidate, Precision, Scorer, open_daclip
from iqa_service.scorers.views import TILES, Image, check_image

__all__ = ["Candidate", "LocalBackend", "ScoreBackend", "open_lite", "open_mix", "open_released"]

_HUB = "hf://weblzw/daclip-uir-ViT-B-32-irsde"
_VIEWS_HELD = 256
"""Views of how many candidates wait together for their forward passes, which bounds the memory."""


class ScoreBackend(Protocol):
    """Scores candidates, wherever that happens."""

    name: str
    fingerprint: str
    """Scores with different fingerprints must never be compared."""

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """Log-odds of "not degraded" of N candidates, higher is better, float32 N.

        Raises:
            ScorerError: a candidate is no uint8 H,W,3 image, or the scorer fails on it.
        """
        ...

    def close(self) -> None:
        """Let go of whatever the backend holds."""
        ...


class LocalBackend:
    """A scorer in this process; the views of all candidates, of whatever sizes, share its batches.

    Args:
        scorer: sees the derained image alone.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.name = scorer.name
        self.fingerprint = scorer.fingerprint
        self.scorer = scorer

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """See :meth:`ScoreBackend.score`."""
        scores: list[float] = []
        held: list[Image] = []
        for candidate in candidates:
            check_image(candidate.image, f"candidate '{candidate.id}'")
            held.append(self.scorer.views(candidate.image))
            if sum(map(len, held)) >= _VIEWS_HELD:
                scores += self._score_held(held)
                held = []
        if held:
            scores += self._score_held(held)
        return np.array(scores, np.float32)

    def _score_held(self, held: list[Image]) -> list[float]:
        each = self.scorer.score(np.concatenate(held)[:, None])
        ends = np.cumsum([len(views) for views in held])[:-1]
        return [float(part.mean(dtype=np.float64)) for part in np.split(each, ends)]

    def close(self) -> None:
        """Nothing to let go of."""


def _open_daclip(
    name: str,
    /,
    weights: str,
    views: Literal["centre", "tiles"] | None = None,
    tiles: Annotated[int, Field(ge=1)] = TILES,
    words: str | None = None,
    precision: Precision = "float32",
    device: str | None = None,
) -> LocalBackend:
    scorer = open_daclip(
        weights, views, tiles=tiles, words=words, precision=precision, device=device, name=name
    )
    return LocalBackend(scorer)


open_released = partial(_open_daclip, "daclip", weights=f"{_HUB}/daclip_ViT-B-32.pt")
"""DACLIP-IQA on a DA-CLIP, the released one where no other weights are given; see :func:`open_daclip`."""
open_mix = partial(_open_daclip, "daclip-mix", weights=f"{_HUB}/daclip_ViT-B-32_mix.pt")
"""DACLIP-IQA on the released DA-CLIP that has learned mixed degradations too."""
open_lite = partial(_open_daclip, "daclip-lite", weights=str(LITE_WEIGHTS))
"""DACLIP-IQA on the weights of this package."""

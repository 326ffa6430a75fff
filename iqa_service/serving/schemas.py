"""The bodies of HTTP requests and answers."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Score(_Closed):
    """The result for one image: log-odds and reward, or an error."""

    id: str
    log_odds: float | None = None
    """Log-odds of "not degraded"; higher is better."""
    reward: float | None = None
    """sigmoid(log-odds), 0..1."""
    error: str | None = None
    """Why there is no score."""

    @classmethod
    def of(cls, id: str, log_odds: float) -> Score:
        """A score with its reward."""
        # exp of the negative magnitude cannot overflow.
        small = math.exp(-abs(log_odds))
        return cls(id=id, log_odds=log_odds, reward=(1 if log_odds >= 0 else small) / (1 + small))


class Scores(_Closed):
    """The answer to images, in their order."""

    scorer: str
    fingerprint: str
    scores: tuple[Score, ...]


class ViewScores(_Closed):
    """The answer to views, in their order; an image's log-odds are the mean over its views."""

    fingerprint: str
    log_odds: tuple[float, ...]
    """Log-odds of each view, without consistency."""


class ImageIn(_Closed):
    """One image to score."""

    image: str
    """A PNG, JPEG, WebP, BMP or TIFF file in base64."""
    id: str | None = Field(None, max_length=256)
    """Returned with the score. Default: the position of the image in the request."""
    rainy: str | None = None
    """The rainy image it was made from, in base64; scorers that compare need it."""


class ImagesIn(_Closed):
    """Images to score."""

    images: Annotated[tuple[ImageIn, ...], Field(min_length=1, fail_fast=True)]

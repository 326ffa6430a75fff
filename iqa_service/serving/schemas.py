"""What the scorer's service and its clients say to each other, and the settings of the service."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from iqa_service.errors import ScorerError
from iqa_service.scorers.views import Views
from rgsud_core.errors import nearest

TOKEN_VARIABLE = "RGSUD_SCORER_TOKEN"
"""The environment variable that service and clients take the token from."""
_TOKEN = re.compile(r"[!-~]+")
SCORER = "Scorer"
"""The name of the deployment that scores, within its application."""


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ScorerInfo(_Closed):
    """A scorer as its service presents it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "daclip-lite",
                    "fingerprint": "0123456789abcdef0123456789abcdef",
                    "words": ["rainy", "blurry", "clean"],
                    "degraded": ["rainy"],
                    "views": {"kind": "tiles", "size": 64, "tiles": 256},
                    "consistency": 1.0,
                    "views_at_once": 64,
                }
            ]
        }
    )

    name: str
    fingerprint: str
    """Scores with different fingerprints must never be compared."""
    words: tuple[str, ...] = ()
    """The degradations it tells apart, if it is a DA-CLIP."""
    degraded: tuple[str, ...] = ()
    """Those of them that count against an image."""
    views: Views | None = None
    """What it looks at; none where it needs whole images."""
    consistency: float = Field(0.0, ge=0)
    """How much consistency with the rainy image adds to the log-odds; that image must then be given."""
    views_at_once: int = Field(64, ge=1)
    """Views that a call may hold."""
    higher_is_better: Literal[True] = True
    log_odds_range: tuple[float | None, float | None] = (None, None)
    """Least and greatest log-odds; null is unbounded."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    """Of the reward, sigmoid(log-odds)."""

    def refusal(self, call: ViewCall) -> str | None:
        """Why this scorer cannot score these views, if it cannot."""
        views = call.views
        if self.views is None:
            return f"{self.name} looks at whole images: send images, not views"
        if call.fingerprint not in (None, self.fingerprint):
            return other_scorer(self.name, self.fingerprint, call.fingerprint)
        size = self.views.size
        if not isinstance(views, np.ndarray) or views.dtype != np.uint8 or views.shape[1:] != (size, size, 3):
            kind = f"{views.dtype} {views.shape}" if isinstance(views, np.ndarray) else type(views).__name__
            return f"{self.name} got views of {kind}, not uint8 (M, {size}, {size}, 3): cut them as it says"
        if not 1 <= len(views) <= self.views_at_once:
            return f"{self.name} got {len(views)} views in one call: send 1 to {self.views_at_once}"
        return None


class Score(_Closed):
    """What became of one image: log-odds and reward, or an error."""

    id: str
    log_odds: float | None = None
    """Of "not degraded"; higher is better."""
    reward: float | None = None
    """sigmoid(log-odds), 0..1."""
    error: str | None = None
    """Why there is no score."""

    @classmethod
    def of(cls, id: str, log_odds: float) -> Score:
        """A score with its reward."""
        # Of the negative magnitude, where exp cannot overflow.
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
    """Of each view, without consistency."""


class ImageIn(_Closed):
    """One image to score."""

    image: str
    """A PNG, JPEG, WebP, BMP or TIFF file in base64."""
    id: str | None = Field(None, max_length=256)
    """Comes back with the score; its position when left out."""
    rainy: str | None = None
    """The rainy image it was made from, in base64; scorers that compare need it."""


class ImagesIn(_Closed):
    """Images to score."""

    images: tuple[ImageIn, ...] = Field(min_length=1)


class Problem(BaseModel):
    """An error as application/problem+json (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: tuple[Score, ...] | None = None
    """What is wrong with each image, where several were sent."""


@dataclass(frozen=True)
class ViewCall:
    """Views, of one image or of many, in one call."""

    views: NDArray[np.uint8]
    """uint8 M,S,S,3."""
    fingerprint: str | None = None
    """Of the scorer that the caller means; another one refuses."""


@dataclass(frozen=True)
class Answer:
    """Log-odds of what a call held, or why there are none."""

    fingerprint: str
    log_odds: NDArray[np.float32] | None = None
    """float32, one for each view or image, higher is better."""
    problem: str | None = None


def other_scorer(name: str, fingerprint: str, meant: str | None) -> str:
    """What to say where another scorer answers than the one that was meant."""
    return (
        f"the scorer here is {name} {fingerprint}, not {meant}, and scores of the two cannot be compared: "
        "start anew, or serve the former one again"
    )


def token_of_environment() -> SecretStr | None:
    """The token of RGSUD_SCORER_TOKEN, without the line's end that secrets often carry.

    Raises:
        ScorerError: it cannot be part of a header; the token itself is not told.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if token and not _TOKEN.fullmatch(token):
        raise ScorerError(f"{TOKEN_VARIABLE} must be printable ASCII without spaces: give another token")
    return SecretStr(token) if token else None


class ServiceSettings(_Closed):
    """The scorer as a service."""

    scorer: str = "local:daclip-lite"
    """Which scorer, as :func:`iqa_service.scorers.backends.open_scorer` takes it."""
    device: str | None = None
    """`cpu` or `cuda`, if the scorer's string does not say."""
    precision: str | None = None
    """`float32` or `bfloat16`, if the scorer's string does not say."""
    replicas: int = Field(1, ge=1)
    """Copies of the scorer; the least of them where `max_replicas` lets their number rise."""
    max_replicas: int | None = Field(None, ge=1)
    """Copies under load; none leaves their number fixed."""
    target_ongoing_requests: float = Field(4.0, gt=0)
    """Calls in a copy's hands above which another one is started; about two batches' worth."""
    cpus: float = Field(1.0, ge=0)
    """Cores that Ray sets aside for each copy."""
    threads: int | None = Field(None, ge=1)
    """Threads of each copy; as many as its cores when left out."""
    gpus: float = Field(0.0, ge=0)
    """GPUs, or a share of one, for each copy."""
    batch_views: int = Field(64, ge=1)
    """Views scored at once, over all callers."""
    batch_wait_seconds: float = Field(0.004, ge=0)
    """How long the first call of a batch waits for more to join it."""
    max_ongoing_requests: int = Field(32, ge=1)
    """Calls in a copy's hands at once; more wait with the caller."""
    max_queued_requests: int = Field(64, ge=1)
    """Calls that may wait with each caller; past it they are refused and told when to come back."""
    retry_after_seconds: float = Field(1.0, gt=0)
    """When to come back after a refusal."""
    timeout_seconds: float = Field(60.0, gt=0)
    """How long an HTTP request may take."""
    http: bool = True
    """Also answer over HTTP; callers in the same Ray cluster need none."""
    max_body_bytes: int = Field(32 << 20, ge=1)
    """Largest body of a request."""
    max_pixels: int = Field(40_000_000, ge=1)
    """Most pixels of an image, read from its header before it is decoded."""
    max_images: int = Field(64, ge=1)
    """Most images of a request."""
    token: SecretStr | None = None
    """What HTTP callers must present; that of RGSUD_SCORER_TOKEN when left out, none where that is unset."""

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    hint = nearest(str(key), cls.model_fields)
                    raise ValueError(f"unknown setting '{key}' of the scorer's service: {hint}")
        return values

    @field_validator("token")
    @classmethod
    def _fits_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not _TOKEN.fullmatch(token.get_secret_value()):
            raise ValueError("the token must be printable ASCII without spaces: give another one")
        return token

    @model_validator(mode="after")
    def _bounds_in_order(self) -> ServiceSettings:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below replicas {self.replicas}: raise it")
        return self

    @property
    def views_at_once(self) -> int:
        """Views of 224 pixels, the largest there are, that one call may hold: its body has a limit too."""
        return max(1, min(self.batch_views, self.max_body_bytes // (3 * 224 * 224)))

    @property
    def spec(self) -> str:
        """The scorer's string with device and precision."""
        extra = [f"{key}={value}" for key in ("device", "precision") if (value := getattr(self, key))]
        return self.scorer + ("&" if "?" in self.scorer else "?") * bool(extra) + "&".join(extra)

"""A scorer that runs elsewhere: its description, the calls that it takes, and a backend over them.

The views of an image are cut here and sent in batches; a scorer that needs whole images gets those. Scores
and fingerprint are those of the same scorer in this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from iqa_service.errors import ScorerError
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.consistency import ConsistentBackend
from iqa_service.scorers.views import Views
from rgsud_core.images import Image

_CALLS_AT_ONCE = 4
"""Concurrent calls of one caller: enough that the scorer always has the next batch, few enough to leave room
for others."""


class ScorerInfo(BaseModel):
    """A scorer as its service presents it."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
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
        },
    )

    name: str
    fingerprint: str
    """Scores with different fingerprints must never be compared."""
    words: tuple[str, ...] = ()
    """Degradations that the scorer distinguishes, if it is a DA-CLIP."""
    degraded: tuple[str, ...] = ()
    """The subset of the words that counts against an image."""
    views: Views | None = None
    """The squares of an image that the scorer looks at; null if it needs whole images."""
    consistency: float = Field(0.0, ge=0)
    """Weight of the consistency with the rainy image in the log-odds; that image must then be given."""
    views_at_once: int = Field(64, ge=1)
    """Largest number of views in a call."""
    higher_is_better: Literal[True] = True
    log_odds_range: tuple[float | None, float | None] = (None, None)
    """Least and greatest log-odds; null is unbounded."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    """Least and greatest reward, sigmoid(log-odds)."""

    def refusal(self, call: ViewCall) -> str | None:
        """Why this scorer cannot score these views, or None if it can."""
        views = call.views
        if self.views is None:
            return f"{self.name} looks at whole images: send images, not views"
        if call.fingerprint not in (None, self.fingerprint):
            return _other_scorer(self.name, self.fingerprint, call.fingerprint)
        size = self.views.size
        if not isinstance(views, np.ndarray) or views.dtype != np.uint8 or views.shape[1:] != (size, size, 3):
            kind = f"{views.dtype} {views.shape}" if isinstance(views, np.ndarray) else type(views).__name__
            return f"{self.name} got views of {kind}, not uint8 (M, {size}, {size}, 3): cut them by its views"
        if not 1 <= len(views) <= self.views_at_once:
            return f"{self.name} got {len(views)} views in one call: send 1 to {self.views_at_once}"
        return None


@dataclass(frozen=True)
class ViewCall:
    """Views, of one image or of many, in one call."""

    views: Image
    """uint8 M,S,S,3."""
    fingerprint: str | None = None
    """Fingerprint of the scorer that the caller means; another scorer refuses the call."""


@dataclass(frozen=True)
class Answer:
    """Log-odds of the views or images of a call, or why there are none."""

    fingerprint: str
    log_odds: NDArray[np.float32] | None = None
    """float32, one for each view or image, higher is better."""
    problem: str | None = None


class Transport(Protocol):
    """A connection to a scoring service. Its calls raise ScorerBusy, ScorerAway and ScorerError."""

    def info(self) -> ScorerInfo:
        """What is served."""
        ...

    def score_views(self, call: ViewCall) -> Answer:
        """The log-odds of each view."""
        ...

    def score_images(self, candidates: Sequence[Candidate]) -> Answer:
        """The log-odds of whole candidates."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class RemoteBackend(ScoreBackend):
    """A scorer behind a transport; its own consistency is left to :func:`connect`."""

    def __init__(self, transport: Transport, info: ScorerInfo) -> None:
        self.name, self.fingerprint, self.views = info.name, info.fingerprint, info.views
        self.words, self.degraded = info.words, info.degraded
        self._transport = transport
        self._views_at_once = info.views_at_once
        self._callers = ThreadPoolExecutor(_CALLS_AT_ONCE, "scorer-call")

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """See :meth:`ScoreBackend.score`.

        Raises:
            ScorerBusy: the service has no room; the error has the time after which to retry.
        """
        if self.views is not None or not candidates:
            return super().score(candidates)
        return self._log_odds(self._transport.score_images(candidates), len(candidates))

    def score_views(self, views: Image) -> NDArray[np.float32]:
        """See :meth:`ScoreBackend.score_views`; in several concurrent calls where one cannot hold all.

        Raises:
            ScorerBusy: the service has no room; the error has the time after which to retry.
        """
        parts = np.split(views, range(self._views_at_once, len(views), self._views_at_once))
        run = self._callers.map if len(parts) > 1 else map
        return np.concatenate(list(run(self._score_part, parts)))

    def close(self) -> None:
        """Wait for the calls that are under way and close the connection."""
        self._callers.shutdown()
        self._transport.close()

    def _score_part(self, views: Image) -> NDArray[np.float32]:
        return self._log_odds(self._transport.score_views(ViewCall(views, self.fingerprint)), len(views))

    def _log_odds(self, answer: Answer, count: int) -> NDArray[np.float32]:
        if answer.fingerprint != self.fingerprint:
            raise ScorerError(_other_scorer(self.name, answer.fingerprint, self.fingerprint))
        if answer.log_odds is None:
            raise ScorerError(
                answer.problem or "the scorer's service refused and gave no reason: see its log"
            )
        if len(answer.log_odds) != count:
            raise ScorerError(
                f"the scorer's service gave {len(answer.log_odds)} scores for {count}: "
                "install its version here"
            )
        return answer.log_odds


def connect(transport: Transport, info: ScorerInfo) -> ScoreBackend:
    """The scorer behind a transport; the consistency of one that takes views is added here."""
    backend = RemoteBackend(transport, info)
    if info.views is None or not info.consistency:
        return backend
    consistent = ConsistentBackend(backend, info.consistency)
    consistent.fingerprint = info.fingerprint  # that of the service, which includes the consistency already
    return consistent


def _other_scorer(name: str, fingerprint: str, meant: str | None) -> str:
    return (
        f"the scorer here is {name} {fingerprint}, not {meant}, and scores of the two cannot be compared: "
        "start anew, or serve the former one again"
    )

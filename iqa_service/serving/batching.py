"""The scorer as a service, without Ray: checks calls, merges them, and answers each by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from iqa_service.errors import ScorerError
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.remote import Answer, ScorerInfo, ViewCall


class ScoringService:
    """Scores the views of several callers at once; one bad call never fails its neighbours.

    Args:
        backend: the scorer. Callers may send views if it has any, and whole images to every scorer.
        views_at_once: largest number of views in a call.
    """

    def __init__(self, backend: ScoreBackend, views_at_once: int = 64) -> None:
        self._backend = backend
        self._info = ScorerInfo(
            name=backend.name,
            fingerprint=backend.fingerprint,
            words=backend.words,
            degraded=backend.degraded,
            views=backend.views,
            consistency=0.0 if backend.views is None else backend.consistency,
            views_at_once=views_at_once,
        )

    def info(self) -> ScorerInfo:
        """What is served."""
        return self._info

    def score_views(self, call: ViewCall) -> Answer:
        """The log-odds of each view, or why there are none."""
        return self.score_calls([call])[0]

    def score_calls(self, calls: Sequence[ViewCall]) -> list[Answer]:
        """:meth:`score_views` of several callers in one batch."""
        problems = [self._info.refusal(call) for call in calls]
        good = iter(self._score([call for call, no in zip(calls, problems, strict=True) if no is None]))
        return [next(good) if problem is None else self._refused(problem) for problem in problems]

    def score_images(self, candidates: Sequence[Candidate]) -> Answer:
        """The log-odds of whole candidates, or why there are none."""
        try:
            return Answer(self._info.fingerprint, self._backend.score(candidates))
        except ScorerError as problem:
            return self._refused(str(problem))

    def close(self) -> None:
        """Close the scorer."""
        self._backend.close()

    def _score(self, calls: Sequence[ViewCall]) -> list[Answer]:
        if not calls:
            return []
        try:
            # A copy even of one call: arrays from Ray are read-only, which torch does not take.
            odds = self._backend.score_views(np.concatenate([call.views for call in calls]))
        except ScorerError as problem:
            if len(calls) == 1:
                return [self._refused(str(problem))]
            # Score the calls one by one, so that only the one that fails is refused.
            return [answer for call in calls for answer in self._score([call])]
        ends = np.cumsum([len(call.views) for call in calls])[:-1]
        return [Answer(self._info.fingerprint, part) for part in np.split(odds, ends)]

    def _refused(self, problem: str) -> Answer:
        return Answer(self._info.fingerprint, problem=problem)

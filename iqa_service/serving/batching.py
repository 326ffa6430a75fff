"""The scorer as a service, without Ray: checks calls, merges them, and answers each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from iqa_service.errors import ScorerError
from iqa_service.scorers.backends import LocalBackend, ScoreBackend
from iqa_service.scorers.base import Candidate, DaclipScorer
from iqa_service.scorers.consistency import ConsistentBackend
from iqa_service.serving.schemas import Answer, ScorerInfo, ViewCall


class ScoringService:
    """Scores the views of several callers at once; one bad call never fails its neighbours.

    Args:
        backend: what scores. Callers may send views where it is a :class:`LocalBackend` (or one that is held
            to the rainy image: they do that themselves), and whole images anywhere.
        views_at_once: views that a call may hold.
    """

    def __init__(self, backend: ScoreBackend, views_at_once: int = 64) -> None:
        self._backend = backend
        consistent = backend if isinstance(backend, ConsistentBackend) else None
        base = consistent.backend if consistent else backend
        self._scorer = base.scorer if isinstance(base, LocalBackend) else None
        self._info = ScorerInfo(
            name=backend.name, fingerprint=backend.fingerprint, views_at_once=views_at_once
        )
        if self._scorer is not None:
            seen: dict[str, Any] = {
                "views": self._scorer.geometry,
                "consistency": consistent.consistency if consistent else 0.0,
            }
            if isinstance(self._scorer, DaclipScorer):
                seen |= {"words": self._scorer.rule.words, "degraded": self._scorer.rule.degraded}
            self._info = self._info.model_copy(update=seen)

    def info(self) -> ScorerInfo:
        """What is served."""
        return self._info

    def score_views(self, call: ViewCall) -> Answer:
        """The log-odds of each view, or why there are none."""
        return self.score_calls([call])[0]

    def score_calls(self, calls: Sequence[ViewCall]) -> list[Answer]:
        """Several callers' :meth:`score_views` in one batch."""
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
        """Let go of the backend."""
        self._backend.close()

    def _score(self, calls: Sequence[ViewCall]) -> list[Answer]:
        if not calls:
            return []
        assert self._scorer is not None
        try:
            # A copy even of one call: what came by Ray is read-only, which torch does not take.
            odds = self._scorer.score(np.concatenate([call.views for call in calls])[:, None])
        except ScorerError as problem:
            if len(calls) == 1:
                return [self._refused(str(problem))]
            # Whichever call it was, the others shall have their scores.
            return [answer for call in calls for answer in self._score([call])]
        ends = np.cumsum([len(call.views) for call in calls])[:-1]
        return [Answer(self._info.fingerprint, part) for part in np.split(odds, ends)]

    def _refused(self, problem: str) -> Answer:
        return Answer(self._info.fingerprint, problem=problem)

"""Handling of HTTP requests: decode images, call the scorer, count."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import prometheus_client

from iqa_service.errors import ScorerAway, ScorerBusy, ScorerError
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.remote import ScorerInfo, Transport, ViewCall, connect
from iqa_service.serving.decoding import decode, pixels_of
from iqa_service.serving.schemas import Score, Scores, ViewScores
from iqa_service.serving.settings import ServiceSettings
from iqa_service.serving.uploads import Upload
from rgsud_core.http.limits import PixelBudget
from rgsud_core.http.problems import Problem

_T = TypeVar("_T")
_THREADS = 32
"""Requests that wait for the scorer at the same time."""
_GROUP = 16
"""Largest number of images that are decoded and scored together."""


class Metrics:
    """Prometheus metrics of one process of the interface."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self.images = prometheus_client.Counter(
            "rgsud_scorer_images", "Images by result.", ["result"], registry=self.registry
        )
        self.views = prometheus_client.Counter(
            "rgsud_scorer_views", "Views scored that the caller had cut.", registry=self.registry
        )
        self.scorer = prometheus_client.Info("rgsud_scorer", "Which scorer answers.", registry=self.registry)


class RequestHandler:
    """Decodes requests and calls the scorer, in threads that wait for it.

    Args:
        transport: connection to the scorer.
        settings: limits.
        metrics: counts images and views.
    """

    def __init__(self, transport: Transport, settings: ServiceSettings, metrics: Metrics) -> None:
        self._transport = transport
        self._limit = settings.max_pixels
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(_THREADS, "request")
        self._room = PixelBudget(4 * settings.max_pixels)
        self._connecting = threading.Lock()
        self._scorer: tuple[ScorerInfo, ScoreBackend] | None = None

    async def in_thread(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """Run blocking work in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(work, *arguments))

    def info(self) -> ScorerInfo:
        """What is served now."""
        info = self._transport.info()
        self._metrics.scorer.info({"name": info.name, "fingerprint": info.fingerprint})
        return info

    def score_views(self, body: bytes, fingerprint: str | None) -> ViewScores:
        """The log-odds of views, uint8 M,S,S,3 as bytes.

        Raises:
            Problem: 409 for the views of another scorer, 422 for anything that is no view of this one.
        """
        info, _ = self._connected()
        size = info.views.size if info.views else 1
        if not body or len(body) % (size * size * 3):
            raise Problem(422, f"{len(body)} bytes are no whole number of views of {size} x {size} x 3")
        call = ViewCall(np.frombuffer(body, np.uint8).reshape(-1, size, size, 3), fingerprint)
        if (refusal := info.refusal(call)) is not None:
            raise Problem(409 if fingerprint not in (None, info.fingerprint) else 422, refusal)
        answer = self._transport.score_views(call)
        if answer.log_odds is None:
            raise ScorerError(answer.problem)
        self._metrics.views.inc(len(call.views))
        return ViewScores(fingerprint=answer.fingerprint, log_odds=tuple(answer.log_odds.tolist()))

    def score_images(self, uploads: Sequence[Upload]) -> Scores:
        """A score for each image, or what is wrong with it.

        Raises:
            Problem: 413 or 422, if no image could be scored.
        """
        _, backend = self._connected()
        scores: dict[int, Score] = {}
        statuses: set[int] = set()

        def refuse(index: int, problem: str, status: int = 422) -> None:
            scores[index] = Score(id=uploads[index].id, error=problem)
            statuses.add(status)

        pixels: dict[int, int] = {}
        for index, upload in enumerate(uploads):
            try:
                pixels[index] = sum(pixels_of(side, self._limit) for side in upload.sides)
            except Problem as problem:
                refuse(index, problem.detail, problem.status_code)
        for group in self._groups(pixels):
            with self._room.hold(sum(pixels[index] for index in group)):
                candidates: dict[int, Candidate] = {}
                for index in group:
                    try:
                        candidates[index] = Candidate(uploads[index].id, *map(decode, uploads[index].sides))
                    except Problem as problem:
                        refuse(index, problem.detail, problem.status_code)
                for index, result in zip(candidates, _score(backend, list(candidates.values())), strict=True):
                    if isinstance(result, str):
                        refuse(index, result)
                    else:
                        scores[index] = Score.of(uploads[index].id, result)
        ordered = tuple(scores[index] for index in range(len(uploads)))
        refused = sum(score.error is not None for score in ordered)
        self._metrics.images.labels("refused").inc(refused)
        self._metrics.images.labels("scored").inc(len(ordered) - refused)
        if refused == len(ordered):
            status = statuses.pop() if len(statuses) == 1 else 422
            detail = ordered[0].error if refused == 1 else f"none of the {refused} images could be scored"
            shown = [score.model_dump(exclude_none=True) for score in ordered]
            raise Problem(status, detail or "", errors=shown)
        return Scores(scorer=backend.name, fingerprint=backend.fingerprint, scores=ordered)

    def _groups(self, pixels: dict[int, int]) -> Iterator[list[int]]:
        group: list[int] = []
        for index, count in pixels.items():
            held = sum(pixels[other] for other in group)
            if group and (len(group) == _GROUP or held + count > self._limit):
                yield group
                group = []
            group.append(index)
        if group:
            yield group

    def _connected(self) -> tuple[ScorerInfo, ScoreBackend]:
        # Not at the start of the process: the scorer may need minutes to fetch its weights.
        with self._connecting:
            if self._scorer is None:
                info = self._transport.info()
                self._scorer = info, connect(self._transport, info)
            return self._scorer


def _score(backend: ScoreBackend, candidates: list[Candidate]) -> list[float | str]:
    """The log-odds of each candidate, or what is wrong with it; one never fails its neighbours."""
    if not candidates:
        return []
    try:
        return [*backend.score(candidates).tolist()]
    except (ScorerBusy, ScorerAway):
        raise
    except ScorerError as problem:
        if len(candidates) == 1:
            return [str(problem)]
        return [result for candidate in candidates for result in _score(backend, [candidate])]

"""Recycling: good derained results of the moment are scored and offered to the reward pool."""

from __future__ import annotations

import random
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from iqa_service.errors import ScorerBusy, ScorerError
from iqa_service.scorers.base import Candidate, ScoreBackend
from pool_store.client import Pool, offer_images
from pool_store.engine.images import digest_of, several
from pool_store.errors import PoolError
from pool_store.schemas import Lineage, Offer
from trainer.recycling.candidate_log import CandidateLog

_TRIES = 5
"""Attempts to score a batch while the scorer is full; the queue fills meanwhile, and drops its oldest."""
_LONGEST_WAIT_SECONDS = 5.0
"""Longest pause before the next attempt, whatever the scorer requests: candidates grow stale."""


@dataclass
class Recycled:
    """What became of the candidates so far."""

    scored: int = 0
    replaced: int = 0
    dropped: int = 0
    """Candidates dropped because the queue was full."""
    lost: int = 0
    """Candidates lost because the scorer or the pool failed, or the scorer stayed full."""


class Recycler:
    """Scores candidates and offers them, in a thread of its own or within the call.

    Args:
        scorer: grades candidates.
        pool: keeps the best.
        queue: candidates that may wait; when it is full the oldest is dropped.
        batch: candidates scored at once.
        synchronous: score and offer within :meth:`submit`, and propagate errors.
        record: where every candidate is written, whether it is scored in the end or not.
        sources: put the rainy image beside its reward, once a run, for people to compare.
    """

    def __init__(
        self,
        scorer: ScoreBackend,
        pool: Pool,
        *,
        queue: int = 16,
        batch: int = 8,
        synchronous: bool = False,
        record: CandidateLog | None = None,
        sources: bool = False,
    ) -> None:
        self.counts = Recycled()
        self.problem: str | None = None
        """Why candidates are being lost at the moment, if they are."""
        self._scorer = scorer
        self._pool = pool
        self._record = record
        self._sourced: set[str] | None = set() if sources else None
        self._waiting: deque[tuple[Candidate, Lineage]] = deque()
        self._room = queue
        self._batch = batch
        self._in_hand = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        if not synchronous:
            self._thread = threading.Thread(target=self._work, name="recycler", daemon=True)
            self._thread.start()

    def submit(self, candidate: Candidate, lineage: Lineage) -> None:
        """Take one candidate: never waits, except when synchronous, and for the disk of a record."""
        if self._record is not None:
            self._record.add(candidate, lineage)
        if self._thread is None:
            self._recycle([(candidate, lineage)])
            return
        with self._changed:
            if len(self._waiting) >= self._room:
                self._waiting.popleft()
                self.counts.dropped += 1
            self._waiting.append((candidate, lineage))
            self._changed.notify_all()

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until every candidate taken so far is decided; False if ``timeout`` seconds are not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._in_hand, timeout)

    def close(self) -> None:
        """Decide what is waiting, then stop."""
        if self._thread is not None:
            self.flush()
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._thread.join(timeout=5)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                taken = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
                self._in_hand = len(taken)
            try:
                self._recycle_patiently(taken)
                self.problem = None
            except (ScorerError, PoolError) as problem:
                # A service that is down costs rewards, not the run.
                self._lose(taken, str(problem))
            except Exception as problem:  # nor does a scorer with a fault of its own
                self._lose(taken, f"{type(problem).__name__}: {problem}")
            finally:
                with self._changed:
                    self._in_hand = 0
                    self._changed.notify_all()

    def _lose(self, taken: list[tuple[Candidate, Lineage]], problem: str) -> None:
        self.counts.lost += len(taken)
        self.problem = problem
        self._pause(0.5)

    def _recycle_patiently(self, taken: list[tuple[Candidate, Lineage]]) -> None:
        for attempt in range(1, _TRIES + 1):
            try:
                self._recycle(taken)
                return
            except ScorerBusy as busy:
                if attempt == _TRIES or self._closing:
                    raise
                # Not all workers at the same moment.
                self._pause(min(busy.retry_after * random.uniform(1, 1.5), _LONGEST_WAIT_SECONDS))

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)

    def _recycle(self, taken: list[tuple[Candidate, Lineage]]) -> None:
        scores = np.asarray(self._scorer.score([candidate for candidate, _ in taken]), np.float64)
        self.counts.scored += len(taken)
        if self._record is not None:
            for (candidate, lineage), log_odds in zip(taken, scores.tolist(), strict=True):
                self._record.scored(candidate, lineage, log_odds)
        digests = several(digest_of, [candidate.image for candidate, _ in taken])
        offers = [
            Offer(
                id=candidate.id,
                log_odds=log_odds,
                fingerprint=self._scorer.fingerprint,
                digest=digest,
                lineage=lineage,
            )
            for (candidate, lineage), log_odds, digest in zip(taken, scores.tolist(), digests, strict=True)
        ]
        images = {digest: candidate.image for (candidate, _), digest in zip(taken, digests, strict=True)}
        decisions = offer_images(self._pool, offers, images.__getitem__)
        self.counts.replaced += sum(decision.status == "replaced" for decision in decisions)
        self._put_sources([candidate for candidate, _ in taken])

    def _put_sources(self, candidates: list[Candidate]) -> None:
        for candidate in candidates:
            if self._sourced is None or candidate.rainy is None or candidate.id in self._sourced:
                continue
            self._pool.put_source(candidate.id, candidate.rainy)
            self._sourced.add(candidate.id)

"""Questions to the reward pool that a training step asks but does not wait for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from pool_store.client import Pool
from pool_store.errors import PoolError
from pool_store.schemas import Stats

T = TypeVar("T")
PATIENCE_SECONDS = 0.5
"""A pool that is well answers in milliseconds."""
SILENT = "the pool does not answer: see to its service"
"""What is the matter with one that has taken longer."""


class Aside:
    """Asks the pool in a thread. While it does not answer, training goes on with what was known.

    Args:
        pool: the one to ask; nobody else needs to be kept from it.
        waits: wait for every answer, and let the pool's errors through, as a reproducible run must.
    """

    def __init__(self, pool: Pool, *, waits: bool = False) -> None:
        self.problem: str | None = None
        """Why there is no answer at the moment, if there is none."""
        self._pool = pool
        self._thread = None if waits else ThreadPoolExecutor(1, "pool")
        self._unanswered: Future[Any] | None = None
        self._sweeper = ThreadPoolExecutor(1, "sweep")
        self._sweeping: Future[None] | None = None
        self._stats: Stats | None = None

    def ask(self, question: Callable[[Pool], T], otherwise: T) -> T:
        """The pool's answer; ``otherwise`` where it fails, or takes longer than half a second."""
        if self._thread is None:
            return question(self._pool)
        if self._unanswered is not None and not self._unanswered.done():
            return otherwise
        self._unanswered = self._thread.submit(question, self._pool)
        try:
            answer: T = self._unanswered.result(PATIENCE_SECONDS)
        except TimeoutError:
            self.problem = SILENT
            return otherwise
        except PoolError as problem:
            self.problem = str(problem)
            return otherwise
        self.problem = None
        return answer

    def stats(self) -> Stats | None:
        """The pool in figures, the last ones known while it does not answer; None where there never were."""
        self._stats = self.ask(lambda pool: pool.stats(), self._stats)
        return self._stats

    def sweep(self, grace_seconds: float) -> None:
        """Let the images go that nothing has referred to for so long, beside the training: a large pool takes
        its time. Another time where the pool is away, or the last sweep still under way."""
        if self._thread is None:
            self._pool.sweep(grace_seconds)
        elif self._sweeping is None or self._sweeping.done():
            self._sweeping = self._sweeper.submit(self._sweep, grace_seconds)

    def _sweep(self, grace_seconds: float) -> None:
        with suppress(PoolError):  # the questions tell of a pool that is away
            self._pool.sweep(grace_seconds)

    def close(self) -> None:
        """Wait for no answer any more."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
        self._sweeper.shutdown(wait=False, cancel_futures=True)

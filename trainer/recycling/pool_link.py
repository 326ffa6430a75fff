"""Non-blocking access to the reward pool: queries run in a thread, with half a second for a result."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from pool_store.client import Pool
from pool_store.errors import PoolError
from pool_store.schemas import Stats

T = TypeVar("T")
_PATIENCE_SECONDS = 0.5
"""The pool usually answers within milliseconds."""
_SILENT = "the pool does not answer: check its service"


class Queries:
    """Queries of the pool, one at a time, in a thread of their own.

    Args:
        name: name of the thread.
        blocking: run every query within the call, and propagate the pool's errors.
    """

    def __init__(self, name: str, *, blocking: bool = False) -> None:
        self.blocking = blocking
        self.problem: str | None = None
        """Why the last query has no result, or None."""
        self._thread = ThreadPoolExecutor(1, name)
        self._running: Future[Any] | None = None

    def ask(self, query: Callable[[], T], default: T) -> T:
        """The result of a query; ``default`` if it fails, takes too long, or the last one still runs."""
        if self.blocking:
            return query()
        return self.result(default) if self.start(query) else default

    def start(self, query: Callable[[], object]) -> bool:
        """Start a query in the thread, unless the last one still runs: then False."""
        if self._running is not None and not self._running.done():
            return False
        self._running = self._thread.submit(query)
        return True

    def result(self, default: T) -> T:
        """The result of the query that was started; ``default`` if it fails, or takes half a second more."""
        assert self._running is not None
        try:
            result: T = self._running.result(_PATIENCE_SECONDS)
        except TimeoutError:
            self.problem = _SILENT
            return default
        except PoolError as problem:
            self.problem = str(problem)
            return default
        self.problem = None
        return result

    def close(self) -> None:
        """Start no more queries, and wait for none."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class PoolLink:
    """The reward pool as a training step uses it: while it does not answer, the last known figures are used.

    Args:
        pool: the reward pool; may be shared with other threads.
        blocking: wait for every answer and propagate the pool's errors, as a reproducible run must.
    """

    def __init__(self, pool: Pool, *, blocking: bool = False) -> None:
        self._pool = pool
        self._queries = Queries("pool", blocking=blocking)
        self._sweeps = Queries("sweep", blocking=blocking)
        self._stats: Stats | None = None

    @property
    def problem(self) -> str | None:
        """Why the pool does not answer, or None."""
        return self._queries.problem

    def ask(self, query: Callable[[Pool], T], default: T) -> T:
        """The pool's answer; ``default`` if it fails, or takes longer than half a second."""
        return self._queries.ask(lambda: query(self._pool), default)

    def stats(self) -> Stats | None:
        """The pool's figures, the last known ones if it does not answer; None if there never were any."""
        self._stats = self.ask(lambda pool: pool.stats(), self._stats)
        return self._stats

    def sweep(self, grace_seconds: float) -> None:
        """Delete images that nothing has referred to for so long, in a thread: a large pool takes its time.

        Does nothing while the last sweep still runs; a failure of the pool is reported by the queries.
        """
        if self._sweeps.blocking:
            self._pool.sweep(grace_seconds)
        else:
            self._sweeps.start(lambda: self._pool.sweep(grace_seconds))

    def close(self) -> None:
        """Stop without waiting for running queries."""
        self._queries.close()
        self._sweeps.close()

"""Batches in their order, with a look at the next one."""

from __future__ import annotations

import time
from collections.abc import Iterator

from trainer.batch import Batch


class Loader(Iterator[Batch]):
    """Batches, with a look ahead at the next one, whose rewards are read during a step."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.upcoming = next(batches)
        """The batch that comes next."""
        self.waited = 0.0
        """Seconds that the last call of ``next`` took."""

    def __next__(self) -> Batch:
        started = time.perf_counter()
        batch, self.upcoming = self.upcoming, next(self._batches)
        self.waited = time.perf_counter() - started
        return batch

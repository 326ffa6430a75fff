"""Rewards for stage 2: the crops of B_rw that belong to the crops of O_r."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pool_store.client import Pool
from pool_store.errors import PoolError
from trainer.batch import Crop
from trainer.recycling.pool_link import PATIENCE_SECONDS, SILENT

Combination = Literal["best", "mean", "minimum"]
"""Of the candidates that the pool keeps of an image."""
_Rewards = dict[str, NDArray[Any]]


def combine(candidates: Sequence[NDArray[np.uint8]], how: Combination) -> NDArray[Any]:
    """What stands for the candidates of an image, uint8 H,W,3 each, best first: H,W,3 in [0,255]."""
    if how == "best" or len(candidates) == 1:
        return candidates[0]
    stack = np.stack(candidates)
    combined: NDArray[Any] = stack.mean(axis=0, dtype=np.float32) if how == "mean" else stack.min(axis=0)
    return combined


class RewardReader:
    """Cuts rewards with the boxes of the rainy crops.

    The pool is asked at every batch which candidates an image has now (a few hundred bytes), so a replaced
    reward is noticed at once; the image itself is read only when that answer has changed. A thread reads the
    rewards of the next batch during a step; while the pool does not answer, those in memory stand in.

    Args:
        pool: where the rewards are.
        reward: the best candidate of an image, or the mean or the pixelwise minimum of those that are kept.
        cache_bytes: decoded rewards held in memory; the least recently used goes first.
        waits: read within the call, and let the pool's errors through, as a reproducible run must.
    """

    def __init__(self, pool: Pool, reward: Combination, cache_bytes: int, *, waits: bool = False) -> None:
        self.problem: str | None = None
        """Why rewards cannot be read at the moment, if they cannot."""
        self._pool = pool
        self._reward = reward
        self._room = cache_bytes
        self._cache: OrderedDict[str, tuple[tuple[str, ...], NDArray[Any]]] = OrderedDict()
        self._lock = threading.Lock()
        self._thread = None if waits else ThreadPoolExecutor(1, "rewards")
        self._asked: tuple[str, ...] = ()
        self._reading: Future[_Rewards] | None = None

    def prepare(self, crops: Sequence[Crop]) -> None:
        """Start to read what :meth:`crops` will be asked for next."""
        if self._thread is not None and (self._reading is None or self._reading.done()):
            self._asked = tuple(crop.id for crop in crops)
            self._reading = self._thread.submit(self._read, self._asked)

    def crops(self, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        """B_rw N,3,c,c in [0,1], zero where there is none yet, and which exist: bool N."""
        found = self._found(crops)
        rewards = np.zeros((len(crops), crops[0].size, crops[0].size, 3), np.float32)
        exists = torch.zeros(len(crops), dtype=torch.bool)
        for index, crop in enumerate(crops):
            if crop.id in found:
                rewards[index] = crop.cut(found[crop.id])
                exists[index] = True
        return torch.from_numpy(rewards).permute(0, 3, 1, 2).div_(255), exists

    def close(self) -> None:
        """Read no more."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _found(self, crops: Sequence[Crop]) -> _Rewards:
        ids = tuple(crop.id for crop in crops)
        if self._thread is None:
            return self._read(ids)
        if self._asked != ids:
            self.prepare(crops)
        if self._asked == ids and self._reading is not None:
            self._asked = ()  # who asks again wants to know anew
            try:
                found = self._reading.result(PATIENCE_SECONDS)
            except TimeoutError:
                self.problem = SILENT
            except PoolError as problem:
                self.problem = str(problem)
            else:
                self.problem = None
                return found
        with self._lock:
            return {id: self._cache[id][1] for id in ids if id in self._cache}

    def _read(self, ids: Sequence[str]) -> _Rewards:
        entries = self._pool.entries(ids)
        found = {}
        for id, entry in entries.items():
            kept = entry.candidates[:1] if self._reward == "best" else entry.candidates
            found[id] = self._image(id, tuple(candidate.digest for candidate in kept))
        return found

    def _image(self, id: str, digests: tuple[str, ...]) -> NDArray[Any]:
        with self._lock:
            cached = self._cache.get(id)
            if cached is not None and cached[0] == digests:
                self._cache.move_to_end(id)
                return cached[1]
        image = combine([self._pool.image(digest) for digest in digests], self._reward)
        with self._lock:
            self._cache[id] = (digests, image)
            self._cache.move_to_end(id)
            while len(self._cache) > 1 and sum(held.nbytes for _, held in self._cache.values()) > self._room:
                self._cache.popitem(last=False)
        return image

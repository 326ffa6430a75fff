"""Rewards for stage 2: the crops of B_rw that belong to the crops of O_r."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pool_store.client import Pool
from trainer.batch import Crop
from trainer.recycling.pool_link import Queries

Combination = Literal["best", "mean", "minimum"]
"""How the candidates that the pool keeps of an image become one reward."""
_Rewards = dict[str, NDArray[Any]]


def combine(candidates: Sequence[NDArray[np.uint8]], how: Combination) -> NDArray[Any]:
    """One reward from the candidates of an image, uint8 H,W,3 each, best first: H,W,3 in [0,255]."""
    if how == "best" or len(candidates) == 1:
        return candidates[0]
    stack = np.stack(candidates)
    combined: NDArray[Any] = stack.mean(axis=0, dtype=np.float32) if how == "mean" else stack.min(axis=0)
    return combined


class RewardReader:
    """Reads rewards, and cuts them with the boxes of the rainy crops.

    Every batch queries which candidates its images have now (a few hundred bytes), so a replaced reward is
    noticed at once; an image is read only when that answer has changed. A thread reads the rewards of the
    next batch during a step; while the pool does not answer, the rewards in memory are used.

    Args:
        pool: where the rewards are.
        reward: the best candidate of an image, or the mean or the pixelwise minimum of its kept candidates.
        cache_bytes: decoded rewards held in memory; the least recently used goes first.
        blocking: read within the call and propagate the pool's errors, as a reproducible run must.
    """

    def __init__(self, pool: Pool, reward: Combination, cache_bytes: int, *, blocking: bool = False) -> None:
        self._pool = pool
        self._reward = reward
        self._room = cache_bytes
        self._cache: OrderedDict[str, tuple[tuple[str, ...], NDArray[Any]]] = OrderedDict()
        self._lock = threading.Lock()
        self._queries = Queries("rewards", blocking=blocking)
        self._prepared: tuple[str, ...] = ()

    @property
    def problem(self) -> str | None:
        """Why rewards cannot be read at the moment, or None."""
        return self._queries.problem

    def prepare(self, crops: Sequence[Crop]) -> None:
        """Start to read the rewards of the next batch, for the next call of :meth:`crops`."""
        ids = tuple(crop.id for crop in crops)
        if not self._queries.blocking and self._queries.start(lambda: self._read(ids)):
            self._prepared = ids

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
        self._queries.close()

    def _found(self, crops: Sequence[Crop]) -> _Rewards:
        ids = tuple(crop.id for crop in crops)
        if self._queries.blocking:
            return self._read(ids)
        if self._prepared != ids:
            self.prepare(crops)
        if self._prepared == ids:
            self._prepared = ()  # the same crops again may have other rewards by then
            found: _Rewards | None = self._queries.result(None)
            if found is not None:
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

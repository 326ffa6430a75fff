"""Rewards for stage 2: the crops of B_rw that belong to the crops of O_r."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pool_store.client import Pool
from trainer.data.crops import Crop


class RewardReader:
    """Cuts rewards with the boxes of the rainy crops.

    The pool is asked at every batch which candidates an image has now (a few hundred bytes), so a replaced
    reward is noticed at once; the image itself is read only when that answer has changed.

    Args:
        pool: where the rewards are.
        reward: the best candidate of an image, or the mean of those that the pool keeps.
        cache_bytes: decoded rewards held in memory; the least recently used goes first.
    """

    def __init__(self, pool: Pool, reward: Literal["best", "mean"], cache_bytes: int) -> None:
        self._pool = pool
        self._reward = reward
        self._room = cache_bytes
        self._cache: OrderedDict[str, tuple[tuple[str, ...], NDArray[Any]]] = OrderedDict()

    def crops(self, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        """B_rw N,3,c,c in [0,1], zero where there is none yet, and which exist: bool N."""
        entries = self._pool.entries([crop.id for crop in crops])
        rewards = np.zeros((len(crops), crops[0].size, crops[0].size, 3), np.float32)
        exists = torch.zeros(len(crops), dtype=torch.bool)
        for index, crop in enumerate(crops):
            entry = entries.get(crop.id)
            if entry is None or not entry.candidates:
                continue
            kept = entry.candidates[:1] if self._reward == "best" else entry.candidates
            rewards[index] = crop.cut(self._image(crop.id, tuple(c.digest for c in kept)))
            exists[index] = True
        return torch.from_numpy(rewards).permute(0, 3, 1, 2).div_(255), exists

    def _image(self, id: str, digests: tuple[str, ...]) -> NDArray[Any]:
        cached = self._cache.get(id)
        if cached is not None and cached[0] == digests:
            self._cache.move_to_end(id)
            return cached[1]
        image: NDArray[Any] = self._pool.image(digests[0])
        if len(digests) > 1:
            candidates = np.stack([self._pool.image(digest) for digest in digests])
            image = candidates.mean(axis=0, dtype=np.float32)
        self._cache[id] = (digests, image)
        self._cache.move_to_end(id)
        while len(self._cache) > 1 and sum(held.nbytes for _, held in self._cache.values()) > self._room:
            self._cache.popitem(last=False)
        return image

"""Small rainy photographs in memory."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from rgsud_core.images import Image


class Scenes:
    """Gradients, uint8 96,112,3, under vertical streaks; the last one is rough, and shows no rain."""

    root = Path("scenes")
    ids = [f"{number}.png" for number in range(4)]  # noqa: RUF012

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Image:
        return _scene(index, rough=index == len(self) - 1)


@cache
def _scene(index: int, rough: bool) -> Image:
    rng = np.random.default_rng(index)
    if rough:
        return rng.integers(0, 256, (96, 112, 3), np.uint8)
    image = np.linspace(40, 70, 96)[:, None, None] + np.zeros((96, 112, 3))
    for left, top in zip(rng.integers(0, 112, 30), rng.integers(0, 80, 30), strict=True):
        image[top : top + 16, left] += 60
    return image.astype(np.uint8)

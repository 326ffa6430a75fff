"""The rain of a folder's flat places, kept to be laid over clean crops."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rgsud_core.degradation.rain import RainModel
from rgsud_core.images import Image
from trainer.errors import TrainerError
from trainer.rain.search import LARGEST, STRIDE, Photographs, RainSearchSettings, find_rain, sample

_DRAW = 3


@dataclass(frozen=True)
class _Found:
    """Rain of the image number ``index``: uint8 H,W light, and N,2 corners of crops with enough of it."""

    index: int
    light: NDArray[np.uint8]
    corners: NDArray[np.intp]


class RainBank:
    """The rain of a folder's flat places, to be laid over clean crops.

    Args:
        rainy: where it is looked for. TrainerError where less is found than a crop needs.
        crop: side of the crops, pixels.
        seed: decides which images are searched and what is drawn.
        model: how the rain lies over the scene; of blended rain the opacity is kept.
    """

    def __init__(
        self,
        rainy: Photographs,
        settings: RainSearchSettings,
        *,
        crop: int,
        seed: int,
        model: RainModel = RainModel(),
    ) -> None:
        self.rainy, self.settings, self.crop, self.seed = rainy, settings, crop, seed
        self.model = model
        order = sample(len(rainy), settings.images, seed)
        self.searched = len(order)
        """Images that were looked at."""
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            searched = threads.map(self._search, order)
            self._found = [found for found in searched if len(found.corners)]
        self.ids = {rainy.ids[found.index] for found in self._found}
        """The images that rain was found in."""
        if not self._found:
            remedy = (
                "give `flat` larger below and chroma or a smaller coverage, or take rendered or unet instead"
            )
            if crop > LARGEST:
                remedy = f"take a data.crop of at most {LARGEST}, the part of an image that is searched"
            raise TrainerError(
                f"no flat place of {crop}x{crop} pixels was found in {self.searched} images of {rainy.root}: "
                f"{remedy}."
            )

    def _search(self, index: int) -> _Found:
        rain = find_rain(self._part(index), self.settings, self.model)
        if min(rain.found.shape) < self.crop:
            return _Found(index, np.empty((0, 0), np.uint8), np.empty((0, 2), np.intp))
        covered = F.avg_pool2d(torch.from_numpy(rain.found)[None], self.crop, STRIDE)[0].numpy()
        corners = STRIDE * np.argwhere(covered > self.settings.coverage)
        return _Found(index, np.rint(255 * rain.light).astype(np.uint8), corners)

    def _part(self, index: int) -> Image:
        return self.rainy.load(index)[:LARGEST, :LARGEST]

    def __len__(self) -> int:
        """Images that rain was found in."""
        return len(self._found)

    def examples(self, count: int) -> list[tuple[str, Image, Image]]:
        """Images with most rain found: id, the part searched, and its rain three times as bright."""
        most = sorted(self._found, key=lambda found: -len(found.corners))[:count]
        bright = [np.minimum(found.light.astype(np.uint16) * 3, 255).astype(np.uint8) for found in most]
        return [
            (self.rainy.ids[found.index], self._part(found.index), np.stack([light] * 3, axis=2))
            for found, light in zip(most, bright, strict=True)
        ]

    def draw(self, number: int, count: int) -> Tensor:
        """Rain for batch `number`, uint8 count,1,c,c: the same in every process and in any order of calls."""
        rng = np.random.default_rng((self.seed, _DRAW, number))
        return torch.from_numpy(np.stack([self._cut(rng) for _ in range(count)])[:, None])

    def _cut(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        found = self._found[rng.integers(len(self._found))]
        top, left = found.corners[rng.integers(len(found.corners))]
        rain = found.light[top : top + self.crop, left : left + self.crop]
        # Mirrored either way: a streak looks the same from below.
        return np.ascontiguousarray(rain[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))])

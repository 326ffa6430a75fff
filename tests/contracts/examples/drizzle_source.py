"""A source of rain in one file, by its import path: ``'method.sources=[drizzle_source:Drizzle]'``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rgsud_core.degradation.rain import RainModel
from trainer.batch import Crop
from trainer.methods.sources import Finding, Source, SourceSettings
from trainer.rain.search import Photographs


class DrizzleSettings(SourceSettings):
    """What it adds to the settings of every source."""

    drops: int = Field(40, ge=1)
    """Drops on each crop."""
    length: int = Field(6, ge=1)
    """Length of their traces, pixels."""


class Drizzle(Source):
    """Short vertical traces at random places."""

    Settings = DrizzleSettings
    settings: DrizzleSettings
    draws = True  # it brings rain with each batch; without, override `has` and `rain`

    def prepare(self, rainy: Photographs, crop: int, seed: int, model: RainModel) -> Iterator[Finding]:
        """Once, before training; what is yielded is logged."""
        self.crop, self.seed = crop, seed
        yield Finding(f"{self.settings.drops} drops fall on each crop")

    def draw(self, number: int, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        """Rain of batch ``number``, by this number alone, and which crops it is for: all of them."""
        rng = np.random.default_rng((self.seed, number))
        rain = np.zeros((len(crops), 1, self.crop, self.crop), np.uint8)
        for light in rain[:, 0]:
            tops, lefts = rng.integers(0, self.crop, (2, self.settings.drops))
            for top, left in zip(tops, lefts, strict=True):
                light[top : top + self.settings.length, left] = rng.integers(40, 160)
        return torch.from_numpy(rain), torch.ones(len(crops), dtype=torch.bool)

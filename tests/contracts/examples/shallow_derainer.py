"""A derainer in one file, by its import path: ``derainer=shallow_derainer:Shallow``, or with its size,
``'derainer={name: shallow_derainer:Shallow, channels: 24}'``."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trainer.kinds import PartSettings


class ShallowSettings(PartSettings):
    """Sizes of the network."""

    channels: int = Field(16, ge=1)
    """Channels between its convolutions, at half the resolution."""


class Shallow(nn.Module):
    """Three convolutions at half the resolution, whose result is added to the image.

    N,3,H,W in [0,1] -> the same; H and W have to divide by ``multiple``, to which images are padded.
    """

    Settings = ShallowSettings
    multiple = 2

    def __init__(self, settings: ShallowSettings) -> None:
        super().__init__()
        channels = settings.channels
        self.features = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
        )
        self.last = nn.Conv2d(channels, 12, 3, padding=1)

    def start_as_identity(self) -> None:
        """Make an untrained network return its input (optional)."""
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        residual: Tensor = F.pixel_shuffle(self.last(self.features(image)), 2)
        return image + residual

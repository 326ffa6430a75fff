"""DEM, the degradation extraction module: F(O) = O - clean(O)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rgsud_core.settings import Settings


class DEMSettings(Settings):
    """Sizes of DEM's U-Net."""

    width: int = 32
    """Channels at full resolution; doubled at each level."""
    levels: int = 3
    """Number of times that the resolution is halved."""


def _pair(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(c_out, c_out, 3, padding=1),
        nn.LeakyReLU(0.2),
    )


class DEM(nn.Module):
    """A U-Net that estimates the clean image, and the switch that replaces its estimate by a reward."""

    def __init__(self, settings: DEMSettings) -> None:
        super().__init__()
        widths = [settings.width << level for level in range(settings.levels + 1)]
        self.multiple = 1 << settings.levels
        self.down = nn.ModuleList(_pair(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(
            _pair(widths[level + 1] + widths[level], widths[level])
            for level in reversed(range(settings.levels))
        )
        self.ending = nn.Conv2d(settings.width, 3, 3, padding=1)
        nn.init.zeros_(self.ending.weight)
        assert self.ending.bias is not None
        nn.init.zeros_(self.ending.bias)

    def clean(self, image: Tensor) -> Tensor:
        """The clean features: N,3,H,W in [0,1] -> N,3,H,W. An untrained net returns its input."""
        height, width = image.shape[-2:]
        x = F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple))
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = block(torch.cat((F.interpolate(x, scale_factor=2.0), skips.pop()), dim=1))
        residual: Tensor = self.ending(x)
        return image + residual[..., :height, :width]

    def forward(self, image: Tensor, clean: Tensor | None = None) -> Tensor:
        """F = image - clean. N,3,H,W -> N,3,H,W.

        Args:
            image: rainy image in [0,1].
            clean: the switch: taken in place of the U-Net's estimate where given (a reward, in stage 2).
        """
        return image - (self.clean(image) if clean is None else clean)

"""NAFNet, the default derainer.

Chen et al., "Simple Baselines for Image Restoration", ECCV 2022, arXiv 2204.04676. Parameter names
are those of the published checkpoints, so these load strictly.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from trainer.kinds import PartSettings

Blocks = Annotated[int, Field(ge=0, le=1000)]


class NAFNetSettings(PartSettings):
    """Sizes of a NAFNet."""

    name: str = "nafnet"
    """Name of the derainer."""
    width: int = Field(32, ge=1, le=1024)
    """Channels at full resolution; doubled at each level."""
    encoder: tuple[Blocks, ...] = Field((2, 2, 4, 8), max_length=8)
    """Blocks per encoder level; its length is the number of levels."""
    middle: Blocks = 12
    """Blocks at the lowest resolution."""
    decoder: tuple[Blocks, ...] = Field((2, 2, 2, 2), max_length=8)
    """Blocks per decoder level, from the lowest resolution up."""
    surroundings: int | None = Field(None, ge=16)
    """Side, in pixels, of the surroundings whose means the channel attention sees, as large as the crops
    that were trained on; larger images have local means then (Chu et al., "Improving Image Restoration by
    Revisiting Global Information Aggregation", ECCV 2022). Default: means of the whole image."""

    @model_validator(mode="after")
    def _as_many_levels(self) -> NAFNetSettings:
        if len(self.encoder) != len(self.decoder):
            raise ValueError(
                f"encoder has {len(self.encoder)} levels and decoder {len(self.decoder)}: make them equal"
            )
        return self


PUBLISHED: dict[str, NAFNetSettings] = {
    "nafnet-32": NAFNetSettings(),
    "nafnet-64": NAFNetSettings(width=64),
    "nafnet-gopro-32": NAFNetSettings(encoder=(1, 1, 1, 28), middle=1, decoder=(1, 1, 1, 1)),
    "nafnet-gopro-64": NAFNetSettings(width=64, encoder=(1, 1, 1, 28), middle=1, decoder=(1, 1, 1, 1)),
    "nafnet-tiny": NAFNetSettings(width=16, encoder=(1, 1, 1, 2), middle=1, decoder=(1, 1, 1, 1)),
}


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of N,C,H,W, each pixel for itself."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # In channels_last memory this permutation is a view, and the fused kernel runs on it directly.
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


def simple_gate(x: Tensor) -> Tensor:
    """Product of the two halves of the channels: N,2C,H,W -> N,C,H,W."""
    a, b = x.chunk(2, dim=1)
    return a * b


class NAFBlock(nn.Module):
    """Gated depthwise convolution with channel attention, then a gated pointwise network."""

    def __init__(self, c: int, surroundings: int | None = None) -> None:
        super().__init__()
        self.surroundings = surroundings
        self.norm1 = LayerNorm2d(c)
        self.conv1 = nn.Conv2d(c, 2 * c, 1)
        self.conv2 = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        # Index 1 is the published name of the 1x1 convolution after the global pool.
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1))
        self.conv3 = nn.Conv2d(c, c, 1)
        self.norm2 = LayerNorm2d(c)
        self.conv4 = nn.Conv2d(c, 2 * c, 1)
        self.conv5 = nn.Conv2d(c, c, 1)
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = simple_gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.conv3(y * self._attention(y)) * self.beta
        y = simple_gate(self.conv4(self.norm2(x)))
        out: Tensor = x + self.conv5(y) * self.gamma
        return out

    def _attention(self, y: Tensor) -> Tensor:
        """Factors on the channels: N,C,1,1, or N,C,H,W where the image is larger than the surroundings."""
        side = self.surroundings
        if side is None or max(y.shape[-2:]) <= side:
            factors: Tensor = self.sca(y)
            return factors
        # Means of squares of a quarter of the side, four by four of which are the surroundings.
        means = F.avg_pool2d(y, max(1, side // 4), ceil_mode=True, count_include_pad=False)
        means = F.avg_pool2d(F.pad(means, (1, 2, 1, 2), mode="replicate"), 4, stride=1)
        return F.interpolate(self.sca[1](means), size=y.shape[-2:], mode="bilinear", align_corners=False)


class NAFNet(nn.Module):
    """U-shaped stack of NAF blocks that adds a residual to its input.

    Args:
        settings: sizes.
    """

    Settings = NAFNetSettings

    def __init__(self, settings: NAFNetSettings) -> None:
        super().__init__()
        sides = [
            None if settings.surroundings is None else max(4, settings.surroundings >> level)
            for level in range(len(settings.encoder) + 1)
        ]
        widths = [settings.width << level for level in range(len(settings.encoder) + 1)]
        self.multiple = 1 << len(settings.encoder)
        self.intro = nn.Conv2d(3, settings.width, 3, padding=1)
        self.ending = nn.Conv2d(settings.width, 3, 3, padding=1)
        self.encoders = nn.ModuleList(
            nn.Sequential(*(NAFBlock(c, side) for _ in range(blocks)))
            for c, side, blocks in zip(widths, sides, settings.encoder, strict=False)
        )
        self.downs = nn.ModuleList(nn.Conv2d(c, d, 2, stride=2) for c, d in pairwise(widths))
        self.middle_blks = nn.Sequential(*(NAFBlock(widths[-1], sides[-1]) for _ in range(settings.middle)))
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.PixelShuffle(2))
            for c in reversed(widths[1:])
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(*(NAFBlock(c, side) for _ in range(blocks)))
            for c, side, blocks in zip(
                reversed(widths[:-1]), reversed(sides[:-1]), settings.decoder, strict=True
            )
        )

    def start_as_identity(self) -> None:
        """Zero the last convolution, so that the net returns its input until it has learned."""
        nn.init.zeros_(self.ending.weight)
        assert self.ending.bias is not None
        nn.init.zeros_(self.ending.bias)

    def forward(self, image: Tensor) -> Tensor:
        """N,3,H,W of any size -> the same shape; padded inside to ``multiple``."""
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple))
        x = self.intro(padded)
        skips: list[Tensor] = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x)
        for decoder, up, skip in zip(self.decoders, self.ups, reversed(skips), strict=True):
            x = decoder(up(x) + skip)
        out: Tensor = self.ending(x) + padded
        return out[..., :height, :width]

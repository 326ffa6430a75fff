"""The generator G: lays the rain information of one image over another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rgsud_core.settings import Settings
from trainer.models.blur import gaussian_blur


class GeneratorSettings(Settings):
    """Sizes of G, and what of its form is given instead of learned."""

    width: int = 128
    """Channels of the residual blocks."""
    blocks: int = 6
    """Number of residual blocks."""
    downscale: int = 1
    """Divisor of the resolution that the blocks work at, by pixel unshuffle; 2 costs a quarter per
    channel."""
    explicit_rain: bool = False
    """Add the rain information to the image outside the network: O1 = B + rain(F) + residual, where the
    plain form is O1 = B + residual."""
    negative_slope: float = 0.1
    """Factor on negative values of explicit rain, since rain brightens."""
    chroma: float = 0.1
    """Factor on the colour of explicit rain, since rain is nearly grey."""
    residual_highpass: bool = False
    """Remove the low frequencies from the residual, for a discriminator that sees only high ones: nothing
    else would hold the brightness and the colours of the pseudo rain."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return out


class Generator(nn.Module):
    """ResNet from (image, rain information) to the image in that rain."""

    def __init__(self, settings: GeneratorSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings.downscale
        self.head = nn.Conv2d(6 * s * s, settings.width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(settings.width) for _ in range(settings.blocks)))
        self.tail = nn.Conv2d(settings.width, 3 * s * s, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        assert self.tail.bias is not None
        nn.init.zeros_(self.tail.bias)

    def rain(self, information: Tensor) -> Tensor:
        """What of F is added explicitly: leaky non-negative, nearly achromatic. N,3,H,W -> N,3,H,W."""
        grey = information.mean(dim=1, keepdim=True)
        mixed = torch.lerp(grey.expand_as(information), information, self.settings.chroma)
        return F.leaky_relu(mixed, self.settings.negative_slope)

    def forward(self, image: Tensor, information: Tensor) -> Tensor:
        """Image N,3,H,W in [0,1] and F N,3,H,W -> rainy image N,3,H,W, not clipped.

        H and W must be multiples of ``downscale``; a crop size is.
        """
        s = self.settings.downscale
        x = torch.cat((image, information), dim=1)
        if s > 1:
            x = F.pixel_unshuffle(x, s).contiguous(memory_format=torch.channels_last)
        residual = self.tail(self.blocks(F.relu(self.head(x))))
        if s > 1:
            # A 3x3 mean takes the checkerboard out of the shuffled pixels.
            residual = F.avg_pool2d(F.pixel_shuffle(residual, s), 3, stride=1, padding=1)
        if self.settings.residual_highpass:
            residual = residual - gaussian_blur(residual, kernel=15, sigma=9.0)
        out: Tensor = image + residual
        return out + self.rain(information) if self.settings.explicit_rain else out

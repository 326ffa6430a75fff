"""The discriminator D: a PatchGAN in the rain domain that also sees the high frequencies by themselves."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rgsud_core.settings import Settings
from trainer.models.blur import gaussian_blur


class DiscriminatorSettings(Settings):
    """Sizes and input of D."""

    width: int = 64
    """Channels after the first convolution; doubled per layer, up to eight times."""
    layers: int = 3
    """Number of strided convolutions; the receptive field is 22, 46 or 94 pixels for 2, 3 or 4."""
    sees: Literal["image", "highpass", "both"] = "both"
    """Input of the discriminator D: the image, its high frequencies (image minus Gaussian blur, kernel 15,
    sigma 9), or both. Rain is thin; without the image, D cannot tell the domains apart by their colours."""
    highpass_gain: float = 1.0
    """Factor on the high-pass part; rain is faint beside the scene."""


class Discriminator(nn.Module):
    """PatchGAN (Isola et al., CVPR 2017) with instance normalisation."""

    def __init__(self, settings: DiscriminatorSettings) -> None:
        super().__init__()
        self.settings = settings
        c_in = 6 if settings.sees == "both" else 3
        c = settings.width
        layers: list[nn.Module] = [nn.Conv2d(c_in, c, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(settings.layers - 1):
            c_in, c = c, min(2 * c, 8 * settings.width)
            layers += [
                nn.Conv2d(c_in, c, 4, stride=2, padding=1, bias=False),
                nn.InstanceNorm2d(c, affine=True),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(c, 1, 4, padding=1))
        self.net = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """N,3,H,W -> realness of each patch N,1,h,w (LSGAN: real is 1, fake is 0)."""
        seen: list[Tensor] = []
        if self.settings.sees != "highpass":
            seen.append(image)
        if self.settings.sees != "image":
            high = image - gaussian_blur(image, kernel=15, sigma=9.0)
            seen.append(self.settings.highpass_gain * high)
        realness: Tensor = self.net(torch.cat(seen, dim=1))
        return realness

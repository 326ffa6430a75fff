"""Gaussian blur of images on any device."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache(maxsize=32)
def _gaussian(size: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-(x**2) / (2 * sigma**2))
    return (weights / weights.sum()).to(dtype=dtype, device=device)


def separable(image: Tensor, kernel: int, sigma: float, *, pad: bool) -> Tensor:
    """Gaussian window of side ``kernel`` over N,C,H,W: the same shape with ``pad``, else the valid region."""
    channels = image.shape[1]
    w = _gaussian(kernel, sigma, image.dtype, image.device)
    if pad:
        half = kernel // 2
        image = F.pad(image, (half, half, half, half), mode="reflect")
    # Variances and high frequencies are small differences: bfloat16 convolutions would round them away.
    with torch.autocast(image.device.type, enabled=False):
        rows = F.conv2d(image, w.view(1, 1, 1, -1).expand(channels, 1, 1, kernel), groups=channels)
        return F.conv2d(rows, w.view(1, 1, -1, 1).expand(channels, 1, kernel, 1), groups=channels)


def gaussian_blur(image: Tensor, kernel: int, sigma: float) -> Tensor:
    """Gaussian blur of N,C,H,W with reflected borders, the same shape; H and W above kernel // 2."""
    return separable(image, kernel, sigma, pad=True)

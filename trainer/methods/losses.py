"""The losses, as pure functions of images N,3,H,W in [0,1]."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from trainer.models.blur import separable

Reduction = Literal["mean", "sum", "psnr"]


def psnr_loss(image: Tensor, target: Tensor) -> Tensor:
    """Minus the PSNR in dB (peak 1), averaged over the images: 10/ln 10 * mean ln(MSE + 1e-8)."""
    mse = (image - target).square().mean(dim=(1, 2, 3))
    return 10 / math.log(10) * (mse + 1e-8).log().mean()


def ssim_of_each(image: Tensor, target: Tensor) -> Tensor:
    """SSIM of N images, N: 11x11 Gaussian window (sigma 1.5), valid region. Wang et al., TIP 2004."""
    c1, c2 = 0.01**2, 0.03**2
    stacked = torch.cat((image, target, image * image, target * target, image * target), dim=1)
    mu_x, mu_y, xx, yy, xy = separable(stacked, 11, 1.5, pad=False).chunk(5, dim=1)
    luminance = (2 * mu_x * mu_y + c1) / (mu_x.square() + mu_y.square() + c1)
    variances = xx - mu_x.square() + yy - mu_y.square()
    structure = (2 * (xy - mu_x * mu_y) + c2) / (variances + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def ssim_loss(image: Tensor, target: Tensor) -> Tensor:
    """-log10(SSIM), as in CSUD, averaged over the images: 0 where equal.

    The logarithm is taken per image, so that a batch weighs the same however workers share it out. SSIM is
    clamped to at least 1e-4.
    """
    return -torch.log10(ssim_of_each(image, target).clamp(min=1e-4)).mean()


def lsgan_loss(realness: Tensor, *, real: bool) -> Tensor:
    """Least-squares GAN loss (Mao et al., ICCV 2017): mean squared distance from 1 (real) or 0."""
    return (realness - 1).square().mean() if real else realness.square().mean()


def reinforcement_loss(image: Tensor, reward: Tensor, reduction: Reduction) -> Tensor:
    """L_re = ||B_rw - B_r||^2.

    Args:
        image: B_r, N,3,H,W.
        reward: B_rw, N,3,H,W, no gradient.
        reduction: ``mean`` over pixels, ``sum`` over each image's pixels averaged over images, or
            ``psnr``: the logarithmic form of :func:`psnr_loss`, commensurable with L_Der at any error.
    """
    if reduction == "psnr":
        return psnr_loss(image, reward)
    squared = (image - reward).square()
    return squared.mean() if reduction == "mean" else squared.sum() / len(image)

"""Image quality measures between an image and its ground truth: luma, PSNR, SSIM."""

from __future__ import annotations

import math

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from rgsud_core.errors import RgsudError
from rgsud_core.images import STUDIO_LUMA, Image

Plane = NDArray[np.float64]

_WINDOW = 11
_POSITIONS = np.arange(_WINDOW) - _WINDOW // 2
_WEIGHTS = np.exp(-(_POSITIONS**2) / (2 * 1.5**2))
_WEIGHTS /= _WEIGHTS.sum()


def luma(image: Image, rounded: bool = False) -> Plane:
    """The Y of ITU-R BT.601, 16..235, float64 H,W, as MATLAB's rgb2ycbcr has it.

    Args:
        image: uint8 H,W,3.
        rounded: to whole numbers, as for an image of uint8.
    """
    y: Plane = 16 + image @ STUDIO_LUMA
    # Halves go up in MATLAB.
    return np.floor(y + 0.5) if rounded else y


def psnr(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """PSNR over all values of two arrays of one shape, in dB, peak 255; infinite where they are equal."""
    mse = float(np.square(a.astype(np.float64) - b.astype(np.float64)).mean())
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def ssim(a: Plane, b: Plane) -> float:
    """SSIM of two float64 H,W planes, peak 255: 11x11 Gaussian window of sigma 1.5, valid region.

    Wang et al., TIP 2004. Raises RgsudError where the window does not fit.
    """
    if min(a.shape) < _WINDOW:
        raise RgsudError(f"An image of {a.shape[1]}x{a.shape[0]} is too small for SSIM: 11x11 at least.")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _gaussian(a), _gaussian(b)
    squares = mean_a**2 + mean_b**2
    product = mean_a * mean_b
    variances = _gaussian(a * a + b * b) - squares
    covariance = _gaussian(a * b) - product
    similarity = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return float(similarity.mean())


def _gaussian(plane: Plane) -> Plane:
    """The Gaussian mean over 11x11 pixels where the window fits, H,W -> H-10,W-10."""
    half = _WINDOW // 2
    rows = scipy.ndimage.correlate1d(plane, _WEIGHTS, axis=0)[half:-half]
    columns: Plane = scipy.ndimage.correlate1d(rows, _WEIGHTS, axis=1)[:, half:-half]
    return columns

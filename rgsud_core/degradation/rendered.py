"""Rain streaks, rendered: random drops smeared along the direction in which they fall.

The streak model of Garg & Nayar (ICCV 2007) in its usual cheap form: sparse seeds convolved with oriented
motion kernels, a layer for each range of depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from rgsud_core.images import Image

Map = NDArray[np.float32]

_KERNELS = 3
"""Kernels a layer: its streaks differ in length and angle, and each kernel costs a transform."""


@dataclass(frozen=True)
class RainLayer:
    """The streaks of one range of depth."""

    length: float
    """Mean length of a streak, pixels."""
    width: float
    """Full width of a streak at half its height, pixels."""
    angle: float
    """Lean from the vertical, degrees; positive falls towards the left."""
    density: float
    """Streaks per 10,000 pixels."""
    blur: float
    """Standard deviation of the Gaussian that the focus of this depth adds, pixels."""
    brightness: float
    """Peak of the brightest streaks, in [0,1]."""
    spread: float = 1.5
    """Standard deviation of the lean over the streaks, degrees."""
    faintness: float = 1.0
    """1: streaks of all brightnesses are equally frequent; above, the fainter ones are more frequent."""


@dataclass(frozen=True)
class RainLook:
    """Rain as the layers it is seen through, far to near."""

    layers: tuple[RainLayer, ...]


def random_look(rng: np.random.Generator, strength: float = 1.0) -> RainLook:
    """One rain shower: 1 to 3 layers that share a wind, from dense and fine to sparse and long.

    A `strength` of 1 costs a photograph of 481x321 about as much as the rain of Rain100L (a PSNR of
    25 to 26 dB in the middle, 20 to 32 over the images); less is lighter rain, more is heavier.
    """
    wind = rng.uniform(-30, 30)
    size = rng.uniform(0.7, 1.5)
    heaviness = strength * rng.uniform(0.5, 1.3)
    count = int(rng.integers(1, 4))
    layers = [
        RainLayer(
            length=size * (18 + 50 * nearness),
            width=size * (0.8 + 1.2 * nearness),
            angle=wind + rng.normal(0, 2),
            density=heaviness * 20 * (1 - 0.8 * nearness) / size**2 / math.sqrt(count),
            blur=rng.uniform(0.2, 0.5) + 0.5 * nearness**2,
            brightness=min(1.0, math.sqrt(strength) * rng.uniform(0.35, 0.8)),
        )
        for nearness in sorted(rng.uniform(0, 1, size=count))
    ]
    return RainLook(tuple(layers))


def dense_look(rng: np.random.Generator) -> RainLook:
    """One downpour: 1 to 4 layers of short or long streaks that overlap, most of them faint.

    Real rain has a background of drops too many and too far to be told apart: what is drawn here covers from
    2 to 120 % of the picture. A derainer that was trained on sparse, crisp streaks alone leaves it. In front
    of some there are single drops close to the camera, wide and bright, and splashes, which fly anywhere.
    """

    def between(low: float, high: float) -> float:
        return math.exp(rng.uniform(math.log(low), math.log(high)))

    wind, size = rng.normal(0, 18), between(0.6, 1.6)
    layers = []
    for nearness in sorted(rng.uniform(0, 1, size=int(rng.integers(1, 5)))):
        length = min(250.0, size * between(6, 40) * (1 + 4 * nearness))
        width = size * (0.9 + 1.6 * nearness * rng.uniform())
        layers.append(
            RainLayer(
                length=length,
                width=width,
                angle=wind + rng.normal(0, 3),
                density=1e4 * between(0.02, 1.2) * (1 - 0.6 * nearness) / (length * max(width, 0.9)),
                blur=rng.uniform(0.2, 0.6) + 0.8 * nearness**2 * rng.uniform(),
                brightness=between(0.08, 0.7),
                spread=between(0.7, 7),
                faintness=rng.uniform(1, 3),
            )
        )
    if rng.uniform() < 0.35:
        drops = RainLayer(
            length=size * between(15, 120),
            width=between(2, 6),
            angle=wind + rng.normal(0, 5),
            density=between(0.2, 3),
            blur=rng.uniform(0.2, 1),
            brightness=between(0.25, 1),
            spread=between(1, 8),
        )
        layers.append(drops)
    if rng.uniform() < 0.25:
        splashes = RainLayer(
            length=between(2, 14),
            width=between(1, 3.5),
            angle=wind,
            density=between(2, 60),
            blur=rng.uniform(0.2, 0.6),
            brightness=between(0.2, 1),
            spread=between(10, 60),
            faintness=rng.uniform(1, 2),
        )
        layers.append(splashes)
    return RainLook(tuple(layers))


def _streak(length: float, sigma: float, angle: float) -> Map:
    """A streak of peak 1 as a square kernel of odd size: a Gaussian across, a soft-ended bar along."""
    half = math.ceil(length / 2 + 3 * sigma)
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    lean = math.radians(angle)
    across = x * math.cos(lean) + y * math.sin(lean)
    along = y * math.cos(lean) - x * math.sin(lean)
    # Brightest in the middle: a drop that crosses the focus while the shutter is open.
    bar = np.clip(1 - (2 * np.abs(along) / length) ** 4, 0, None)
    kernel: Map = (np.exp(-((across / sigma) ** 2) / 2) * bar).astype(np.float32)
    return kernel


def _render_layer(height: int, width: int, layer: RainLayer, rng: np.random.Generator) -> Map:
    # A streak never thinner than the pixel grid can hold, or slanted ones turn into dots.
    sigma = math.hypot(max(layer.width, 1.0) / 2.355, layer.blur)
    out = np.zeros((height, width), np.float32)
    for _ in range(_KERNELS):
        length = layer.length * rng.uniform(0.6, 1.4)
        kernel = _streak(length, sigma, layer.angle + rng.normal(0, layer.spread))
        # Blur spreads the light of a streak, it does not add any.
        kernel *= layer.brightness * max(layer.width, 1.0) / 2.355 / sigma
        rows, columns = height + kernel.shape[0] - 1, width + kernel.shape[1] - 1
        count = rng.poisson(layer.density / _KERNELS * rows * columns / 1e4)
        seeds = np.zeros(rows * columns, np.float32)
        places = rng.integers(0, rows * columns, count)
        np.add.at(seeds, places, rng.uniform(0.1, 1, count) ** layer.faintness)
        shape = [scipy.fft.next_fast_len(n, real=True) for n in (rows, columns)]
        spectrum = scipy.fft.rfft2(seeds.reshape(rows, columns), shape) * scipy.fft.rfft2(kernel, shape)
        full = scipy.fft.irfft2(spectrum, shape)
        out += full[kernel.shape[0] - 1 : rows, kernel.shape[1] - 1 : columns]
    return out


def render_rain(height: int, width: int, look: RainLook, rng: np.random.Generator) -> Map:
    """The rain alone, float32 H,W in [0,1]: 0 is no rain. Layers lie over one another as light does."""
    dry = np.ones((height, width), np.float32)
    for layer in look.layers:
        dry *= 1 - np.clip(_render_layer(height, width, layer, rng), 0, 1)
    rain: Map = np.float32(1) - dry
    return rain


def add_rain(image: Image, look: RainLook, rng: np.random.Generator) -> Image:
    """The image, uint8 H,W,3 RGB, in this rain: the same shape, nowhere darker, rain nearly achromatic.

    Half screen blending (streaks fade over bright ground, as real ones do), half addition (they clip
    there, as those of the synthetic data sets do).
    """
    height, width = image.shape[:2]
    rain = render_rain(height, width, look, rng)[..., None] * rng.uniform(0.97, 1.0, size=3)
    ground = image / 255.0
    wet = ground + rain * (1 - ground / 2)
    rounded: Image = np.rint(np.clip(wet, 0, 1) * 255).astype(np.uint8)
    return rounded

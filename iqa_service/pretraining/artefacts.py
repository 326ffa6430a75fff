"""Artefacts of imperfect derainers, imitated on pairs of a photograph and its rainy version.

The artefacts are those seen in unpaired training: rain left over, smeared or turned dark, ghosts of edges,
checkerboards, and colours and brightness that drift.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from iqa_service.pretraining.degradations import Float, gaussian, smooth_field, to_uint8
from rgsud_core.images import Image

Artefact = Callable[[Float, Float, Float, float, np.random.Generator], Float]
"""The change of a clean image for (clean, rain, mask of the rain) and a strength in [0,1]; levels 0..255."""


def _residual(clean: Float, rain: Float, mask: Float, strength: float, rng: np.random.Generator) -> Float:
    if rng.uniform() < 0.5:
        return strength * rain
    return strength * rain * smooth_field(clean, rng.uniform(20, 80), rng)[..., None]


def _negative(clean: Float, rain: Float, mask: Float, strength: float, rng: np.random.Generator) -> Float:
    return -0.6 * strength * rain


def _softened(clean: Float, rain: Float, mask: Float, strength: float, rng: np.random.Generator) -> Float:
    wide = gaussian(rain, rng.uniform(0.7, 2))
    return float(rng.choice([-0.7, 0.7, 1])) * strength * wide


def _smeared(clean: Float, rain: Float, mask: Float, strength: float, rng: np.random.Generator) -> Float:
    blurred = gaussian(clean + 0.3 * strength * rain, rng.uniform(0.8, 3))
    return (0.3 + 0.7 * strength) * mask * (blurred - clean)


def _smooth(clean: Float, rain: Float, mask: Float, strength: float, rng: np.random.Generator) -> Float:
    if rng.uniform() < 0.5:
        return gaussian(clean, 0.4 + 1.4 * strength) - clean
    size = int(rng.choice([3, 5]))
    median: Float = ndimage.median_filter(clean, (size, size, 1))
    return strength * (median - clean)


def _sharp(clean: Float, rain: Float, mask: Float, strength: float, rng: np.random.Generator) -> Float:
    return strength * (clean - gaussian(clean, rng.uniform(0.6, 2)))


def _ghost(clean: Float, rain: Float, mask: Float, strength: float, rng: np.random.Generator) -> Float:
    gray = clean.mean(axis=2, keepdims=True)
    moved: Float = np.roll(gray - gaussian(gray, 1.5), rng.integers(-3, 4, 2), (0, 1))
    return float(rng.choice([-0.6, 0.6])) * strength * moved


def _cast(clean: Float, rain: Float, mask: Float, strength: float, rng: np.random.Generator) -> Float:
    offset = rng.normal(0, 10 * strength, 3).astype(np.float32)
    gain = rng.normal(0, 0.06 * strength, 3).astype(np.float32)
    return clean * gain + offset


def _drift(clean: Float, rain: Float, mask: Float, strength: float, rng: np.random.Generator) -> Float:
    field = smooth_field(clean, rng.uniform(15, 80), rng) - np.float32(0.5)
    return field[..., None] * 40 * strength * rng.uniform(0.7, 1.3, 3).astype(np.float32)


def _checkerboard(clean: Float, rain: Float, mask: Float, strength: float, rng: np.random.Generator) -> Float:
    period = int(rng.choice([2, 4, 8]))
    pattern = np.zeros((period, period, 3))
    while np.ptp(pattern) < 0.5:
        pattern = rng.normal(0, 1, (period, period, 1)) + rng.normal(0, 0.3, (period, period, 3))
    height, width = clean.shape[:2]
    repeats = (height // period + 1, width // period + 1, 1)
    board: Float = np.tile(pattern - pattern.mean((0, 1)), repeats)[:height, :width].astype(np.float32)
    if rng.uniform() < 0.5:
        board = board * (0.3 + gaussian(np.abs(clean - gaussian(clean, 1)), 2) / 8)
    return 6 * strength * board


def _noise(clean: Float, rain: Float, mask: Float, strength: float, rng: np.random.Generator) -> Float:
    noise = rng.normal(0, 1, clean.shape).astype(np.float32)
    if rng.uniform() < 0.5:
        noise = 2 * gaussian(noise, rng.uniform(0.5, 1.2))
    return 8 * strength * noise


ARTEFACTS: dict[str, Artefact] = {
    "residual": _residual,
    "negative": _negative,
    "softened": _softened,
    "smeared": _smeared,
    "smooth": _smooth,
    "sharp": _sharp,
    "ghost": _ghost,
    "cast": _cast,
    "drift": _drift,
    "checkerboard": _checkerboard,
    "noise": _noise,
}


def imitate(clean: Image, rainy: Image, rng: np.random.Generator) -> Image:
    """The result of an imagined derainer: 1 to 3 artefacts, often with rain left over.

    Args:
        clean: the photograph without rain, uint8 H,W,3.
        rainy: the same with rain, uint8 H,W,3.
        rng: source of artefacts and strengths.
    """
    base, wet = clean.astype(np.float32), rainy.astype(np.float32)
    rain = wet - base
    mask = np.clip(gaussian(np.abs(rain).max(axis=2, keepdims=True), 1) / 16, 0, 1)
    kinds = {str(kind) for kind in rng.choice(list(ARTEFACTS), int(rng.integers(1, 4)), replace=False)}
    if rng.uniform() < 0.5:
        kinds.add("residual")
    out = base.copy()
    for kind in sorted(kinds):
        out += ARTEFACTS[kind](base, rain, mask, float(rng.uniform(0.05, 1) ** 1.5), rng)
    return to_uint8(out)

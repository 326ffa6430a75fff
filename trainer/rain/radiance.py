"""Whether the rain of photographs is blended with the scene, and its radiance."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from rgsud_core.images import LUMA, Image
from trainer.rain.search import (
    GAPS,
    LARGEST,
    PLANES,
    STRIDE,
    Photographs,
    RainSearchSettings,
    chroma,
    rows,
    sample,
)

_SAMPLED, _WITNESSES = 40, 3
"""Images sampled to estimate the radiance, and how many must show it from either side."""
_WHITE, _CLEAR = 0.93, 0.1
"""Luma above which a scene may be clipped; smallest asymmetry counted as significant."""


def find_radiance(rainy: Photographs, settings: RainSearchSettings, *, seed: int) -> float | None:
    """The luma in [0,1] of rain that is blended with the scene: in front of what is darker its streaks are
    light, in front of what is brighter dark. None where it adds light, or where that cannot be told."""
    order = sample(len(rainy), min(settings.images, _SAMPLED), seed)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        looked = list(threads.map(lambda index: _lopsided(rainy.load(index), settings), order))
    level, lightness = (np.concatenate(parts) for parts in zip(*looked, strict=True))
    image = np.repeat(np.arange(len(looked)), [len(levels) for levels, _ in looked])
    # At the right one all below are lighter than their surroundings and all above darker.
    candidates = np.arange(0.3, _WHITE, 0.01)
    agreement = np.array([np.where(level < radiance, lightness, -lightness).sum() for radiance in candidates])
    radiance = float(candidates[agreement > agreement.max() - 1e-6].mean())
    above = level > radiance
    told = len(np.unique(image[above])) >= _WITNESSES and len(np.unique(image[~above])) >= _WITNESSES
    return round(radiance, 2) if told and np.median(lightness[above]) < -_CLEAR else None


def _lopsided(image: Image, settings: RainSearchSettings) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Level of the scene in each flat window with streaks, and how much farther its pixels lie above that
    than below, -1 to 1."""
    scaled: NDArray[np.float32] = image[:LARGEST, :LARGEST].astype(np.float32) / np.float32(255)
    levels, lightness = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    onto_planes = PLANES @ np.linalg.pinv(PLANES)
    for _, windows in rows(scaled, 2 * STRIDE):
        luma = np.einsum("nck,c->nk", windows[chroma(windows) < settings.chroma], LUMA)
        detail = luma - luma @ onto_planes.T
        low, high = np.quantile(detail, (GAPS, 1 - GAPS), axis=1, keepdims=True)
        below = np.sqrt(np.square(np.minimum(detail - low, 0)).mean(axis=1))
        above = np.sqrt(np.square(np.maximum(detail - high, 0)).mean(axis=1))
        level = np.median(luma, axis=1)
        streaked = (np.minimum(below, above) < settings.below) & (
            np.maximum(below, above) > settings.below / 2
        )
        streaked &= level < _WHITE
        levels.append(level[streaked])
        lightness.append(((above - below) / np.maximum(above + below, 1e-6))[streaked])
    return np.concatenate(levels), np.concatenate(lightness)

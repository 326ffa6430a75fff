"""What a derainer leaves on photographs without ground truth.

In front of flat places the scene is known: it is the plane that the rain there stands out from (see
:mod:`trainer.rain.search`). What a derained image keeps above that plane is rain that was left, what lies
below it is scene that was taken. Grain, compression and the texture of a street stand out from a plane as
well: so a photograph is judged only where what was found has a direction in which rain may fall, and the
*pattern* counts only what is long in that direction, which a denoiser does not take.
"""

from __future__ import annotations

import cmath
import math
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from rgsud_core.images import LUMA, Image
from rgsud_core.quality import psnr
from trainer.errors import TrainerError
from trainer.rain.search import WINDOW, RainSearchSettings, find_rain

Plane = NDArray[np.float32]

FAINTEST = 0.01
"""Root mean square, in [0,1], that rain in front of flat places must have to be judged by."""
_DIRECTED, _STEEPEST = 0.15, math.radians(60)
"""Anisotropy, 0 to 1, from which on light has a direction; how far from the vertical rain may fall."""
_SURE = 0.9
"""From which on a pixel's rain counts as found."""
_ALONG = 9
"""Pixels along a streak over which its light is averaged: grain has no such length."""


class UnpairedScores(BaseModel):
    """Measures of one derained photograph."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    id: str
    area: int
    """Pixels in front of which the rain is known; without any the next four are not known, NaN."""
    left: float
    """Energy of what stands above the scene there, over that of the rain: 0 is no rain left, 1 all of it."""
    pattern: float
    """The same for the rain's own pattern alone, which grain and compression are no part of."""
    taken: float
    """Energy of what lies below the scene there, over that of the rain."""
    direction: float
    """How much less the gradients elsewhere follow those of the rain: the fall of their alignment, which is
    1 where all do, 0 where none does more than others."""
    brightness: float
    """Change of the mean luma, levels of 255."""
    colour: float
    """Largest change of a colour's mean against the luma's, levels of 255."""
    mirrored: float
    """PSNR, dB, between the derained photograph and its derained mirror image, turned back: where they
    differ the derainer guesses."""


class UnpairedEvaluation(BaseModel):
    """The measures of a folder of rainy photographs."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    rows: list[UnpairedScores]

    @property
    def judged(self) -> list[UnpairedScores]:
        """The photographs whose rain is known somewhere."""
        return [row for row in self.rows if row.area]

    def mean(self, measure: str) -> float:
        """Mean of a measure over the photographs that have it; NaN if none has."""
        values = [getattr(row, measure) for row in self.rows]
        known = [value for value in values if math.isfinite(value)]
        return float(np.mean(known)) if known else math.nan


def judge(
    identity: str,
    rainy: Image,
    derained: Image,
    mirrored: Image,
    settings: RainSearchSettings = RainSearchSettings(),
) -> UnpairedScores:
    """The measures of one photograph, uint8 H,W,3; ``mirrored`` is its derained mirror image.

    Raises:
        TrainerError: their sizes differ.
    """
    if not rainy.shape == derained.shape == mirrored.shape:
        raise TrainerError(
            f"'{identity}' is {rainy.shape}, and derained {derained.shape}: sizes must be equal."
        )
    before, after = _luma(rainy), _luma(derained)
    found = find_rain(rainy, settings)
    sure = found.found > _SURE
    light = np.where(sure, found.light, 0)
    tensor, strength = _tensor(light, scipy.ndimage.binary_erosion(sure, iterations=2))
    angle = float(np.angle(tensor)) / 2
    known = (
        sure.sum() >= WINDOW**2
        and float(np.sqrt(np.mean(light[sure] ** 2))) >= FAINTEST
        and abs(tensor) >= _DIRECTED * strength
        and abs(angle) <= _STEEPEST
    )
    left = pattern = taken = direction = math.nan
    if known:
        rest = np.where(sure, after - (before - light), 0)
        energy = float((light**2).sum())
        left = float((rest.clip(min=0) ** 2).sum()) / energy
        taken = float((rest.clip(max=0) ** 2).sum()) / energy
        streaks = _averaged_along(light, angle)
        pattern = float(max((rest * streaks).sum() / (light * streaks).sum(), 0)) ** 2
        direction = _alignment(before, ~sure, angle) - _alignment(after, ~sure, angle)
    colours = derained.mean(axis=(0, 1), dtype=float) - rainy.mean(axis=(0, 1), dtype=float)
    brightness = float(255 * (after.mean() - before.mean()))
    return UnpairedScores(
        id=identity,
        area=int(sure.sum()) if known else 0,
        left=left,
        pattern=pattern,
        taken=taken,
        direction=direction,
        brightness=brightness,
        colour=float(np.abs(colours - brightness).max()),
        mirrored=psnr(derained, np.ascontiguousarray(mirrored[:, ::-1])),
    )


def _luma(image: Image) -> Plane:
    plane: Plane = ((image / np.float32(255)) @ LUMA).astype(np.float32)
    return plane


def _tensor(plane: Plane, where: NDArray[np.bool_]) -> tuple[complex, float]:
    """Structure tensor over the pixels ``where``, at twice the angle, and the sum of its strengths."""
    down, across = (np.asarray(slope)[where] for slope in np.gradient(plane))
    gradient = across + 1j * down
    return complex((gradient**2).sum()), float((np.abs(gradient) ** 2).sum())


def _alignment(plane: Plane, where: NDArray[np.bool_], angle: float) -> float:
    """How far gradients have the direction across the rain's streaks, -1 to 1."""
    tensor, strength = _tensor(plane, where)
    return (tensor * cmath.exp(-2j * angle)).real / max(strength, 1e-12)


def _averaged_along(light: Plane, angle: float) -> Plane:
    """Light averaged along its streaks; ``angle`` is across them."""
    steps = np.arange(_ALONG) - _ALONG // 2
    shifted: list[Any] = [
        scipy.ndimage.shift(light, (step * math.cos(angle), -step * math.sin(angle)), order=1)
        for step in steps
    ]
    averaged: Plane = np.mean(shifted, axis=0)
    return averaged

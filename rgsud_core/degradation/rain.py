"""How rain lies over a scene: written once, for arrays and tensors alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Image = Any
"""A floating-point tensor or array in [0,1], of a shape that broadcasts with the others'."""

CONTRAST = 0.15
"""Smallest difference between blended rain and the scene from which its opacity can be estimated."""


@dataclass(frozen=True)
class RainModel:
    """Rain that adds its light to the scene, or that is blended with it.

    Light is added where streaks are short and out of focus. Blended rain (streaks of a long exposure, much
    rendered rain) has a radiance of its own: it brightens what is darker and darkens what is brighter.
    """

    radiance: float | None = None
    """Luma of blended rain, in [0,1]; None: its light is added."""

    def over(self, scene: Image, rain: Image) -> Image:
        """The scene behind rain: light to be added (clipped to [0,1], as by a sensor), or opacity."""
        if self.radiance is None:
            return (scene + rain).clip(0, 1)
        return scene + rain.clip(max=1) * (self.radiance - scene)

    def between(self, scene: Image, image: Image) -> Image:
        """The inverse of :meth:`over`: the light, or the opacity, that turns the scene into the image.

        What is darker than the scene counts as no rain.
        """
        light = (image - scene).clip(min=0)
        if self.radiance is None:
            return light
        return (light / (self.radiance - scene).clip(min=CONTRAST)).clip(max=1)

    def brightest(self, limit: float) -> float:
        """The mean luma of a scene up to which rain can be separated from it, at most ``limit``."""
        return limit if self.radiance is None else min(limit, self.radiance - CONTRAST)

    def __str__(self) -> str:
        return "adds light" if self.radiance is None else f"is blended in, of radiance {self.radiance:.2f}"

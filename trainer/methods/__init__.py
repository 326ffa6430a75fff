"""Training steps. A new one is a file here, and a line in each of the two below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Discriminator, Tag
from torch import nn

from trainer.methods.base import Method
from trainer.methods.found_rain import FoundRain, FoundRainSettings
from trainer.methods.rgsud import RGSUD, RGSUDSettings

METHODS: dict[str, Callable[..., Method]] = {"rgsud": RGSUD, "found-rain": FoundRain}
"""By the name in their settings."""


def _name(settings: Any) -> Any:
    return settings.get("name", "rgsud") if isinstance(settings, dict) else getattr(settings, "name", None)


AnyMethodSettings = Annotated[
    Annotated[RGSUDSettings, Tag("rgsud")] | Annotated[FoundRainSettings, Tag("found-rain")],
    Discriminator(_name),
]
"""Settings of the method that they name."""


def build_method(
    settings: AnyMethodSettings, derainer: nn.Module, device: torch.device | str = "cpu"
) -> Method:
    """The method that the settings are of."""
    return METHODS[settings.name](settings, derainer, device)

"""Training steps, by name or import path."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BeforeValidator, SerializeAsAny
from torch import nn

from trainer.kinds import Kind
from trainer.methods.base import Method, MethodSettings

METHODS = Kind(
    "method",
    Method,  # type: ignore[type-abstract]
    {"rgsud": "trainer.methods.rgsud:RGSUD", "supervised": "trainer.methods.supervised:Supervised"},
    default="rgsud",
)
AnyMethodSettings = Annotated[MethodSettings, BeforeValidator(METHODS.settings), SerializeAsAny()]
"""Settings of the method that they name."""


def build_method(settings: MethodSettings, derainer: nn.Module, device: torch.device | str = "cpu") -> Method:
    """The method that the settings are of."""
    return METHODS.build(settings, derainer, device)

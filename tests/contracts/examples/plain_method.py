"""A method in one file, by its import path: ``method=plain_method:Plain``, or with its rain,
``'method={name: plain_method:Plain, rain: {name: rendered, strongest: 3}}'``."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from rgsud_core.degradation.rain import RainModel
from trainer.batch import Batch
from trainer.methods.base import Method, MethodSettings
from trainer.methods.sources import SOURCES, AnySource, Finding
from trainer.rain.search import Photographs


class PlainSettings(MethodSettings):
    """What it adds to the settings of every method."""

    rain: AnySource = Field("rendered", validate_default=True)
    """The source of rain, one that draws."""


class Plain(Method):
    """Learns from clean crops under the rain of one source, and in stage 2 from the rewards.

    The base has the derainer, its averaged weights and its optimiser. A network of your own is an attribute
    that ``__init__`` names in ``self.parts``, for the checkpoints.
    """

    Settings = PlainSettings
    settings: PlainSettings

    def __init__(
        self, settings: PlainSettings, derainer: nn.Module, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(settings, derainer, device)
        self.drawing = (SOURCES.build(settings.rain),)  # whose rain each batch has to bring along

    def begin(self, rainy: Photographs, crop: int, seed: int) -> Iterator[Finding]:
        """Once, before training: the source may look at the rainy photographs."""
        yield from self.drawing[0].prepare(rainy, crop, seed, RainModel())

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step, on the device. ``batch.B_rw`` is there in stage 2."""
        O1 = (batch.B_u + batch.rain[self.settings.rain.name]).clamp(0, 1)
        with self.autocast():
            losses = {"l1": (self.Der(O1) - batch.B_u).abs().mean()}
            total = self.settings.lambda1 * losses["l1"]
            if batch.B_rw is not None and (found := self.reinforcement(self.Der(batch.O_r), batch)):
                losses["re"], weighted = found
                total = total + weighted
        self.descend(total, (self.derainer_optimizer, [self.derainer]))
        return {name: value.detach() for name, value in losses.items()}

"""What methods share: a derainer that learns from pseudo pairs and rewards, and its averaged weights.

========  =====================================================================
B_u       unpaired clean crop
O_r       real rainy crop, of another scene
B_r       Der(O_r)
B_rw      reward: the best derained version of O_r seen so far, from the pool
========  =====================================================================

Images are N,3,H,W in [0,1]. Stage 1 has no B_rw.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam

from rgsud_core.settings import Settings
from trainer.batch import Batch
from trainer.kinds import PartSettings
from trainer.methods.losses import Reduction, reinforcement_loss
from trainer.methods.parallel import average_gradients, mean_over_workers
from trainer.methods.sources import Finding, Source
from trainer.rain.search import Photographs


class OptimizerSettings(Settings):
    """Adam."""

    lr: float = 2e-4
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's first and second moment."""


class MethodSettings(PartSettings):
    """Settings of every method."""

    derainer_optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer of the derainer."""
    lambda1: float = 1.0
    """Factor on L_Der, the loss of the derainer on pseudo pairs: clean crops with rain laid over them."""
    lambda2: float = 0.8
    """Factor on L_re, the loss between derained rainy crops and their rewards in stage 2; 0 leaves it out."""
    reinforcement: Reduction = "psnr"
    """Form of L_re: the logarithm of the squared error, as in L_Der (`psnr`), its mean over the pixels (some
    5000 times weaker), or its sum."""
    rain_brightens: bool = False
    """Take the darker of reward and rainy image in each pixel: a brighter reward is wrong as long as rain
    only adds light (snow and streaks do, fog over a bright sky does not)."""
    teacher: bool = False
    """For comparison: in stage 2 replace rewards by what the averaged weights make of the rainy crops."""
    rain_gain: float = Field(1.0, ge=1)
    """Largest factor by which the rain of a pseudo pair is made weaker or stronger, at random, in half of
    them: pseudo pairs vary less than real rain, and the derainer would leave strong rain. 1 is off."""
    ema: float = 0.999
    """Decay per step of the derainer's averaged weights, the ones that are evaluated and saved; 0 is off."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward passes (autocast)."""

    @property
    def needs_rainy(self) -> bool:
        """Whether it learns anything from the rainy photographs."""
        return True

    def networks(self) -> dict[str, Settings]:
        """Settings of the networks beside the derainer, by name: a checkpoint fits where they are equal."""
        return {}

    def refuse(self, crop: int) -> str | None:
        """Why crops of that side, pixels, cannot be trained on, if so."""
        return None


def adam(chosen: OptimizerSettings, *modules: nn.Module) -> Adam:
    """The optimiser of these networks."""
    parameters = [p for module in modules for p in module.parameters()]
    return Adam(parameters, lr=chosen.lr, betas=chosen.betas, fused=True)


class Method(ABC):
    """Networks, optimisers and one training step.

    Args:
        settings: the method's settings.
        derainer: any module N,3,H,W -> N,3,H,W, or a sequence whose first element is that.
        device: where it trains.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    paired: ClassVar[bool] = False
    """Whether it trains on pairs: B_u is then the truth of O_r."""
    drawing: Sequence[Source] = ()
    """Sources whose rain each batch has to bring along."""

    def __init__(
        self, settings: MethodSettings, derainer: nn.Module, device: torch.device | str = "cpu"
    ) -> None:
        self.settings = settings
        self.device = torch.device(device)
        self._place: dict[str, Any] = {"device": self.device, "memory_format": torch.channels_last}
        self.derainer = derainer.to(**self._place)
        self.averaged = copy.deepcopy(self.derainer).requires_grad_(False).eval()
        self.derainer_optimizer = adam(settings.derainer_optimizer, self.derainer)
        self.parts = ["derainer", "averaged", "derainer_optimizer"]
        """Attributes whose state a checkpoint keeps; an optimiser is named as its settings are."""
        self.steps = 0

    def begin(self, rainy: Photographs, crop: int, seed: int) -> Iterator[Finding]:
        """Search the rainy photographs, once, before training; returns what was found."""
        return iter(())

    def Der(self, image: Tensor) -> Tensor:
        """The derainer's full-resolution result."""
        out = self.derainer(image)
        return (out if isinstance(out, Tensor) else out[0]).float()

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One update of every network.

        Returns:
            The loss terms, detached scalars.
        """
        losses = self.update(self.prepare(batch.images()).to(self.device))
        self.steps += 1
        self._average()
        return losses

    def prepare(self, batch: Batch) -> Batch:
        """Choose on the host what the update is made of, so that the update never waits for the device."""
        if batch.B_rw is not None and self.settings.teacher:
            with torch.no_grad(), self.autocast():
                taught = self.averaged(batch.O_r.to(self.device)).float().clamp(0, 1)
            batch = replace(batch, B_rw=taught.to(batch.O_r.device), rewarded=None)
        if batch.B_rw is not None and self.settings.rain_brightens:
            batch = replace(batch, B_rw=torch.minimum(batch.B_rw, batch.O_r))
        return batch

    def set_rate(self, rate: float) -> None:
        """Set all learning rates to ``rate`` times those of the settings."""
        for name in self.parts:
            if isinstance(part := getattr(self, name), Adam):
                part.param_groups[0]["lr"] = rate * getattr(self.settings, name).lr

    @abstractmethod
    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One update of every network by a batch on the device; the loss terms, detached scalars."""

    def reinforcement(self, B_r: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """L_re, and what of it enters the sum of losses; None where no crop has a reward."""
        assert batch.B_rw is not None
        chosen = torch.ones(len(batch), dtype=torch.bool) if batch.rewarded is None else batch.rewarded
        # A reward weighs the same whichever worker has it.
        count = chosen.sum().to(self.device)
        share = count / mean_over_workers(count.float()).clamp(min=1e-6)
        if not chosen.any():
            return None
        which = chosen.nonzero()[:, 0].to(self.device)
        loss = reinforcement_loss(B_r[which], batch.B_rw[which], self.settings.reinforcement)
        return loss, self.settings.lambda2 * share * loss

    @staticmethod
    def descend(loss: Tensor, *learning: tuple[Adam, Sequence[nn.Module]]) -> None:
        """A step of each optimiser, whose networks learn from all workers' crops."""
        for optimizer, _ in learning:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        for _, networks in learning:
            for network in networks:
                average_gradients(network.parameters())
        for optimizer, _ in learning:
            optimizer.step()

    def _gains(self, n: int) -> Tensor:
        """How strong the rain of each pseudo pair is, N,1,1,1: 1 in half of them."""
        # Of the step alone, so that a resumed run draws what it would have drawn.
        draws = torch.rand(2, n, 1, 1, 1, generator=torch.Generator().manual_seed(self.steps))
        gain = self.settings.rain_gain ** (2 * draws[0] - 1)
        return torch.where(draws[1] < 0.5, gain, 1.0)

    @torch.no_grad()
    def _average(self) -> None:
        # Early weights are poor: the decay is capped, so that the average starts as a plain mean.
        decay = min(self.settings.ema, self.steps / (self.steps + 10))
        for average, weight in zip(self.averaged.parameters(), self.derainer.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        for buffer, current in zip(self.averaged.buffers(), self.derainer.buffers(), strict=True):
            buffer.copy_(current)

    def autocast(self) -> torch.autocast:
        """The context of forward passes, by ``precision``."""
        bfloat16 = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bfloat16)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {"steps": self.steps, **{name: getattr(self, name).state_dict() for name in self.parts}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; one of many errors where that is of other parts."""
        self.steps = int(state["steps"])
        for name in self.parts:
            part = getattr(self, name)
            part.load_state_dict(state[name])
            if isinstance(part, Adam):  # who resumes with other settings means them
                part.param_groups[0].update(getattr(self.settings, name).model_dump())
                for weight, moments in part.state.items():  # torch does not look at their shapes
                    if any(value.ndim and value.shape != weight.shape for value in moments.values()):
                        raise ValueError(f"moments of '{name}' have other shapes than its weights")

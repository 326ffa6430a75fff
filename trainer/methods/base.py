"""What methods share: a derainer that learns from pseudo pairs and rewards, and its averaged weights.

========  =====================================================================
B_u       unpaired clean crop
O_r       real rainy crop, of another scene
B_r       Der(O_r)
B_rw      reward: the best derained version of O_r seen so far, from the pool
R         rain found in rainy photographs: light to be added
========  =====================================================================

Images are N,3,H,W in [0,1], R is N,1,H,W. Stage 1 has no B_rw.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam

from rgsud_core.settings import Settings
from trainer.batch import Batch
from trainer.methods.losses import Reduction, reinforcement_loss
from trainer.methods.parallel import average_gradients, mean_over_workers


class OptimizerSettings(Settings):
    """Adam."""

    lr: float = 2e-4
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and the second moment."""


class MethodSettings(Settings):
    """Of every method."""

    networks: ClassVar[tuple[str, ...]] = ()
    """Settings of networks beside the derainer: a checkpoint fits where they are equal."""
    finds_rain: ClassVar[bool] = False
    """Whether a step wants R."""

    derainer_optimizer: OptimizerSettings = OptimizerSettings()
    """Of the derainer."""
    lambda1: float = 1.0
    """Factor on L_Der."""
    lambda2: float = 0.8
    """Factor on L_re, stage 2."""
    reinforcement: Reduction = "psnr"
    """Reduction of L_re; `psnr` is commensurable with L_Der at any error, `mean` some 5000 times weaker."""
    rain_brightens: bool = False
    """Take the darker of reward and O_r in each pixel: what is brighter than the rainy image is an error, as
    long as rain only adds light (snow and streaks do, fog over a bright sky does not)."""
    teacher: bool = False
    """A control: in stage 2 what the averaged weights make of O_r stands in for its reward."""
    rain_gain: float = Field(1.0, ge=1)
    """In half of the pseudo pairs the derainer sees the rain that many times weaker to stronger, at random:
    pseudo pairs vary less than real rain, of which a derainer then leaves much. 1 is off."""
    ema: float = 0.999
    """Decay per step of the derainer's averaged weights, the ones that are evaluated and saved; 0 is off."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward passes (autocast)."""

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

    parts: ClassVar[tuple[str, ...]] = ("derainer", "averaged", "derainer_optimizer")
    """Attributes whose state a checkpoint keeps."""
    radiance: float | None = None
    """Of the rain it lays over scenes, in [0,1], where that is blended in and not added."""

    def __init__(
        self, settings: MethodSettings, derainer: nn.Module, device: torch.device | str = "cpu"
    ) -> None:
        self._shared = settings
        self.device = torch.device(device)
        self._place: dict[str, Any] = {"device": self.device, "memory_format": torch.channels_last}
        self.derainer = derainer.to(**self._place)
        self.averaged = copy.deepcopy(self.derainer).requires_grad_(False).eval()
        self.derainer_optimizer = adam(settings.derainer_optimizer, self.derainer)
        self.steps = 0

    def Der(self, image: Tensor) -> Tensor:
        """The derainer's full-resolution result."""
        out = self.derainer(image)
        return (out if isinstance(out, Tensor) else out[0]).float()

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One update of every network: the loss terms, detached scalars."""
        batch = batch.images().to(self.device)
        O_r, B_u, B_rw, rewarded = batch.O_r, batch.B_u, batch.B_rw, batch.rewarded
        R = batch.rain.get("flat")
        if self._shared.teacher and B_rw is not None:
            with torch.no_grad(), self._autocast():
                B_rw, rewarded = self.averaged(O_r).float().clamp(0, 1), None
        if self._shared.rain_brightens and B_rw is not None:
            B_rw = torch.minimum(B_rw, O_r)
        losses = self._update(O_r, B_u, B_rw, rewarded, R)
        self.steps += 1
        self._average()
        return losses

    @abstractmethod
    def _update(
        self, O_r: Tensor, B_u: Tensor, B_rw: Tensor | None, rewarded: Tensor | None, R: Tensor | None
    ) -> dict[str, Tensor]: ...

    def _reinforcement(
        self, B_r: Tensor, B_rw: Tensor, rewarded: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """L_re, and as it counts in the sum of losses; none where no crop has a reward."""
        n = len(B_r)
        chosen = torch.ones(n, dtype=torch.bool, device=B_r.device) if rewarded is None else rewarded
        # A reward weighs the same whichever worker has it.
        share = chosen.sum() / mean_over_workers(chosen.sum().float()).clamp(min=1e-6)
        if not chosen.any():
            return None
        loss = reinforcement_loss(B_r[chosen], B_rw[chosen], self._shared.reinforcement)
        return loss, self._shared.lambda2 * share * loss

    @staticmethod
    def _descend(loss: Tensor, *learning: tuple[Adam, Sequence[nn.Module]]) -> None:
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
        gain = self._shared.rain_gain ** (2 * draws[0] - 1)
        return torch.where(draws[1] < 0.5, gain, 1.0).to(self.device)

    @torch.no_grad()
    def _average(self) -> None:
        # Early weights say nothing: the average forgets them as fast as a plain mean would.
        decay = min(self._shared.ema, self.steps / (self.steps + 10))
        for average, weight in zip(self.averaged.parameters(), self.derainer.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        for buffer, current in zip(self.averaged.buffers(), self.derainer.buffers(), strict=True):
            buffer.copy_(current)

    def _autocast(self) -> torch.autocast:
        bfloat16 = self._shared.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bfloat16)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {"steps": self.steps, **{name: getattr(self, name).state_dict() for name in self.parts}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.steps = state["steps"]
        for name in self.parts:
            part = getattr(self, name)
            part.load_state_dict(state[name])
            if isinstance(part, Adam):  # who resumes with other settings means them
                part.param_groups[0].update(getattr(self._shared, name).model_dump())

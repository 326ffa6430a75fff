"""The training step of RGSUD, in the paper's symbols (arXiv 2605.00719).

========  =====================================================================
B_u       unpaired clean crop
O_r       real rainy crop, of another scene
F_r, F_1  rain information of O_r and of O1, by DEM
O1        G(B_u, F_r): pseudo rainy crop
B1, B_r   Der(O1), Der(O_r)
B_rw      reward: the best derained version of O_r seen so far, from the pool
========  =====================================================================

All are N,3,H,W in [0,1]. Stage 1 has no B_rw.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam

from trainer.losses import Reduction, lsgan_loss, psnr_loss, reinforcement_loss, ssim_loss
from trainer.models.dem import DEM, DEMSettings
from trainer.models.discriminator import Discriminator, DiscriminatorSettings
from trainer.models.generator import Generator, GeneratorSettings
from trainer.parallel import average_gradients, mean_over_workers
from trainer.settings import Settings

AdversarialTerm = Literal["B_u,F_r", "B_r,F_r", "B_r,F_1", "B1,F_1"]
TERMS: tuple[AdversarialTerm, ...] = ("B_u,F_r", "B_r,F_r", "B_r,F_1", "B1,F_1")


class OptimizerSettings(Settings):
    """Adam."""

    lr: float = 2e-4
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and the second moment."""


class RGSUDSettings(Settings):
    """The method's own settings; the defaults are the paper's plain form."""

    generator: GeneratorSettings = GeneratorSettings()
    """G."""
    dem: DEMSettings = DEMSettings()
    """DEM."""
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    """D."""
    derainer_optimizer: OptimizerSettings = OptimizerSettings()
    """Of the derainer."""
    generator_optimizer: OptimizerSettings = OptimizerSettings()
    """Of G and DEM."""
    discriminator_optimizer: OptimizerSettings = OptimizerSettings()
    """Of D."""
    adversarial_terms: tuple[AdversarialTerm, ...] = Field(TERMS, min_length=1)
    """Which G(., .) D judges in L_adv."""
    adversarial_weight: float = 1.0
    """Factor on L_adv."""
    adversarial_to_derainer: bool = True
    """Whether L_adv and the self-reconstruction reach the derainer through B_r and B1, or stop there."""
    discriminator_fakes: Literal["O1", "all"] = "O1"
    """What D learns to tell from O_r: the pseudo rainy crop alone, or every term of L_adv."""
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
    dem_switch: bool = True
    """Whether DEM takes the reward of O_r as its clean part in stage 2; if not, its U-Net as in stage 1."""
    dem_source_stage2: Literal["unet", "derained", "truth"] = "unet"
    """What DEM takes as the clean part of O1 in stage 2: its U-Net, B1, or B_u."""
    rain_gain: float = Field(1.0, ge=1)
    """In half of the pseudo pairs the derainer sees the rain of O1 that many times weaker to stronger, at
    random: fake rain varies less than real rain, of which a derainer then leaves much. 1 is off."""
    self_reconstruction: float = 0.0
    """Factor on |G(B_r, F_r) - O_r|: the rain of an image, laid over its derained version, gives it back."""
    clean_identity: float = 0.0
    """Factor on |F(B_u)|: a clean image has no rain to extract."""
    ema: float = 0.999
    """Decay per step of the derainer's averaged weights, the ones that are evaluated and saved; 0 is off."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward passes (autocast)."""


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Gradients pass through the module but leave nothing on its weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


class RGSUD:
    """Networks, optimisers and one training step.

    Args:
        settings: the method's settings.
        derainer: any module N,3,H,W -> N,3,H,W, or a sequence whose first element is that.
        device: where it trains.
    """

    def __init__(
        self, settings: RGSUDSettings, derainer: nn.Module, device: torch.device | str = "cpu"
    ) -> None:
        self.settings = settings
        self.device = torch.device(device)
        place: dict[str, Any] = {"device": self.device, "memory_format": torch.channels_last}
        self.derainer = derainer.to(**place)
        self.G = Generator(settings.generator).to(**place)
        self.DEM = DEM(settings.dem).to(**place)
        self.D = Discriminator(settings.discriminator).to(**place)
        self.averaged = copy.deepcopy(self.derainer).requires_grad_(False).eval()
        self.steps = 0

        def adam(chosen: OptimizerSettings, *modules: nn.Module) -> Adam:
            parameters = [p for module in modules for p in module.parameters()]
            return Adam(parameters, lr=chosen.lr, betas=chosen.betas, fused=True)

        self.derainer_optimizer = adam(settings.derainer_optimizer, self.derainer)
        self.generator_optimizer = adam(settings.generator_optimizer, self.G, self.DEM)
        self.discriminator_optimizer = adam(settings.discriminator_optimizer, self.D)

    def Der(self, image: Tensor) -> Tensor:
        """The derainer's full-resolution result."""
        out = self.derainer(image)
        return (out if isinstance(out, Tensor) else out[0]).float()

    def step(
        self, O_r: Tensor, B_u: Tensor, B_rw: Tensor | None = None, rewarded: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One update of every network.

        Args:
            O_r, B_u: N,3,H,W in [0,1].
            B_rw: rewards of O_r, N,3,H,W in [0,1]: makes this a step of stage 2.
            rewarded: bool N: which of them exist. All, where not given.

        Returns:
            The loss terms, detached scalars.
        """
        if self.settings.teacher and B_rw is not None:
            with torch.no_grad(), self._autocast():
                B_rw, rewarded = self.averaged(O_r).float().clamp(0, 1), None
        if self.settings.rain_brightens and B_rw is not None:
            B_rw = torch.minimum(B_rw, O_r)
        losses, O1 = self._update_generator_and_derainer(O_r, B_u, B_rw, rewarded)
        losses["D"] = self._update_discriminator(O_r, O1)
        self.steps += 1
        self._average()
        return losses

    def _update_generator_and_derainer(
        self, O_r: Tensor, B_u: Tensor, B_rw: Tensor | None, rewarded: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        s = self.settings
        n = len(O_r)
        with self._autocast(), frozen(self.D):
            F_r = self.DEM(O_r, self._clean_of_rainy(O_r, B_rw, rewarded))
            O1 = self.G(B_u, F_r)
            # The derainer sees O1 as data: it must not make its own task easier by changing G.
            B1, B_r = torch.split(self.Der(torch.cat((self._varied(B_u, O1.detach()), O_r))), n)
            F_1 = self.DEM(O1, self._clean_of_pseudo(B_u, B1, stage2=B_rw is not None))

            pairs = {"B_r,F_r": (B_r, F_r), "B_r,F_1": (B_r, F_1), "B1,F_1": (B1, F_1)}
            wanted: list[str] = [term for term in s.adversarial_terms if term in pairs]
            if s.self_reconstruction and "B_r,F_r" not in wanted:
                wanted.append("B_r,F_r")
            fakes = {"B_u,F_r": O1}
            if wanted:
                images, information = (
                    torch.cat(part) for part in zip(*map(pairs.__getitem__, wanted), strict=True)
                )
                images = images if s.adversarial_to_derainer else images.detach()
                fakes |= zip(wanted, torch.split(self.G(images, information), n), strict=True)

            judged = torch.cat([fakes[term] for term in s.adversarial_terms])
            losses = {
                "adv": len(s.adversarial_terms) * lsgan_loss(self.D(judged), real=True),
                "psnr": psnr_loss(B1, B_u),
                "ssim": ssim_loss(B1, B_u),
            }
            total = s.adversarial_weight * losses["adv"] + s.lambda1 * (losses["psnr"] + losses["ssim"])
            if s.self_reconstruction:
                losses["self"] = (fakes["B_r,F_r"] - O_r).abs().mean()
                total = total + s.self_reconstruction * losses["self"]
            if s.clean_identity:
                losses["identity"] = self.DEM(B_u).abs().mean()
                total = total + s.clean_identity * losses["identity"]
            if B_rw is not None:
                chosen = torch.ones(n, dtype=torch.bool, device=O_r.device) if rewarded is None else rewarded
                # A reward weighs the same whichever worker has it.
                share = chosen.sum() / mean_over_workers(chosen.sum().float()).clamp(min=1e-6)
                if chosen.any():
                    losses["re"] = reinforcement_loss(B_r[chosen], B_rw[chosen], s.reinforcement)
                    total = total + s.lambda2 * share * losses["re"]

        self.derainer_optimizer.zero_grad(set_to_none=True)
        self.generator_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        for network in (self.derainer, self.G, self.DEM):
            average_gradients(network.parameters())
        self.derainer_optimizer.step()
        self.generator_optimizer.step()
        seen_by_D = O1 if s.discriminator_fakes == "O1" else judged
        return {name: value.detach() for name, value in losses.items()}, seen_by_D.detach()

    def _update_discriminator(self, O_r: Tensor, fake: Tensor) -> Tensor:
        with self._autocast():
            real, false = torch.split(self.D(torch.cat((O_r, fake))), [len(O_r), len(fake)])
            loss = 0.5 * (lsgan_loss(real, real=True) + lsgan_loss(false, real=False))
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        average_gradients(self.D.parameters())
        self.discriminator_optimizer.step()
        return loss.detach()

    def _varied(self, B_u: Tensor, O1: Tensor) -> Tensor:
        """O1, with other strengths of rain in half of its crops."""
        if self.settings.rain_gain == 1:
            return O1
        # Of the step alone, so that a resumed run draws what it would have drawn.
        draws = torch.rand(2, len(O1), 1, 1, 1, generator=torch.Generator().manual_seed(self.steps))
        draws[0] = torch.where(draws[1] < 0.5, self.settings.rain_gain ** (2 * draws[0] - 1), 1.0)
        return B_u + draws[0].to(O1) * (O1 - B_u)

    def _clean_of_rainy(self, O_r: Tensor, B_rw: Tensor | None, rewarded: Tensor | None) -> Tensor | None:
        """DEM's switch for O_r: its reward, and the U-Net's estimate where there is none."""
        if B_rw is None or not self.settings.dem_switch:
            return None
        if rewarded is None or rewarded.all():
            return B_rw
        return torch.where(rewarded[:, None, None, None], B_rw, self.DEM.clean(O_r))

    def _clean_of_pseudo(self, B_u: Tensor, B1: Tensor, *, stage2: bool) -> Tensor | None:
        """DEM's switch for O1, which never has a reward."""
        if not stage2 or self.settings.dem_source_stage2 == "unet":
            return None
        return B1.detach() if self.settings.dem_source_stage2 == "derained" else B_u

    @torch.no_grad()
    def _average(self) -> None:
        # Early weights say nothing: the average forgets them as fast as a plain mean would.
        decay = min(self.settings.ema, self.steps / (self.steps + 10))
        for average, weight in zip(self.averaged.parameters(), self.derainer.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        for buffer, current in zip(self.averaged.buffers(), self.derainer.buffers(), strict=True):
            buffer.copy_(current)

    def _autocast(self) -> torch.autocast:
        bfloat16 = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bfloat16)

    _PARTS = ("derainer", "averaged", "G", "DEM", "D")
    _OPTIMIZERS = ("derainer_optimizer", "generator_optimizer", "discriminator_optimizer")

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        parts = {name: getattr(self, name).state_dict() for name in self._PARTS + self._OPTIMIZERS}
        return {"steps": self.steps, **parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.steps = state["steps"]
        for name in self._PARTS + self._OPTIMIZERS:
            getattr(self, name).load_state_dict(state[name])

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

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trainer.methods.base import Method, MethodSettings, OptimizerSettings, adam
from trainer.methods.losses import lsgan_loss, psnr_loss, ssim_loss
from trainer.models.dem import DEM, DEMSettings
from trainer.models.discriminator import Discriminator, DiscriminatorSettings
from trainer.models.generator import Generator, GeneratorSettings

AdversarialTerm = Literal["B_u,F_r", "B_r,F_r", "B_r,F_1", "B1,F_1"]
TERMS: tuple[AdversarialTerm, ...] = ("B_u,F_r", "B_r,F_r", "B_r,F_1", "B1,F_1")


class RGSUDSettings(MethodSettings):
    """The defaults are the paper's plain form."""

    networks = ("generator", "dem", "discriminator")
    name: Literal["rgsud"] = "rgsud"
    """Of the method."""
    generator: GeneratorSettings = GeneratorSettings()
    """G."""
    dem: DEMSettings = DEMSettings()
    """DEM."""
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    """D."""
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
    dem_switch: bool = True
    """Whether DEM takes the reward of O_r as its clean part in stage 2; if not, its U-Net as in stage 1."""
    dem_source_stage2: Literal["unet", "derained", "truth"] = "unet"
    """What DEM takes as the clean part of O1 in stage 2: its U-Net, B1, or B_u."""
    self_reconstruction: float = 0.0
    """Factor on |G(B_r, F_r) - O_r|: the rain of an image, laid over its derained version, gives it back."""
    clean_identity: float = 0.0
    """Factor on |F(B_u)|: a clean image has no rain to extract."""

    def refuse(self, crop: int) -> str | None:
        downscale, layers = self.generator.downscale, self.discriminator.layers
        if crop % downscale:
            return f"data.crop {crop} is no multiple of method.generator.downscale {downscale}: change it"
        if crop < 2 ** (layers + 1):
            return f"data.crop {crop} is too small for method.discriminator.layers {layers}: take fewer"
        return None


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Gradients pass through the module but leave nothing on its weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


class RGSUD(Method):
    """The paper's method: G lays rain over clean crops, D tells it from real rain."""

    parts = (*Method.parts, "G", "DEM", "D", "generator_optimizer", "discriminator_optimizer")

    def __init__(
        self, settings: RGSUDSettings, derainer: nn.Module, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(settings, derainer, device)
        self.settings = settings
        self.G = Generator(settings.generator).to(**self._place)
        self.DEM = DEM(settings.dem).to(**self._place)
        self.D = Discriminator(settings.discriminator).to(**self._place)
        self.generator_optimizer = adam(settings.generator_optimizer, self.G, self.DEM)
        self.discriminator_optimizer = adam(settings.discriminator_optimizer, self.D)

    def _update(
        self, O_r: Tensor, B_u: Tensor, B_rw: Tensor | None, rewarded: Tensor | None, R: Tensor | None
    ) -> dict[str, Tensor]:
        losses, O1 = self._update_generator_and_derainer(O_r, B_u, B_rw, rewarded)
        losses["D"] = self._update_discriminator(O_r, O1)
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
            if B_rw is not None and (reinforced := self._reinforcement(B_r, B_rw, rewarded)):
                losses["re"], weighted = reinforced
                total = total + weighted

        self._descend(
            total,
            (self.derainer_optimizer, [self.derainer]),
            (self.generator_optimizer, [self.G, self.DEM]),
        )
        seen_by_D = O1 if s.discriminator_fakes == "O1" else judged
        return {name: value.detach() for name, value in losses.items()}, seen_by_D.detach()

    def _update_discriminator(self, O_r: Tensor, fake: Tensor) -> Tensor:
        with self._autocast():
            real, false = torch.split(self.D(torch.cat((O_r, fake))), [len(O_r), len(fake)])
            loss = 0.5 * (lsgan_loss(real, real=True) + lsgan_loss(false, real=False))
        self._descend(loss, (self.discriminator_optimizer, [self.D]))
        return loss.detach()

    def _varied(self, B_u: Tensor, O1: Tensor) -> Tensor:
        """O1, with other strengths of rain in half of its crops."""
        return O1 if self.settings.rain_gain == 1 else B_u + self._gains(len(O1)) * (O1 - B_u)

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

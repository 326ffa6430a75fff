"""The training step of RGSUD, in the paper's symbols (arXiv 2605.00719).

========  =====================================================================
B_u       unpaired clean crop
O_r       real rainy crop, of another scene
F_r, F_1  rain information of O_r and of O1, by DEM
O1        F_r laid over B_u: pseudo rainy crop
B1, B_r   Der(O1), Der(O_r)
B_rw      reward: the best derained version of O_r seen so far, from the pool
========  =====================================================================

Images are N,3,H,W in [0,1]. Stage 1 has no B_rw. Three parts can be chosen: the sources that DEM's switch
takes rain from in each stage, how that lies over a scene, and whether there is a discriminator. The paper is
``{1: [unet], 2: [reward, unet]}``, a ResNet, and a discriminator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.optim import Adam

from rgsud_core.degradation.rain import RainModel
from rgsud_core.settings import Settings
from trainer.batch import Batch
from trainer.methods.base import Method, MethodSettings, OptimizerSettings, adam
from trainer.methods.camera import Camera, CameraSettings
from trainer.methods.losses import lsgan_loss, psnr_loss, ssim_loss
from trainer.methods.sources import SOURCES, AnySource, Finding, Flat, RewardSmoothSettings, Source
from trainer.models.dem import DEM, DEMSettings
from trainer.models.discriminator import Discriminator, DiscriminatorSettings
from trainer.models.generator import Generator, GeneratorSettings
from trainer.rain.radiance import find_radiance
from trainer.rain.search import Photographs, RainSearchSettings

AdversarialTerm = Literal["B_u,F_r", "B_r,F_r", "B_r,F_1", "B1,F_1"]
"""An image, and the rain information that is laid over it."""
TERMS: tuple[AdversarialTerm, ...] = ("B_u,F_r", "B_r,F_r", "B_r,F_1", "B1,F_1")


class RGSUDSettings(MethodSettings):
    """The paper's method; what is not in the paper can be chosen, and is off by default."""

    name: str = "rgsud"
    """Name of the method."""
    sources: dict[Literal[1, 2], tuple[AnySource, ...]] = Field(
        default={1: ("unet",), 2: ("reward", "unet")}, validate_default=True
    )
    """Sources of rain for stage 1 and stage 2, in order, as names or as mappings with settings: `unet`,
    `reward`, `reward_smooth`, `flat`, `rendered`, or `package.module:Class`. A crop takes the first source
    that has rain for it; the last serves all crops that are left. One list is for both stages."""
    overlay: Literal["resnet", "add", "blend", "auto"] = "resnet"
    """How rain lies over a clean crop: by the generator (`resnet`), as light that is added (`add`), blended
    towards the luma `radiance` (`blend`), or added or blended as the rainy photographs show it (`auto`)."""
    radiance: float | None = Field(None, gt=0.2, le=1)
    """Luma of blended rain, in [0,1]. Default: estimated from the rainy photographs."""
    camera: CameraSettings | None = None
    """What becomes of pseudo rainy crops and of their truth: mist, noise, compression. Default: nothing."""
    generator: GeneratorSettings = GeneratorSettings()
    """Sizes of the generator G, which is the overlay `resnet`."""
    dem: DEMSettings = DEMSettings()
    """Sizes of the U-Net of DEM (degradation extraction module), which is the source `unet`."""
    discriminator: DiscriminatorSettings | None = DiscriminatorSettings()
    """Sizes of the discriminator D, which tells real from pseudo rainy crops; null trains without it."""
    generator_optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer of the generator and of DEM."""
    discriminator_optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer of the discriminator."""
    adversarial_terms: tuple[AdversarialTerm, ...] = Field(TERMS, min_length=1)
    """Rainy images that the discriminator judges in L_adv, as pairs: an image, and the rain laid over it. B_u
    is the clean crop, O1 its pseudo rainy version, B1 and B_r are O1 and the real rainy crop O_r after
    deraining, F_1 and F_r the rain of O1 and O_r."""
    adversarial_weight: float = 1.0
    """Factor on L_adv, the adversarial loss."""
    adversarial_to_derainer: bool = True
    """Whether the gradients of L_adv and of the self-reconstruction reach the derainer."""
    discriminator_fakes: Literal["O1", "all"] = "O1"
    """What the discriminator learns to tell from real rain: the pseudo rainy crops alone (`O1`), or all terms
    of L_adv."""
    dem_source_stage2: Literal["unet", "derained", "truth"] = "unet"
    """Clean part of pseudo rainy crops, for their rain F_1 in stage 2: the output of DEM's U-Net (`unet`),
    the derained crop (`derained`), or the clean crop that they were made of (`truth`)."""
    self_reconstruction: float = 0.0
    """Factor on |G(B_r, F_r) - O_r|: the rain of a crop, laid over its derained version, gives the crop
    back."""
    clean_identity: float = 0.0
    """Factor on |F(B_u)|: a clean image has no rain to extract."""

    @field_validator("sources", mode="before")
    @classmethod
    def _of_both_stages(cls, given: Any) -> Any:
        if isinstance(given, list | tuple | str):
            given = {1: [given] if isinstance(given, str) else given}
        if not isinstance(given, dict):
            return given
        lists = {int(key) if str(key) in ("1", "2") else key: value for key, value in given.items()}
        lists.setdefault(2, lists.setdefault(1, ["unet"]))
        named = {one["name"]: one for part in lists.values() for one in part if _has_settings(one)}
        # Settings that a source has in one stage are its settings.
        return {
            key: [named.get(one, one) if isinstance(one, str) else one for one in part]
            for key, part in lists.items()
        }

    @model_validator(mode="after")
    def _parts_fit(self) -> RGSUDSettings:
        for stage in (1, 2):
            names = [source.name for source in self.sources.get(stage, ())]
            if not names:
                raise ValueError(f"sources of stage {stage} are missing: name one, as [unet]")
            if not SOURCES.find(names[-1]).serves_all or self.sources[stage][-1].share < 1:
                raise ValueError(
                    f"'{names[-1]}' cannot be the last source of stage {stage}: it has no rain for some "
                    "crops, so end with unet, flat or rendered"
                )
        residual = [name for name in self.names if SOURCES.find(name).residual]
        if self.discriminator is None and self.overlay == "resnet":
            raise ValueError(
                "overlay resnet learns from a discriminator: take overlay add, or keep the discriminator"
            )
        if self.discriminator is None and self.has_unet:
            raise ValueError(
                "source unet learns from a discriminator: take other sources, or keep the discriminator"
            )
        if self.overlay in ("blend", "auto") and residual:
            raise ValueError(
                f"source {residual[0]} gives residuals, which overlay {self.overlay} does not take: take add"
            )
        if self.clean_identity and not self.has_unet:
            raise ValueError("clean_identity teaches the U-Net: take the source unet, or leave it out")
        return self

    @property
    def names(self) -> list[str]:
        """The sources of both stages, each once."""
        return list(dict.fromkeys(source.name for part in self.sources.values() for source in part))

    @property
    def has_unet(self) -> bool:
        """Whether DEM has its U-Net."""
        return "unet" in self.names

    @property
    def needs_rainy(self) -> bool:
        return self.discriminator is not None or any(SOURCES.find(name).needs_rainy for name in self.names)

    def uses(self, image: str) -> bool:
        """Whether a term of the losses lays rain over the image, as ``B_r``."""
        terms = (*self.adversarial_terms, *(["B_r,F_r"] if self.self_reconstruction else []))
        return any(term.startswith(f"{image},") for term in terms)

    def networks(self) -> dict[str, Settings]:
        present: dict[str, Settings] = {}
        if self.overlay == "resnet":
            present["generator"] = self.generator
        if self.has_unet:
            present["dem"] = self.dem
        if self.discriminator is not None:
            present["discriminator"] = self.discriminator
        return present

    def refuse(self, crop: int) -> str | None:
        downscale = self.generator.downscale
        if self.overlay == "resnet" and crop % downscale:
            return f"data.crop {crop} is no multiple of method.generator.downscale {downscale}: change it"
        if self.discriminator is not None and crop < 2 ** (self.discriminator.layers + 1):
            layers = self.discriminator.layers
            return f"data.crop {crop} is too small for method.discriminator.layers {layers}: take fewer"
        for source in (source for part in self.sources.values() for source in part):
            if isinstance(source, RewardSmoothSettings) and crop <= source.kernel // 2:
                return f"sigma {source.sigma:g} of the source reward_smooth is too large for crops of {crop}"
        return None


def _has_settings(source: Any) -> bool:
    return isinstance(source, dict) and "name" in source


@contextmanager
def frozen(module: nn.Module | None) -> Iterator[None]:
    """Gradients pass through the module but leave nothing on its weights."""
    if module is not None:
        module.requires_grad_(False)
    try:
        yield
    finally:
        if module is not None:
            module.requires_grad_(True)


class RGSUD(Method):
    """The paper's method: rain of several sources, laid over clean crops; D tells it from real rain."""

    Settings = RGSUDSettings
    settings: RGSUDSettings
    G: Generator | None = None
    DEM: DEM | None = None
    D: Discriminator | None = None

    def __init__(
        self, settings: RGSUDSettings, derainer: nn.Module, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(settings, derainer, device)
        self._by_name: dict[str, Source] = {}
        for part in settings.sources.values():
            for source in part:
                self._by_name.setdefault(source.name, SOURCES.build(source))
        self.sources = {
            stage: [self._by_name[source.name] for source in part] for stage, part in settings.sources.items()
        }
        self.drawing = [source for source in self._by_name.values() if source.draws]
        self.model = RainModel(settings.radiance if settings.overlay in ("blend", "auto") else None)
        self.camera = None if settings.camera is None else Camera(settings.camera)
        if settings.overlay == "resnet":
            self.G = Generator(settings.generator).to(**self._place)
        if settings.has_unet:
            self.DEM = DEM(settings.dem).to(**self._place)
        if settings.discriminator is not None:
            self.D = Discriminator(settings.discriminator).to(**self._place)
        self.learners: list[tuple[Adam, Sequence[nn.Module]]] = [(self.derainer_optimizer, [self.derainer])]
        generating: list[nn.Module] = [network for network in (self.G, self.DEM) if network is not None]
        if generating:
            self.generator_optimizer = adam(settings.generator_optimizer, *generating)
            self.learners.append((self.generator_optimizer, generating))
        if self.D is not None:
            self.discriminator_optimizer = adam(settings.discriminator_optimizer, self.D)
        more = ("G", "DEM", "D", "generator_optimizer", "discriminator_optimizer")
        self.parts += [name for name in more if getattr(self, name, None) is not None]

    def begin(self, rainy: Photographs, crop: int, seed: int) -> Iterator[Finding]:
        s = self.settings
        if s.overlay in ("blend", "auto") and s.radiance is None:
            flat = next((source.settings for source in self.drawing if isinstance(source, Flat)), None)
            radiance = find_radiance(rainy, flat or RainSearchSettings(), seed=seed)
            if radiance is None and s.overlay == "blend":
                yield Finding("The photographs do not show a radiance of blended rain: its light is added")
            self.model = RainModel(radiance)
        for source in self._by_name.values():
            yield from source.prepare(rainy, crop, seed, self.model)

    def prepare(self, batch: Batch) -> Batch:
        """Also choose the source of each crop's rain, and how strong the derainer sees it."""
        batch = super().prepare(batch)
        sources = self.sources[1 if batch.B_rw is None else 2]
        left = torch.ones(len(batch), dtype=torch.bool)
        chosen = torch.full((len(batch),), len(sources) - 1)
        for index, source in enumerate(sources[:-1]):
            takes = source.has(batch, self.model) & left
            if source.settings.share < 1:
                draws = torch.Generator().manual_seed(1_000_003 * self.steps + index)
                takes &= torch.rand(len(batch), generator=draws) < source.settings.share
            chosen[takes] = index
            left &= ~takes
        gain = None if self.settings.rain_gain == 1 else self._gains(len(batch))
        if self.camera is not None:
            tint = self.camera.tint(len(batch), self.steps)
            gain = tint if gain is None else gain * tint
            batch = replace(batch, B_u=self.camera.scene(batch.B_u, self.steps))
        return replace(batch, source=chosen, gain=gain)

    def rain(self, batch: Batch) -> Tensor:
        """F_r: the rain of each crop by its source, N,3,c,c residual, or N,1,c,c light or opacity."""
        assert batch.source is not None
        sources = self.sources[1 if batch.B_rw is None else 2]
        clean = _no_unet if self.DEM is None else self.DEM.clean
        first, *others = sorted(set(batch.source.tolist()))
        rain = sources[first].rain(batch, clean)
        for index in others:
            takes = (batch.source == index)[:, None, None, None].to(self.device)
            rain = torch.where(takes, sources[index].rain(batch, clean), rain)
        # D and its terms take images; what is only added or blended may stay grey.
        grey = self.G is None and self.D is None
        wide: Tensor = rain if grey else rain.expand_as(batch.O_r)
        return wide

    def lay(self, rain: Tensor, scene: Tensor) -> Tensor:
        """Rain over scenes N,3,c,c, by the overlay."""
        out: Tensor = self.model.over(scene, rain) if self.G is None else self.G(scene, rain)
        return out

    def update(self, batch: Batch) -> dict[str, Tensor]:
        s, D = self.settings, self.D
        O_r, B_u = batch.O_r, batch.B_u
        reinforces = batch.B_rw is not None and s.lambda2 > 0
        judges_derained = D is not None and s.uses("B_r")
        with self.autocast(), frozen(D):
            F_r = self.rain(batch)
            O1 = self.lay(F_r, B_u) if D is not None else None
            shown, truth = self._shown(batch, F_r, O1), B_u
            if self.camera is not None:
                shown, truth = self.camera.photograph(shown, truth, self.steps)
            B1, B_r = self._derained(shown, O_r if reinforces or judges_derained else None)
            losses: dict[str, Tensor] = {}
            if D is not None and O1 is not None:
                fakes = self._fakes(batch, F_r, O1, B1, B_r)
                judged = torch.cat([fakes[term] for term in s.adversarial_terms])
                losses["adv"] = len(s.adversarial_terms) * lsgan_loss(D(judged), real=True)
            losses |= {"psnr": psnr_loss(B1, truth), "ssim": ssim_loss(B1, truth)}
            total = s.lambda1 * (losses["psnr"] + losses["ssim"])
            if D is not None:
                total = s.adversarial_weight * losses["adv"] + total
                if s.self_reconstruction:
                    losses["self"] = (fakes["B_r,F_r"] - O_r).abs().mean()
                    total = total + s.self_reconstruction * losses["self"]
                if s.clean_identity and self.DEM is not None:
                    losses["identity"] = self.DEM(B_u).abs().mean()
                    total = total + s.clean_identity * losses["identity"]
            if reinforces and (found := self.reinforcement(B_r, batch)):
                losses["re"], weighted = found
                total = total + weighted
        self.descend(total, *self.learners)
        if D is not None and O1 is not None:
            seen = O1 if s.discriminator_fakes == "O1" else judged
            losses["D"] = self._update_discriminator(D, O_r, seen.detach())
        return {name: value.detach() for name, value in losses.items()}

    def _shown(self, batch: Batch, F_r: Tensor, O1: Tensor | None) -> Tensor:
        """The pseudo rainy crops as the derainer sees them, some in weaker or stronger rain.

        They are data to it: it must not make its own task easier by changing G or DEM.
        """
        if self.G is None:
            rain = F_r.detach()
            shown: Tensor = self.model.over(batch.B_u, rain if batch.gain is None else batch.gain * rain)
            return shown
        assert O1 is not None
        O1 = O1.detach()
        return O1 if batch.gain is None else batch.B_u + batch.gain * (O1 - batch.B_u)

    def _derained(self, shown: Tensor, O_r: Tensor | None) -> tuple[Tensor, Tensor]:
        derained = self.Der(shown if O_r is None else torch.cat((shown, O_r)))
        return derained[: len(shown)], derained[len(shown) :]

    def _fakes(
        self, batch: Batch, F_r: Tensor, O1: Tensor, B1: Tensor, B_r: Tensor
    ) -> dict[AdversarialTerm, Tensor]:
        """Rainy images by the terms of the settings; none is made that is not used."""
        s, n = self.settings, len(batch)
        wanted: list[AdversarialTerm] = [term for term in s.adversarial_terms if term != "B_u,F_r"]
        if s.self_reconstruction and "B_r,F_r" not in wanted:
            wanted.append("B_r,F_r")
        fakes: dict[AdversarialTerm, Tensor] = {"B_u,F_r": O1}
        if not wanted:
            return fakes
        F_1 = self._rain_of_pseudo(batch, O1, B1) if any(term.endswith("F_1") for term in wanted) else F_r
        parts = {"B1": B1, "B_r": B_r, "F_r": F_r, "F_1": F_1}
        pairs = [[parts[name] for name in term.split(",")] for term in wanted]
        images, rain = (torch.cat(part) for part in zip(*pairs, strict=True))
        images = images if s.adversarial_to_derainer else images.detach()
        return fakes | dict(zip(wanted, torch.split(self.lay(rain, images), n), strict=True))

    def _rain_of_pseudo(self, batch: Batch, O1: Tensor, B1: Tensor) -> Tensor:
        """F_1, by DEM's switch for O1, which never has a reward."""
        choice = "unet" if batch.B_rw is None else self.settings.dem_source_stage2
        if self.DEM is None or choice == "truth":
            return O1 - batch.B_u
        rain: Tensor = self.DEM(O1, B1.detach() if choice == "derained" else None)
        return rain

    def _update_discriminator(self, D: Discriminator, O_r: Tensor, fake: Tensor) -> Tensor:
        with self.autocast():
            real, false = torch.split(D(torch.cat((O_r, fake))), [len(O_r), len(fake)])
            loss = 0.5 * (lsgan_loss(real, real=True) + lsgan_loss(false, real=False))
        self.descend(loss, (self.discriminator_optimizer, [D]))
        return loss.detach()


def _no_unet(image: Tensor) -> Tensor:
    raise AssertionError("a source asks for DEM's U-Net, which only the source unet brings")

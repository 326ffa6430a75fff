"""Training on rain that was found in the rainy photographs themselves, and on the rewards.

No GAN: the pseudo pairs are clean crops under rain from flat places of rainy photographs
(trainer/rain/search.py). In stage 2 the rewards show where else the scene is smooth, and so the rain before
it, in nearly every photograph: it is laid over clean crops too. L_re teaches the real crops.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from rgsud_core.settings import Settings
from trainer.methods.base import Method, MethodSettings
from trainer.methods.losses import gaussian_blur, psnr_loss, ssim_loss

CONTRAST = 0.15
"""Between blended rain and the scene behind it, at least; with less its opacity cannot be told."""


class RewardRainSettings(Settings):
    """Rain before the smooth places of a reward."""

    detail: float = Field(0.035, ge=0)
    """Root mean square, in [0,1], of the detail that the reward may have there; 0 is no rain of rewards."""
    sigma: float = Field(3.0, gt=0)
    """Of the Gaussian that detail is what is left of, pixels."""
    window: int = Field(31, ge=3)
    """Side of the squares that are looked at, odd, pixels."""
    brightest: float = Field(0.75, gt=0, le=1)
    """Mean of the scene up to which rain shows its full strength: over bright sky it is cut off."""
    coverage: float = Field(0.4, gt=0, le=1)
    """Share of a crop that must be smooth for its rain to be used."""

    @field_validator("window")
    @classmethod
    def _odd(cls, window: int) -> int:
        if window % 2 == 0:
            raise ValueError(f"{window} is even, and a window has a middle: take {window + 1}")
        return window

    @property
    def kernel(self) -> int:
        """Side of the Gaussian, pixels."""
        return 2 * round(2.5 * self.sigma) + 1


class FoundRainSettings(MethodSettings):
    """What the method adds to those of all."""

    finds_rain = True
    name: Literal["found-rain"] = "found-rain"
    """Of the method."""
    reward_rain: RewardRainSettings = RewardRainSettings()
    """Stage 2."""
    radiance: Annotated[float, Field(gt=0.2, le=1)] | Literal["auto"] | None = None
    """Of the rain itself, in [0,1], where it is blended with the scene and darkens what is brighter than it
    (streaks of a long exposure, much rendered rain); none adds its light to whatever is behind it, `auto`
    asks the rainy photographs which it is."""

    def refuse(self, crop: int) -> str | None:
        if crop <= self.reward_rain.kernel // 2:
            return f"method.reward_rain.sigma {self.reward_rain.sigma:g} is too large for crops of {crop}"
        return None


def rain_before(
    reward: Tensor, image: Tensor, settings: RewardRainSettings, radiance: float | None = None
) -> tuple[Tensor, Tensor]:
    """The rain in front of the smooth places of a scene, as its reward shows it.

    There the scene is taken for its blurred self: what the reward has left of streaks is detail, and counts
    as rain. Left out are squares with more detail than was taken from them, which is scene for the most part.

    Args:
        reward, image: B_rw and O_r, N,3,H,W in [0,1].
        radiance: of rain that is blended in.

    Returns:
        Light, or the opacity of what is blended in, N,1,H,W, zero elsewhere; and the share of each crop that
        is smooth, N.
    """

    def mean(image: Tensor, side: int) -> Tensor:
        return F.avg_pool2d(image, side, stride=1, padding=side // 2, count_include_pad=False)

    reward, image = reward.mean(dim=1, keepdim=True), image.mean(dim=1, keepdim=True)
    scene = gaussian_blur(torch.minimum(reward, image), settings.kernel, settings.sigma)
    detail = mean((reward - scene).square(), settings.window)
    taken = mean((image - reward).square(), settings.window)
    smooth = (detail < settings.detail**2) & (detail < taken)
    brightest = settings.brightest if radiance is None else min(settings.brightest, radiance - CONTRAST)
    smooth = (smooth & (mean(scene, settings.window) < brightest)).float()
    light = (image - scene).clamp(min=0)
    if radiance is not None:
        light = (light / (radiance - scene).clamp(min=CONTRAST)).clamp(max=1)
    return light * smooth * mean(smooth, 9), smooth.mean(dim=(1, 2, 3))


class FoundRain(Method):
    """A derainer on found rain; no other network."""

    def __init__(
        self, settings: FoundRainSettings, derainer: nn.Module, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(settings, derainer, device)
        assert settings.radiance != "auto", "to be asked of the photographs first"
        self.settings, self.radiance = settings, settings.radiance

    def _rain_over(self, scene: Tensor, rain: Tensor) -> Tensor:
        if self.radiance is None:  # the sum of a photograph and rain is cut off where it is white
            return (scene + rain).clamp(0, 1)
        return scene + rain.clamp(max=1) * (self.radiance - scene)

    def _update(
        self, O_r: Tensor, B_u: Tensor, B_rw: Tensor | None, rewarded: Tensor | None, R: Tensor | None
    ) -> dict[str, Tensor]:
        assert R is not None, "the data of this method come with found rain"
        s = self.settings
        if B_rw is not None and s.reward_rain.detail:
            light, share = rain_before(B_rw, O_r, s.reward_rain, self.radiance)
            enough = share > s.reward_rain.coverage
            enough = enough if rewarded is None else enough & rewarded
            R = torch.where(enough[:, None, None, None], light, R)
        O1 = self._rain_over(B_u, self._gains(len(B_u)) * R)
        with self._autocast():
            reinforces = B_rw is not None and s.lambda2 > 0
            derained = self.Der(torch.cat((O1, O_r)) if reinforces else O1)
            B1, B_r = derained[: len(O1)], derained[len(O1) :]
            losses = {"psnr": psnr_loss(B1, B_u), "ssim": ssim_loss(B1, B_u)}
            total = s.lambda1 * (losses["psnr"] + losses["ssim"])
            if B_rw is not None and reinforces and (found := self._reinforcement(B_r, B_rw, rewarded)):
                losses["re"], weighted = found
                total = total + weighted

        self._descend(total, (self.derainer_optimizer, [self.derainer]))
        return {name: value.detach() for name, value in losses.items()}

"""Training on pairs: the upper bound of what any source of rain can teach."""

from __future__ import annotations

from torch import Tensor

from trainer.batch import Batch
from trainer.methods.base import Method, MethodSettings
from trainer.methods.losses import psnr_loss, ssim_loss


class SupervisedSettings(MethodSettings):
    """Settings of training on pairs: `data.clean` holds the truths of `data.rainy`, by the same names."""

    name: str = "supervised"
    """Name of the method."""


class Supervised(Method):
    """A derainer that learns the truth of each rainy crop; rewards are not used."""

    Settings = SupervisedSettings
    paired = True

    def update(self, batch: Batch) -> dict[str, Tensor]:
        with self.autocast():
            B_r = self.Der(batch.O_r)
            losses = {"psnr": psnr_loss(B_r, batch.B_u), "ssim": ssim_loss(B_r, batch.B_u)}
            total = self.settings.lambda1 * (losses["psnr"] + losses["ssim"])
        self.descend(total, (self.derainer_optimizer, [self.derainer]))
        return {name: value.detach() for name, value in losses.items()}

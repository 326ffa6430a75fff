"""What one training step is given."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import TrainerError


@dataclass(frozen=True)
class Crop:
    """A square box in the image of one id, pixels; `flip` mirrors it left to right."""

    id: str
    top: int
    left: int
    size: int
    flip: bool

    def cut(self, image: NDArray[Any]) -> NDArray[Any]:
        """This box of an image H,W,3 -> size,size,3. TrainerError where it reaches outside."""
        box = image[self.top : self.top + self.size, self.left : self.left + self.size]
        if box.shape[:2] != (self.size, self.size):
            raise TrainerError(
                f"'{self.id}' is {image.shape[1]}x{image.shape[0]}, too small for a crop of "
                f"{self.size}x{self.size} at {self.left},{self.top}: remove it or train on smaller crops."
            )
        return np.ascontiguousarray(box[:, ::-1] if self.flip else box)


@dataclass
class Batch:
    """N crops of either domain, and what belongs to the rainy ones.

    Images are N,3,c,c: uint8 as they are loaded, float in [0,1] in a step. Masks stay on the host, so that a
    step never waits for the device to decide.
    """

    O_r: Tensor
    """Real rainy crops."""
    B_u: Tensor
    """Clean crops of other scenes; of a method that trains on pairs, the truth of O_r."""
    crops: list[Crop] = field(default_factory=list)
    """Where O_r was cut."""
    B_rw: Tensor | None = None
    """Rewards of O_r, zero where there is none yet: makes this a step of stage 2."""
    rewarded: Tensor | None = None
    """Which crops have a reward, bool N; all of them if None."""
    rain: dict[str, Tensor] = field(default_factory=dict)
    """Rain by the name of its source, N,1,c,c: light to be added, or opacity."""
    has: dict[str, Tensor] = field(default_factory=dict)
    """Which of the rainy crops a source has rain for, bool N, by its name; all of them if it is not named."""

    source: Tensor | None = None
    """Which source of the method's list each crop takes its rain from, int64 N."""
    gain: Tensor | None = None
    """How many times as strong the derainer sees the rain of each pseudo pair, N,1,1,1 or N,3,1,1."""

    def __len__(self) -> int:
        return len(self.O_r)

    def images(self) -> Batch:
        """The same batch in float, [0,1], channels_last."""
        changed: dict[str, Any] = {name: _scaled(getattr(self, name)) for name in ("O_r", "B_u", "B_rw")}
        rain = {name: _scaled(light) for name, light in self.rain.items()}
        return replace(self, **changed, rain=rain)

    def to(self, device: torch.device) -> Batch:
        """The same batch with its images on a device; masks and crops stay on the host."""
        names = ("O_r", "B_u", "B_rw", "gain")
        moved: dict[str, Any] = {name: _moved(getattr(self, name), device) for name in names}
        rain = {name: _moved(light, device) for name, light in self.rain.items()}
        return replace(self, **moved, rain=rain)


def _scaled(images: Any) -> Any:
    if images is None:
        return None
    images = images.float().div_(255) if images.dtype == torch.uint8 else images
    return images.contiguous(memory_format=torch.channels_last)


def _moved(images: Any, device: torch.device) -> Any:
    if images is None:
        return None
    return images.to(device, non_blocking=True)

"""Where DEM takes the rain of a step from: the positions of its switch.

A method has an ordered list of sources for each stage. A crop takes the first one that has rain for it; the
last one of a list serves all crops that are left. Which crop has which rain is decided on the host.

============= ==================================================================================
unet          O_r - U-Net(O_r); the U-Net learns from the discriminator
reward        O_r - B_rw, where the image has a reward
reward_smooth the rain in front of the smooth places of a reward
flat          rain lifted from the flat places of the rainy photographs
rendered      streaks drawn by a renderer; needs no rainy photograph
============= ==================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator
from torch import Tensor

from rgsud_core.degradation.rain import RainModel
from rgsud_core.degradation.rendered import dense_look, random_look, render_rain
from rgsud_core.images import Image
from rgsud_core.settings import Percentage
from trainer.batch import Batch, Crop
from trainer.kinds import Kind, PartSettings
from trainer.models.blur import gaussian_blur
from trainer.rain.bank import RainBank
from trainer.rain.search import Photographs, RainSearchSettings


class SourceSettings(PartSettings):
    """Settings that every source has."""

    share: Percentage = Percentage(1)
    """Share of the crops that it serves where it has rain for them; the others go on down the list."""


@dataclass(frozen=True)
class Finding:
    """What a source found in the photographs before training."""

    text: str
    """A sentence for the log."""
    name: str = ""
    """File name of the pictures, without suffix."""
    rows: Sequence[tuple[tuple[Image, str], ...]] = ()
    """Pictures uint8 H,W,3 with captions, to be laid out in rows."""


class Source:
    """One position of the switch. A subclass overrides what it needs.

    A source that draws (``draws``) brings rain with each batch, made by the processes that load it; one that
    does not makes its rain of what the batch holds.
    """

    Settings: ClassVar[type[SourceSettings]] = SourceSettings
    draws: ClassVar[bool] = False
    residual: ClassVar[bool] = False
    """Whether its rain is a residual N,3,c,c with colours and signs; else light or opacity, N,1,c,c."""
    serves_all: ClassVar[bool] = True
    """Whether it can have rain for every crop, as the last of a list must."""
    needs_rainy: ClassVar[bool] = True
    """Whether its rain comes from the rainy photographs."""

    def __init__(self, settings: SourceSettings) -> None:
        self.settings = settings
        self.name = settings.name

    def prepare(self, rainy: Photographs, crop: int, seed: int, model: RainModel) -> Iterator[Finding]:
        """Once, before training: look at the rainy photographs. Crops will be of ``crop`` pixels."""
        return iter(())

    def draw(self, number: int, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        """Rain for batch ``number``, uint8 N,1,c,c, and which crops it is for if others follow, bool N.

        It must be the same in every process and in any order of calls.
        """
        raise NotImplementedError

    def has(self, batch: Batch, model: RainModel) -> Tensor:
        """Which crops it has rain for, bool N, on the host; it may put its rain into ``batch.rain``."""
        return batch.has.get(self.name, torch.ones(len(batch), dtype=torch.bool))

    def rain(self, batch: Batch, clean: Callable[[Tensor], Tensor]) -> Tensor:
        """The rain, on the device, of all crops; what it is where it has none does not matter.

        Args:
            batch: on the device.
            clean: the U-Net of DEM, N,3,c,c -> the same.
        """
        return batch.rain[self.name]


_HERE = "trainer.methods.sources"
SOURCES = Kind(
    "source of rain",
    Source,
    {
        "unet": f"{_HERE}:UNet",
        "reward": f"{_HERE}:Reward",
        "reward_smooth": f"{_HERE}:RewardSmooth",
        "flat": f"{_HERE}:Flat",
        "rendered": f"{_HERE}:Rendered",
    },
)
AnySource = Annotated[SourceSettings, BeforeValidator(SOURCES.settings), SerializeAsAny()]
"""Settings of the source that they name."""


class UNet(Source):
    """What DEM's U-Net takes from the rainy crop. It learns, so it needs the discriminator."""

    residual = True

    def rain(self, batch: Batch, clean: Callable[[Tensor], Tensor]) -> Tensor:
        return batch.O_r - clean(batch.O_r)


class Reward(Source):
    """What the rainy crop has beyond its reward."""

    residual = True
    serves_all = False

    def has(self, batch: Batch, model: RainModel) -> Tensor:
        none = torch.zeros(len(batch), dtype=torch.bool)
        return none if batch.B_rw is None else ~none if batch.rewarded is None else batch.rewarded

    def rain(self, batch: Batch, clean: Callable[[Tensor], Tensor]) -> Tensor:
        assert batch.B_rw is not None
        return batch.O_r - batch.B_rw


class RewardSmoothSettings(SourceSettings):
    """Settings of the rain in front of the smooth places of a reward."""

    detail: float = Field(0.035, gt=0)
    """Root mean square, in [0,1], of the detail that the reward may have there."""
    sigma: float = Field(3.0, gt=0)
    """Standard deviation, in pixels, of the Gaussian whose residual is the detail."""
    window: int = Field(31, ge=3)
    """Side of the squares that are looked at, odd, pixels."""
    brightest: float = Field(0.75, gt=0, le=1)
    """Mean of the scene up to which rain shows its full strength: in front of bright sky it is clipped."""
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


class RewardSmooth(Source):
    """The rain in front of the smooth places of a reward, for crops that are smooth enough."""

    Settings = RewardSmoothSettings
    serves_all = False
    settings: RewardSmoothSettings

    def has(self, batch: Batch, model: RainModel) -> Tensor:
        if batch.B_rw is None:
            return torch.zeros(len(batch), dtype=torch.bool)
        batch.rain[self.name], share = rain_before(batch.B_rw, batch.O_r, self.settings, model)
        enough = share > self.settings.coverage
        return enough if batch.rewarded is None else enough & batch.rewarded


def rain_before(
    reward: Tensor, image: Tensor, settings: RewardSmoothSettings, model: RainModel = RainModel()
) -> tuple[Tensor, Tensor]:
    """The rain in front of the smooth places of a scene, as its reward shows it.

    The scene there is taken to be the blurred reward: what the reward has left of streaks is detail, and
    counts as rain. Squares with more detail than was taken from them are mostly scene, and are left out.

    Args:
        reward: B_rw, N,3,H,W in [0,1].
        image: O_r, N,3,H,W in [0,1].

    Returns:
        Light or opacity N,1,H,W, zero elsewhere; and the share of each crop that is smooth, N.
    """

    def mean(image: Tensor, side: int) -> Tensor:
        return F.avg_pool2d(image, side, stride=1, padding=side // 2, count_include_pad=False)

    reward, image = reward.mean(dim=1, keepdim=True), image.mean(dim=1, keepdim=True)
    scene = gaussian_blur(torch.minimum(reward, image), settings.kernel, settings.sigma)
    detail = mean((reward - scene).square(), settings.window)
    taken = mean((image - reward).square(), settings.window)
    smooth = (detail < settings.detail**2) & (detail < taken)
    smooth = (smooth & (mean(scene, settings.window) < model.brightest(settings.brightest))).float()
    return model.between(scene, image) * smooth * mean(smooth, 9), smooth.mean(dim=(1, 2, 3))


class FlatSettings(SourceSettings, RainSearchSettings):
    """Settings of the rain that is lifted from flat places."""


class Flat(Source):
    """Rain from the flat places of the rainy photographs. In front of others it serves the crops of
    photographs in which some was found; as the last of a list, all."""

    Settings = FlatSettings
    settings: FlatSettings
    draws = True
    bank: RainBank

    def prepare(self, rainy: Photographs, crop: int, seed: int, model: RainModel) -> Iterator[Finding]:
        yield Finding(f"Looking for rain in front of flat places; it {model} ...")
        self.bank = RainBank(rainy, self.settings, crop=crop, seed=seed, model=model)
        rows = [
            ((image, f"rainy {id}"), (light, "rain found in it, three times as bright"))
            for id, image, light in self.bank.examples(4)
        ]
        found = f"Rain was found in {len(self.bank)} of {self.bank.searched} images"
        yield Finding(found, "found-rain", rows)

    def draw(self, number: int, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        found = torch.tensor([crop.id in self.bank.ids for crop in crops])
        return self.bank.draw(number, len(crops)), found


class RenderedSettings(SourceSettings):
    """Settings of rendered rain."""

    maps: int = Field(64, ge=1)
    """Pictures of rain that crops are cut from, each of another shower; rendered when first used."""
    weakest: float = Field(0.5, gt=0)
    """Strength of the weakest shower; 1 costs a photograph about as much as the rain of Rain100L."""
    strongest: float = Field(2.0, gt=0)
    """Strength of the strongest shower."""
    dense: Percentage = Percentage(0)
    """Share of the pictures that show a downpour: overlapping, mostly faint streaks, as in real photographs;
    the others show sparse, crisp ones, as in Rain100L."""
    dry: Percentage = Percentage(0)
    """Share of the crops that get no rain, so that a clean photograph stays as it is."""


class Rendered(Source):
    """Rain drawn by the renderer."""

    Settings = RenderedSettings
    settings: RenderedSettings
    draws = True
    needs_rainy = False

    def prepare(self, rainy: Photographs, crop: int, seed: int, model: RainModel) -> Iterator[Finding]:
        self.crop, self.seed = crop, seed
        self._maps: dict[int, NDArray[np.uint8]] = {}
        side = max(2 * crop, 256)
        self.side = side
        pictures = [np.stack([self._map(number)] * 3, axis=2) for number in range(min(4, self.settings.maps))]
        yield Finding(
            "Rain is rendered", "rendered-rain", [tuple((rain, "rendered rain") for rain in pictures)]
        )

    def draw(self, number: int, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, 4, number))
        rain = np.stack([self._cut(rng) for _ in crops])[:, None]
        return torch.from_numpy(rain), torch.ones(len(crops), dtype=torch.bool)

    def _cut(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        picture = self._map(int(rng.integers(self.settings.maps)))
        top, left = rng.integers(0, self.side - self.crop + 1, 2)
        rain = picture[top : top + self.crop, left : left + self.crop]
        rain = rain[:, :: rng.choice((-1, 1))]
        return np.zeros_like(rain) if rng.uniform() < self.settings.dry else np.ascontiguousarray(rain)

    def _map(self, number: int) -> NDArray[np.uint8]:
        if number not in self._maps:
            rng = np.random.default_rng((self.seed, 5, number))
            dense = rng.uniform() < self.settings.dense
            strength = rng.uniform(self.settings.weakest, self.settings.strongest)
            look = dense_look(rng) if dense else random_look(rng, strength)
            light = render_rain(self.side, self.side, look, rng)
            # What lies over the whole picture alike is mist, which no derainer of streaks can see.
            light = (light - np.percentile(light, 5)).clip(min=0)
            self._maps[number] = np.rint(255 * light).astype(np.uint8)
        return self._maps[number]

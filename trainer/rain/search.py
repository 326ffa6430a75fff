"""Rain as it is in the rainy photographs themselves, found where the scene behind it is flat.

A rainy image is scene plus rain. Where the scene is a smooth gradient (sky, walls, blurred background) it can
be told from the few pixels without rain, and what lies above it is rain: no network, no clean side, no
assumption about the shape of streaks. Laid over clean photographs of other scenes it gives training pairs
whose rain is real. Noise was taken from smooth places in this way for denoising (Chen et al., CVPR 2018).

Four properties of rain are used: it only adds light, it is nearly grey, it leaves gaps, and it is alike all
over an image. Fog leaves no gaps, and is not found. Rain may also be blended with the scene, so that it adds
light to what is darker than it and takes it from what is brighter; then its opacity is found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from rgsud_core.images import LUMA, Image
from rgsud_core.settings import Settings
from trainer.data.folders import ImageFolder
from trainer.errors import TrainerError
from trainer.methods.found_rain import CONTRAST

WINDOW, STRIDE = 32, 8
"""Side of the squares that are tested for flatness, and between two of them, pixels."""
_GAPS = 0.15
"""Quantile of a window at which the scene behind the rain is looked for."""
_REWEIGHTINGS = 12
_FULL = 0.3
"""Weight of overlapping windows from which on a pixel's rain counts fully; below it fades out."""
_STRONGEST = 4.0
"""Energy of a window's rain, over that of the image's median window, up to which it is taken for rain."""
_TILE = 8
"""Side of the parts of a window whose direction is compared with the image's, pixels."""
_COMMON, _DIRECTED = 0.15, 0.4
"""Anisotropy, 0 to 1, from which on the rain of an image, and what a tile holds, has a direction."""
_AGREEMENT = 0.5
"""Cosine of twice the angle, 30 degrees, by which a tile's direction is another than the image's."""
_ASKED, _WITNESSES = 40, 3
"""Images that are asked what the rain's radiance is, and those that must tell of either side of it."""
_WHITE, _CLEAR = 0.93, 0.1
"""Luma from which on a scene may be cut off, and lopsidedness that is no chance."""
_LARGEST = 512
"""Side of the part of an image that is searched, its upper left: skies are as good as any place."""
_SEARCH, _DRAW = 2, 3
_Y, _X = np.mgrid[:WINDOW, :WINDOW].reshape(2, -1) / WINDOW - 0.5
_PLANES = np.stack((np.ones_like(_X), _X, _Y), 1).astype(np.float32)
"""K,3: what the planes over a window are made of."""


class RainSearchSettings(Settings):
    """Where in rainy photographs the scene counts as flat."""

    images: int = Field(200, ge=1)
    """Rainy images that are searched, at most."""
    chroma: float = Field(0.010, gt=0)
    """Standard deviation of R-G and B-G, in [0,1], up to which a window may be flat."""
    below: float = Field(0.005, gt=0)
    """Root mean square of what lies below the scene's plane, in [0,1], up to which it is: rain only adds."""
    brightest: float = Field(0.75, gt=0, le=1)
    """Mean luma up to which rain shows its full strength: over bright sky it is cut off."""
    coverage: float = Field(0.4, gt=0, le=1)
    """Share of a crop that must be flat for its rain to be used."""


@dataclass(frozen=True)
class RainMap:
    """What was found in one image: float32 H,W each."""

    light: NDArray[np.float32]
    """What rain adds, or its opacity if it is blended in, in [0,1]; zero where the scene is not flat."""
    found: NDArray[np.float32]
    """Where it is, 0 to 1, fading at the edges."""


def find_rain(image: Image, settings: RainSearchSettings, radiance: float | None = None) -> RainMap:
    """The rain in front of the flat places of an image, uint8 H,W,3; with a ``radiance``, the luma in [0,1]
    of rain that is blended in, of those that are darker than that."""
    height, width = image.shape[:2]
    scaled: NDArray[np.float32] = image.astype(np.float32) / np.float32(255)
    corners, lights = [], [np.empty((0, WINDOW, WINDOW), np.float32)]
    for top, windows in _rows(scaled, STRIDE):
        kept, above = _above_plane(windows, settings, radiance)
        corners += [(top, left) for left in STRIDE * kept]
        lights.append(above.reshape(-1, WINDOW, WINDOW))
    found = np.concatenate(lights)

    weight = np.zeros((height, width), np.float32)
    light = np.zeros((height, width), np.float32)
    ramp = np.hanning(WINDOW + 2)[1:-1].astype(np.float32)
    window = np.outer(ramp, ramp)
    for index in np.flatnonzero(_alike(found)):
        top, left = corners[index]
        box = np.s_[top : top + WINDOW, left : left + WINDOW]
        light[box] += window * found[index]
        weight[box] += window
    share = np.minimum(weight / _FULL, 1)
    return RainMap(light / np.maximum(weight, 1e-6) * share, share)


def find_radiance(rainy: ImageFolder, settings: RainSearchSettings, *, seed: int) -> float | None:
    """The luma in [0,1] of rain that is blended with the scene: in front of what is darker its streaks are
    light, in front of what is brighter dark. None where it adds light, or where that cannot be told."""
    order = np.random.default_rng((seed, _SEARCH)).permutation(len(rainy))[: min(settings.images, _ASKED)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        looked = list(
            threads.map(lambda index: _lopsided(rainy.load(index), settings), sorted(order.tolist()))
        )
    level, lightness = (np.concatenate(parts) for parts in zip(*looked, strict=True))
    image = np.repeat(np.arange(len(looked)), [len(levels) for levels, _ in looked])
    # At the right one all below are lighter than their surroundings and all above darker.
    candidates = np.arange(0.3, _WHITE, 0.01)
    agreement = np.array([np.where(level < radiance, lightness, -lightness).sum() for radiance in candidates])
    radiance = float(candidates[agreement > agreement.max() - 1e-6].mean())
    above = level > radiance
    told = len(np.unique(image[above])) >= _WITNESSES and len(np.unique(image[~above])) >= _WITNESSES
    return round(radiance, 2) if told and np.median(lightness[above]) < -_CLEAR else None


def _lopsided(image: Image, settings: RainSearchSettings) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of the flat windows with streaks: the level of the scene, and how much farther their pixels lie above
    it than below, -1 to 1."""
    scaled: NDArray[np.float32] = image[:_LARGEST, :_LARGEST].astype(np.float32) / np.float32(255)
    levels, lightness = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    onto_planes = _PLANES @ np.linalg.pinv(_PLANES)
    for _, windows in _rows(scaled, 2 * STRIDE):
        luma = np.einsum("nck,c->nk", windows[_chroma(windows) < settings.chroma], LUMA)
        detail = luma - luma @ onto_planes.T
        low, high = np.quantile(detail, (_GAPS, 1 - _GAPS), axis=1, keepdims=True)
        below = np.sqrt(np.square(np.minimum(detail - low, 0)).mean(axis=1))
        above = np.sqrt(np.square(np.maximum(detail - high, 0)).mean(axis=1))
        level = np.median(luma, axis=1)
        streaked = (np.minimum(below, above) < settings.below) & (
            np.maximum(below, above) > settings.below / 2
        )
        streaked &= level < _WHITE
        levels.append(level[streaked])
        lightness.append(((above - below) / np.maximum(above + below, 1e-6))[streaked])
    return np.concatenate(levels), np.concatenate(lightness)


def _alike(light: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which windows N,W,W of an image hold rain alone: it has much the same strength and direction all over
    an image. Edges and lamps, which are found now and then, have not."""
    if not len(light):
        return np.empty(0, bool)
    energy = np.square(light).mean(axis=(1, 2))
    alike: NDArray[np.bool_] = energy <= _STRONGEST * np.median(energy)
    down, across = (_by_tile(np.asarray(slope)) for slope in np.gradient(light, axis=(1, 2)))
    strength = (across**2 + down**2).sum(axis=3)
    # Structure tensor: its angle is twice the direction, its length the strength where all agree in that.
    tensor = ((across + 1j * down) ** 2).sum(axis=3)
    common = (tensor.sum(axis=(1, 2)) / np.maximum(strength.sum(axis=(1, 2)), 1e-12)).mean()
    if abs(common) < _COMMON:  # snow
        return alike
    along = (tensor * common.conj()).real / abs(common)
    directed = np.abs(tensor) > _DIRECTED * strength
    strong = strength > strength.mean(axis=(1, 2), keepdims=True)
    against = directed & strong & (along < _AGREEMENT * np.abs(tensor))
    alike &= ~against.any(axis=(1, 2))
    return alike


def _by_tile(pixels: NDArray[Any]) -> NDArray[Any]:
    """N,W,W as N,parts,parts,pixels of a tile."""
    parts = WINDOW // _TILE
    tiles = pixels.reshape(-1, parts, _TILE, parts, _TILE).swapaxes(2, 3)
    return tiles.reshape(-1, parts, parts, _TILE * _TILE)


def _rows(image: NDArray[np.float32], stride: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The windows of an image H,W,3, row by row: the top of each, and M,3,K."""
    for top in range(0, image.shape[0] - WINDOW + 1, stride):
        row = sliding_window_view(image[top : top + WINDOW], (WINDOW, WINDOW), (0, 1))[0, ::stride]
        yield top, np.ascontiguousarray(row.reshape(len(row), 3, -1))


def _chroma(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much windows M,3,K vary in colour: M."""
    differences = np.stack((windows[:, 0] - windows[:, 1], windows[:, 2] - windows[:, 1]))
    spread: NDArray[np.float32] = differences.std(axis=2).max(axis=0)
    return spread


def _above_plane(
    windows: NDArray[np.float32], settings: RainSearchSettings, radiance: float | None
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Which windows M,3,K are flat, and the light N,K above the plane of the scene behind them, or the
    opacity of what is of that radiance."""
    luma = np.einsum("nck,c->nk", windows, LUMA)
    brightest = settings.brightest if radiance is None else min(settings.brightest, radiance - CONTRAST)
    kept = np.flatnonzero((_chroma(windows) < settings.chroma) & (luma.mean(axis=1) < brightest))
    luma = luma[kept]
    products = (_PLANES[:, :, None] * _PLANES[:, None, :]).reshape(-1, 9)
    # Quantile regression: least squares, weighted anew by what each pixel is above or below the plane.
    weights = np.ones_like(luma)
    above, scene = luma, luma
    for _ in range(_REWEIGHTINGS):
        normal = (weights @ products).reshape(-1, 3, 3) + 1e-6 * np.eye(3, dtype=np.float32)
        plane = np.linalg.solve(normal, ((weights * luma) @ _PLANES)[:, :, None])[:, :, 0]
        scene = plane @ _PLANES.T
        above = luma - scene
        weights = np.where(above > 0, _GAPS, 1 - _GAPS).astype(np.float32) / np.maximum(np.abs(above), 2e-3)
    below = np.sqrt(np.square(np.minimum(above, 0)).mean(axis=1))
    flat = below < settings.below
    light = above[flat].clip(min=0)
    if radiance is not None:
        light = (light / np.maximum(radiance - scene[flat], CONTRAST)).clip(max=1)
    return kept[flat], light


@dataclass(frozen=True)
class _Found:
    """In the image of that number: uint8 H,W light, and N,2 corners of crops with enough of it."""

    index: int
    light: NDArray[np.uint8]
    corners: NDArray[np.intp]


class RainBank:
    """The rain of a folder's flat places, to be laid over clean crops.

    Args:
        rainy: where it is looked for. TrainerError where less is found than a crop needs.
        crop: side of the crops, pixels.
        seed: of which images are searched and of what is drawn.
        radiance: of rain that is blended in: what is kept is its opacity.
    """

    def __init__(
        self,
        rainy: ImageFolder,
        settings: RainSearchSettings,
        *,
        crop: int,
        seed: int,
        radiance: float | None = None,
    ) -> None:
        self.rainy, self.settings, self.crop, self.seed = rainy, settings, crop, seed
        self.radiance = radiance
        order = np.random.default_rng((seed, _SEARCH)).permutation(len(rainy))[: settings.images]
        self.searched = len(order)
        """Images that were looked at."""
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            searched = threads.map(self._search, sorted(order.tolist()))
            self._found = [found for found in searched if len(found.corners)]
        if not self._found:
            remedy = (
                "take larger data.rain_search.below and .chroma, a smaller .coverage, or recipe rain100l-gan"
            )
            if crop > _LARGEST:
                remedy = f"take a data.crop of at most {_LARGEST}, the part of an image that is searched"
            raise TrainerError(
                f"no flat place of {crop}x{crop} pixels was found in {self.searched} images of {rainy.root}: "
                f"{remedy}."
            )

    def _search(self, index: int) -> _Found:
        rain = find_rain(self._part(index), self.settings, self.radiance)
        if min(rain.found.shape) < self.crop:
            return _Found(index, np.empty((0, 0), np.uint8), np.empty((0, 2), np.intp))
        covered = F.avg_pool2d(torch.from_numpy(rain.found)[None], self.crop, STRIDE)[0].numpy()
        corners = STRIDE * np.argwhere(covered > self.settings.coverage)
        return _Found(index, np.rint(255 * rain.light).astype(np.uint8), corners)

    def _part(self, index: int) -> Image:
        return self.rainy.load(index)[:_LARGEST, :_LARGEST]

    def __len__(self) -> int:
        """Images that rain was found in."""
        return len(self._found)

    def examples(self, count: int) -> list[tuple[str, Image, Image]]:
        """Of those with most of it: id, what was searched, and the rain in it three times as bright."""
        most = sorted(self._found, key=lambda found: -len(found.corners))[:count]
        bright = [np.minimum(found.light.astype(np.uint16) * 3, 255).astype(np.uint8) for found in most]
        return [
            (self.rainy.ids[found.index], self._part(found.index), np.stack([light] * 3, axis=2))
            for found, light in zip(most, bright, strict=True)
        ]

    def draw(self, number: int, count: int) -> Tensor:
        """Rain for batch `number`, uint8 count,1,c,c: the same in every process and in any order of calls."""
        rng = np.random.default_rng((self.seed, _DRAW, number))
        return torch.from_numpy(np.stack([self._cut(rng) for _ in range(count)])[:, None])

    def _cut(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        found = self._found[rng.integers(len(self._found))]
        top, left = found.corners[rng.integers(len(found.corners))]
        rain = found.light[top : top + self.crop, left : left + self.crop]
        # Mirrored either way: a streak looks the same from below.
        return np.ascontiguousarray(rain[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))])

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

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import Field

from rgsud_core.degradation.rain import RainModel
from rgsud_core.images import LUMA, Image
from rgsud_core.settings import Settings

WINDOW, STRIDE = 32, 8
"""Side of the squares that are tested for flatness, and between two of them, pixels."""
GAPS = 0.15
"""Quantile of a window at which the scene behind the rain is looked for."""
LARGEST = 512
"""Side of the part of an image that is searched, its upper left: skies are as good as any place."""
_REWEIGHTINGS = 12
_COUNTS_FULLY = 0.3
"""Weight of overlapping windows from which on a pixel's rain counts fully; below it fades out."""
_STRONGEST = 4.0
"""Energy of a window's rain, over that of the image's median window, up to which it is taken for rain."""
_TILE = 8
"""Side of the parts of a window whose direction is compared with the image's, pixels."""
_COMMON, _DIRECTED = 0.15, 0.4
"""Anisotropy, 0 to 1, from which on the rain of an image, and what a tile holds, has a direction."""
_AGREEMENT = 0.5
"""Cosine of twice the angle, 30 degrees, by which a tile's direction is another than the image's."""
_Y, _X = np.mgrid[:WINDOW, :WINDOW].reshape(2, -1) / WINDOW - 0.5
PLANES = np.stack((np.ones_like(_X), _X, _Y), 1).astype(np.float32)
"""Basis of the planes over a window, K,3."""


class Photographs(Protocol):
    """A folder of photographs, as far as rain is looked for in it."""

    root: Path
    ids: list[str]

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image:
        """Photograph number ``index``, uint8 H,W,3 RGB."""


class RainSearchSettings(Settings):
    """Where in rainy photographs the scene counts as flat."""

    images: int = Field(200, ge=1)
    """Largest number of rainy images that are searched."""
    chroma: float = Field(0.010, gt=0)
    """Standard deviation of R-G and B-G, in [0,1], up to which a window may be flat."""
    below: float = Field(0.005, gt=0)
    """Root mean square of what lies below the plane of the scene, in [0,1], up to which a window may be
    flat."""
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


def find_rain(image: Image, settings: RainSearchSettings, model: RainModel = RainModel()) -> RainMap:
    """The rain in front of the flat places of an image, uint8 H,W,3; if it is blended in, of darker ones."""
    height, width = image.shape[:2]
    scaled: NDArray[np.float32] = image.astype(np.float32) / np.float32(255)
    corners, lights = [], [np.empty((0, WINDOW, WINDOW), np.float32)]
    for top, windows in rows(scaled, STRIDE):
        kept, above = _above_plane(windows, settings, model)
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
    share = np.minimum(weight / _COUNTS_FULLY, 1)
    return RainMap(light / np.maximum(weight, 1e-6) * share, share)


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


def rows(image: NDArray[np.float32], stride: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The windows of an image H,W,3, row by row: the top of each, and M,3,K."""
    for top in range(0, image.shape[0] - WINDOW + 1, stride):
        row = sliding_window_view(image[top : top + WINDOW], (WINDOW, WINDOW), (0, 1))[0, ::stride]
        yield top, np.ascontiguousarray(row.reshape(len(row), 3, -1))


def chroma(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much windows M,3,K vary in colour: M."""
    differences = np.stack((windows[:, 0] - windows[:, 1], windows[:, 2] - windows[:, 1]))
    spread: NDArray[np.float32] = differences.std(axis=2).max(axis=0)
    return spread


def _above_plane(
    windows: NDArray[np.float32], settings: RainSearchSettings, model: RainModel
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Which windows M,3,K are flat, and the rain N,K in front of the planes behind them."""
    luma = np.einsum("nck,c->nk", windows, LUMA)
    brightest = model.brightest(settings.brightest)
    kept = np.flatnonzero((chroma(windows) < settings.chroma) & (luma.mean(axis=1) < brightest))
    luma = luma[kept]
    products = (PLANES[:, :, None] * PLANES[:, None, :]).reshape(-1, 9)
    # Quantile regression: least squares, reweighted by the distance of each pixel above or below the plane.
    weights = np.ones_like(luma)
    above, scene = luma, luma
    for _ in range(_REWEIGHTINGS):
        normal = (weights @ products).reshape(-1, 3, 3) + 1e-6 * np.eye(3, dtype=np.float32)
        plane = np.linalg.solve(normal, ((weights * luma) @ PLANES)[:, :, None])[:, :, 0]
        scene = plane @ PLANES.T
        above = luma - scene
        weights = np.where(above > 0, GAPS, 1 - GAPS).astype(np.float32) / np.maximum(np.abs(above), 2e-3)
    below = np.sqrt(np.square(np.minimum(above, 0)).mean(axis=1))
    flat = below < settings.below
    return kept[flat], model.between(scene[flat], luma[flat])


def sample(count: int, wanted: int, seed: int) -> list[int]:
    """Which of ``count`` images are searched, ascending: ``wanted`` of them at most, by the seed."""
    return sorted(np.random.default_rng((seed, 2)).permutation(count)[:wanted].tolist())

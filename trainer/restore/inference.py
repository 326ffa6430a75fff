"""Deraining of whole images of any size, in tiles if memory requires it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.errors import TrainerError

Ramp = NDArray[np.float32]
_Whole = TypeVar("_Whole", np.uint8, np.uint16)

WHOLE = 1 << 21
"""Pixels of the largest image that is derained whole where nobody says how: a little more than Full HD."""
TILE = 512
"""Largest side of the tiles of larger ones, in pixels."""


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    training = net.training
    net.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        net.train(training)


def _peak(pixels: NDArray[np.generic]) -> int:
    """The value of white: 1 in floating-point pixels."""
    return int(2 ** (8 * pixels.dtype.itemsize)) - 1 if pixels.dtype.kind == "u" else 1


def _run(
    net: nn.Module, image: NDArray[np.generic], multiple: int, device: torch.device
) -> NDArray[np.float32]:
    """The network on one piece, float32 H,W,3; padded by reflection to the multiple and cut back."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="reflect")
    x = torch.from_numpy(padded).to(device).permute(2, 0, 1)[None].float()
    x = x / _peak(image)
    y: Tensor | Sequence[Tensor] = net(x)
    full = y if isinstance(y, Tensor) else y[0]
    if full.shape != x.shape:
        raise TrainerError(
            f"The network turned {tuple(x.shape)} into {tuple(full.shape)}: "
            "its first output must keep the shape."
        )
    if not torch.isfinite(full).all():
        raise TrainerError(
            "The network's output is not finite: its weights are broken, take an earlier checkpoint."
        )
    result: NDArray[np.float32] = full[0, :, :height, :width].permute(1, 2, 0).float().cpu().numpy()
    return result


def _spans(length: int, tile: int, overlap: int, multiple: int) -> list[tuple[int, int]]:
    """Start and end of the tiles along one axis: as few as it takes, and no larger than they then have to be.
    All start at a multiple, so that a network that downscales has the same grid as on the whole image."""
    if length <= tile:
        return [(0, length)]
    step = (tile - overlap) // multiple * multiple
    count = -(-(length - overlap) // step)
    step = -(-(length - overlap) // (count * multiple)) * multiple
    tile = step + overlap
    last = -(-(length - tile) // multiple) * multiple
    return [(start, min(start + tile, length)) for start in [*range(0, last, step), last]]


def _ramp(start: int, stop: int, length: int, overlap: int) -> Ramp:
    """Weights of a tile along one axis: from 0 to 1 over the middle half of the overlap.

    The outer quarter, where the tile lacks its surroundings, has weight 0; there is no ramp at the image's
    own border.
    """
    inside = np.arange(stop - start) + 0.5
    weights = np.ones(stop - start)
    for distance, at_border in ((inside, start == 0), (inside[::-1], stop == length)):
        if overlap and not at_border:
            weights = weights * (0.5 - 0.5 * np.cos(np.pi * np.clip(2 * distance / overlap - 0.5, 0, 1)))
    return weights.astype(np.float32)


def derain_image(
    net: nn.Module, image: NDArray[_Whole], *, tile: int | None = None, overlap: int = 32
) -> NDArray[_Whole]:
    """Derains one image, uint8 or uint16 H,W,3 RGB of any size -> the same type and shape, rounded once (half
    to even).

    See :func:`derain_pixels`.
    """
    result = np.empty_like(image)
    _derain(net, image, result, tile, overlap)
    return result


def derain_pixels(
    net: nn.Module, image: NDArray[np.generic], *, tile: int | None = None, overlap: int = 32
) -> NDArray[np.float32]:
    """Derains one image, whole numbers or floating-point in [0,1], H,W,3 RGB -> float32 in [0,1], H,W,3.

    Args:
        net: maps N,3,H,W in [0,1] to a tensor of that shape, or to a sequence that begins with one; H and W
            are multiples of its attribute `multiple` (default 1).
        tile: side of the tiles in pixels, at least `multiple` + `overlap`; 0 takes the whole image. None
            takes images of up to :data:`WHOLE` pixels whole, and larger ones in tiles of :data:`TILE`.
        overlap: pixels that neighbouring tiles share and blend. An operator that reaches at most overlap / 4
            pixels gives the same result tiled and whole.

    Raises:
        TrainerError: the output is not finite or has another shape, or tiles overlap by more than half.
    """
    result = np.empty(image.shape, np.float32)
    _derain(net, image, result, tile, overlap)
    return result


def _derain(
    net: nn.Module,
    image: NDArray[np.generic],
    result: NDArray[np.generic],
    tile: int | None,
    overlap: int,
) -> None:
    """Fill ``result``. Of what tiles sum up to, one band is in memory at a time."""
    height, width = image.shape[:2]
    if tile is None:
        tile = TILE if height * width > WHOLE else 0
    if tile and not 0 <= 2 * overlap <= tile:
        raise TrainerError(f"Tiles of {tile} pixels cannot overlap by {overlap}: half a tile at most.")
    multiple = int(getattr(net, "multiple", 1))
    parameter = next(net.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    # With a smaller side, neighbours that both start at a multiple could not overlap by so much.
    side = max(tile, multiple + overlap) if tile else max(height, width)
    rows, columns = (_spans(length, side, overlap, multiple) for length in (height, width))
    peak = _peak(result)
    total, weight = np.zeros((0, width, 3), np.float32), np.zeros((0, width, 1), np.float32)
    with _evaluating(net):
        for number, (top, bottom) in enumerate(rows):
            # What the band above has begun goes on here.
            missing = ((0, bottom - top - len(total)), (0, 0), (0, 0))
            total, weight = np.pad(total, missing), np.pad(weight, missing)
            for left, right in columns:
                down, across = _ramp(top, bottom, height, overlap), _ramp(left, right, width, overlap)
                window = down[:, None, None] * across[None, :, None]
                piece = _run(net, image[top:bottom, left:right], multiple, device)
                total[:, left:right] += window * piece
                weight[:, left:right] += window
            ready = (rows[number + 1][0] if number + 1 < len(rows) else bottom) - top
            done = np.clip(total[:ready] / weight[:ready], 0, 1)
            result[top : top + ready] = np.rint(done * peak) if peak != 1 else done
            total, weight = total[ready:], weight[ready:]

"""Deraining of whole images of any size, in tiles if memory requires it; of files and folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rgsud_core.errors import RgsudError, first_line
from rgsud_core.images import SUFFIXES, Image, read_image, save_image
from trainer.data.folders import ImageFolder
from trainer.errors import TrainerError

Ramp = NDArray[np.float32]


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    training = net.training
    net.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        net.train(training)


def _run(
    net: nn.Module, image: NDArray[np.generic], multiple: int, device: torch.device
) -> NDArray[np.float32]:
    """The network on one piece, float32 H,W,3; padded by reflection to the multiple and cut back."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="reflect")
    x = torch.from_numpy(padded).to(device).permute(2, 0, 1)[None].float()
    x = x / 255 if image.dtype == np.uint8 else x
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
    """Start and end of the tiles along one axis. All start at a multiple, so that a network that downscales
    has the same grid as on the whole image."""
    if length <= tile:
        return [(0, length)]
    step = (tile - overlap) // multiple * multiple
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


def derain_image(net: nn.Module, image: Image, *, tile: int | None = None, overlap: int = 32) -> Image:
    """Derains one image, uint8 H,W,3 RGB of any size -> the same shape, rounded once (half to even).

    See :func:`derain_pixels`, whose result this rounds.
    """
    pixels = derain_pixels(net, image, tile=tile, overlap=overlap)
    rounded: Image = np.rint(pixels * 255).astype(np.uint8)
    return rounded


def derain_pixels(
    net: nn.Module, image: NDArray[np.generic], *, tile: int | None = None, overlap: int = 32
) -> NDArray[np.float32]:
    """Derains one image, uint8 or floating-point in [0,1] H,W,3 RGB of any size -> float32 in [0,1], H,W,3.

    Args:
        net: maps N,3,H,W in [0,1] to a tensor of that shape, or to a sequence that begins with one; H and W
            are multiples of its attribute `multiple` (default 1).
        tile: side of the tiles in pixels, at least `multiple` + `overlap`; None takes the whole image.
        overlap: pixels that neighbouring tiles share and blend. An operator that reaches at most overlap / 4
            pixels gives the same result tiled and whole.

    Raises:
        TrainerError: the output is not finite or has another shape, or tiles overlap by more than half.
    """
    if tile is not None and not 0 <= 2 * overlap <= tile:
        raise TrainerError(f"Tiles of {tile} pixels cannot overlap by {overlap}: half a tile at most.")
    height, width = image.shape[:2]
    multiple = int(getattr(net, "multiple", 1))
    parameter = next(net.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    # With a smaller side, neighbours that both start at a multiple could not overlap by so much.
    side = max(height, width) if tile is None else max(tile, multiple + overlap)
    rows, columns = (_spans(length, side, overlap, multiple) for length in (height, width))
    with _evaluating(net):
        if len(rows) == len(columns) == 1:
            blended = _run(net, image, multiple, device)
        else:
            total = np.zeros((height, width, 3), np.float32)
            weight = np.zeros((height, width, 1), np.float32)
            for top, bottom in rows:
                for left, right in columns:
                    down, across = _ramp(top, bottom, height, overlap), _ramp(left, right, width, overlap)
                    window = down[:, None, None] * across[None, :, None]
                    total[top:bottom, left:right] += window * _run(
                        net, image[top:bottom, left:right], multiple, device
                    )
                    weight[top:bottom, left:right] += window
            blended = total / weight
    clipped: NDArray[np.float32] = np.clip(blended, 0, 1)
    return clipped


def _plan(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Each input file with the file of its result."""
    if source.is_dir():
        if target.is_file() or target.suffix.lower() in SUFFIXES:
            raise TrainerError(
                f"{target} is a file name, and {source} is a folder: name a folder for the results."
            )
        if target.resolve().is_relative_to(source.resolve()):
            raise TrainerError(f"{target} lies within {source}: name a folder outside it for the results.")
        return [(path, target / f"{name}.png") for name, path in ImageFolder(source).files.items()]
    if not source.exists():
        raise TrainerError(f"{source} does not exist: name an image or a folder of images.")
    if target.is_dir() or not target.suffix:
        target = target / f"{source.stem}.png"
    if target.suffix.lower() not in SUFFIXES:
        raise TrainerError(f"{target} names no known image format: use one of {', '.join(SUFFIXES)}.")
    if target.resolve() == source.resolve():
        raise TrainerError(f"The result would overwrite {source}: name another file.")
    return [(source, target)]


def derain_path(
    net: nn.Module,
    source: Path | str,
    target: Path | str,
    *,
    tile: int | None = None,
    overlap: int = 32,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Derains an image file, or every image below a folder, and returns the number of images.

    A folder's structure is kept and its results are PNG; for a single file `target` may name another format,
    or be a folder. `on_progress(done, total)` is called after each image. See :func:`derain_pixels` for the
    other arguments.

    Raises:
        TrainerError: names every image that cannot be derained, after all others are done.
        FileError: the source is missing or empty.
    """
    work = _plan(Path(source), Path(target))
    problems = []
    for number, (path, result) in enumerate(work, 1):
        try:
            save_image(derain_image(net, read_image(path), tile=tile, overlap=overlap), result)
        except RuntimeError as error:  # an RgsudError, or torch's when memory is too small
            message = str(error) if isinstance(error, RgsudError) else first_line(error)
            problems.append(message if str(path) in message else f"{path}: {message}")
        if on_progress:
            on_progress(number, len(work))
    if problems:
        done = len(work) - len(problems)
        raise TrainerError(
            "\n".join([f"{len(problems)} of {len(work)} images failed, {done} are done:", *problems])
        )
    return len(work)

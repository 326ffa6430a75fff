"""Images as people hold them, and as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from rgsud_core.colours import to_rgb
from rgsud_core.errors import RgsudError
from rgsud_core.images import Image, read_image

AnyImage = NDArray[Any] | PIL.Image.Image | Tensor | Path | str
"""An image: RGB as a numpy array H,W,3 or a tensor C,H,W, uint8 or floating-point in [0,1]; a PIL image of
any mode; or the path of a file."""


def pixels_of(image: AnyImage) -> NDArray[Any]:
    """Any image as an array H,W,3 RGB, uint8 or floating-point in [0,1].

    Raises:
        RgsudError: it is no RGB image, is out of range, or cannot be read.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, PIL.Image.Image):
        try:
            return np.array(to_rgb(image))
        except ValueError as problem:
            raise RgsudError(f"a PIL image of mode {image.mode} cannot be taken: {problem}.") from None
    pixels = image
    if isinstance(pixels, Tensor):
        pixels = pixels.detach().cpu()
        pixels = (pixels if pixels.dtype == torch.uint8 else pixels.float()).numpy()
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        what = f"{type(image).__name__} {tuple(getattr(image, 'shape', ()))}"
        raise RgsudError(
            f"{what} is no RGB image: give an array H,W,3, a tensor 3,H,W, a PIL image or a path."
        )
    if pixels.dtype != np.uint8 and not (
        np.issubdtype(pixels.dtype, np.floating) and pixels.min() >= 0 and pixels.max() <= 1
    ):
        raise RgsudError(f"pixels of {pixels.dtype} must be in [0,1], or uint8: scale them first.")
    return pixels


def rounded(pixels: NDArray[Any]) -> Image:
    """H,W,3, uint8 or floating-point in [0,1], as uint8."""
    whole: Image = pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)
    return np.ascontiguousarray(whole)

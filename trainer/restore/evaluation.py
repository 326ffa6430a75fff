"""PSNR and SSIM by the protocols of the deraining literature, and tables of them.

Protocol A (Rain100, Rain200, SPA-Data): luma rounded to uint8. Protocol B (DID-Data, DDN-Data): luma not
rounded, and SSIM on the image decimated to about 256 pixels. RGB figures are the same under both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import scipy.ndimage
from pydantic import BaseModel, ConfigDict
from rich.table import Table

from rgsud_core.errors import RgsudError
from rgsud_core.images import Image
from rgsud_core.quality import Plane, luma, psnr, ssim
from trainer.data.pairing import PairedFolder
from trainer.errors import TrainerError

Protocol = Literal["A", "B"]


def _decimate(plane: Plane) -> Plane:
    factor = max(1, math.floor(min(plane.shape) / 256 + 0.5))
    if factor == 1:
        return plane
    # MATLAB centres an even window on the element before its middle, SciPy on the one after.
    smooth = scipy.ndimage.uniform_filter(plane, factor, mode="reflect", origin=-1 if factor % 2 == 0 else 0)
    sampled: Plane = smooth[::factor, ::factor]
    return sampled


def psnr_y(image: Image, truth: Image, protocol: Protocol = "A") -> float:
    """PSNR of the luma of two uint8 H,W,3 images in dB, peak 255; infinite if they are equal."""
    return psnr(*(luma(x, rounded=protocol == "A") for x in (image, truth)))


def ssim_y(image: Image, truth: Image, protocol: Protocol = "A") -> float:
    """SSIM of the luma of two uint8 H,W,3 images."""
    planes = (luma(x, rounded=protocol == "A") for x in (image, truth))
    return ssim(*(map(_decimate, planes) if protocol == "B" else planes))


def ssim_rgb(image: Image, truth: Image) -> float:
    """Mean SSIM of the three channels of two uint8 H,W,3 images."""
    a, b = (np.ascontiguousarray(np.moveaxis(x, 2, 0), np.float64) for x in (image, truth))
    return sum(ssim(*planes) for planes in zip(a, b, strict=True)) / 3


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Scores(_Result):
    """Measures of one image against its ground truth, or their means over several images."""

    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    ssim_rgb: float


class ImageScores(_Result):
    """The measures of one pair: `input` is the rainy image, `output` the derained one."""

    id: str
    input: Scores
    output: Scores


def _mean(scores: Sequence[Scores]) -> Scores:
    return Scores(
        **{name: float(np.mean([getattr(one, name) for one in scores])) for name in Scores.model_fields}
    )


class Evaluation(_Result):
    """The measures of a data set; means are over the images with equal weights."""

    protocol: Protocol
    rows: list[ImageScores]

    @property
    def input(self) -> Scores:
        """Means of the rainy images."""
        return _mean([row.input for row in self.rows])

    @property
    def output(self) -> Scores:
        """Means of the derained images."""
        return _mean([row.output for row in self.rows])

    @property
    def gain_db(self) -> float:
        """Mean PSNR of the luma gained over the rainy images, dB."""
        return self.output.psnr_y - self.input.psnr_y

    def table(self) -> Table:
        """One row per image and one of means, each measure as rainy -> derained."""
        table = Table(title=f"Protocol {self.protocol}, {len(self.rows)} images, gain {self.gain_db:+.2f} dB")
        table.add_column("image", overflow="fold")
        for heading in ("PSNR-Y, dB", "SSIM-Y", "PSNR-RGB, dB", "SSIM-RGB"):
            table.add_column(heading, justify="right")

        def add(name: str, before: Scores, after: Scores) -> None:
            digits = {field: 2 if field.startswith("psnr") else 4 for field in Scores.model_fields}
            cells = (f"{getattr(before, f):.{n}f} -> {getattr(after, f):.{n}f}" for f, n in digits.items())
            table.add_row(name, *cells)

        for row in self.rows:
            add(row.id, row.input, row.output)
        table.add_section()
        add("mean", self.input, self.output)
        return table


def score_pair(image: Image, truth: Image, protocol: Protocol = "A") -> Scores:
    """All measures of an image against its truth, both uint8 H,W,3; TrainerError if their sizes differ."""
    if image.shape != truth.shape or image.dtype != np.uint8:
        raise TrainerError(
            f"An image {image.dtype} {image.shape} cannot be measured "
            f"against a truth {truth.dtype} {truth.shape}."
        )
    return Scores(
        psnr_y=psnr_y(image, truth, protocol),
        ssim_y=ssim_y(image, truth, protocol),
        psnr_rgb=psnr(image, truth),
        ssim_rgb=ssim_rgb(image, truth),
    )


def evaluate_pairs(derained: Iterable[Image], pairs: PairedFolder, protocol: Protocol = "A") -> Evaluation:
    """Measures the derained version of each pair's rainy image, in the order of the pairs.

    Raises:
        RgsudError: names the pair whose derained image has another size, or is too small to be measured.
    """
    rows = []
    for index, (identity, image) in enumerate(zip(pairs.ids, derained, strict=True)):
        rainy, truth = pairs.load(index)
        try:
            before, after = score_pair(rainy, truth, protocol), score_pair(image, truth, protocol)
        except RgsudError as error:
            raise TrainerError(f"'{identity}': {error}") from None
        rows.append(ImageScores(id=identity, input=before, output=after))
    return Evaluation(protocol=protocol, rows=rows)

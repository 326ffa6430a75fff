"""PSNR and SSIM by the protocols of the deraining literature, tables of them, and contact sheets.

Protocol A (Rain100, Rain200, SPA-Data): luma rounded to uint8. Protocol B (DID-Data, DDN-Data): luma not
rounded, and SSIM on the image decimated to about 256 pixels. RGB figures are the same under both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import scipy.ndimage
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rich.table import Table

from iqa_service.scorers.views import LUMA
from rgsud_core.files import save_image
from trainer.data.folders import Image, PairedFolder
from trainer.errors import TrainerError

Protocol = Literal["A", "B"]
Derain = Callable[[Image], Image]
"""A whole rainy image to its derained one: uint8 H,W,3 both."""
Plane = NDArray[np.float64]

_WINDOW = 11
_POSITIONS = np.arange(_WINDOW) - _WINDOW // 2
_WEIGHTS = np.exp(-(_POSITIONS**2) / (2 * 1.5**2))
_WEIGHTS /= _WEIGHTS.sum()


def luma(image: Image, protocol: Protocol = "A") -> Plane:
    """The Y of ITU-R BT.601, 16 to 235, of uint8 H,W,3 RGB, as MATLAB's rgb2ycbcr has it."""
    y: Plane = 16 + image @ LUMA
    # Halves go up in MATLAB.
    return np.floor(y + 0.5) if protocol == "A" else y


def _psnr(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    mse = float(np.square(a.astype(np.float64) - b.astype(np.float64)).mean())
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def _gaussian(plane: Plane) -> Plane:
    """The Gaussian mean over 11x11 pixels where the window fits, H,W -> H-10,W-10."""
    half = _WINDOW // 2
    rows = scipy.ndimage.correlate1d(plane, _WEIGHTS, axis=0)[half:-half]
    columns: Plane = scipy.ndimage.correlate1d(rows, _WEIGHTS, axis=1)[:, half:-half]
    return columns


def _ssim(a: Plane, b: Plane) -> float:
    if min(a.shape) < _WINDOW:
        raise TrainerError(f"An image of {a.shape[1]}x{a.shape[0]} is too small for SSIM: 11x11 at least.")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _gaussian(a), _gaussian(b)
    squares = mean_a**2 + mean_b**2
    product = mean_a * mean_b
    variances = _gaussian(a * a + b * b) - squares
    covariance = _gaussian(a * b) - product
    similarity = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return float(similarity.mean())


def _decimate(plane: Plane) -> Plane:
    factor = max(1, math.floor(min(plane.shape) / 256 + 0.5))
    if factor == 1:
        return plane
    # MATLAB centres an even window on the element before its middle, SciPy on the one after.
    smooth = scipy.ndimage.uniform_filter(plane, factor, mode="reflect", origin=-1 if factor % 2 == 0 else 0)
    sampled: Plane = smooth[::factor, ::factor]
    return sampled


def psnr_y(image: Image, truth: Image, protocol: Protocol = "A") -> float:
    """PSNR of the luma in dB, peak 255; infinite where equal. uint8 H,W,3 both."""
    return _psnr(luma(image, protocol), luma(truth, protocol))


def ssim_y(image: Image, truth: Image, protocol: Protocol = "A") -> float:
    """SSIM of the luma: 11x11 Gaussian window of sigma 1.5, valid region. Wang et al., TIP 2004."""
    planes = luma(image, protocol), luma(truth, protocol)
    if protocol == "B":
        planes = _decimate(planes[0]), _decimate(planes[1])
    return _ssim(*planes)


def psnr_rgb(image: Image, truth: Image) -> float:
    """PSNR over the three channels together in dB, peak 255; infinite where equal. uint8 H,W,3 both."""
    return _psnr(image, truth)


def ssim_rgb(image: Image, truth: Image) -> float:
    """SSIM of each channel, averaged over the three. uint8 H,W,3 both."""
    a, b = (np.ascontiguousarray(np.moveaxis(x, 2, 0), np.float64) for x in (image, truth))
    return sum(_ssim(*planes) for planes in zip(a, b, strict=True)) / 3


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Scores(_Result):
    """What one image, or the mean of several, measures against the ground truth."""

    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    ssim_rgb: float


class ImageScores(_Result):
    """The figures of one image: `input` is the rainy one, `output` the derained one."""

    id: str
    input: Scores
    output: Scores


def _mean(scores: Sequence[Scores]) -> Scores:
    return Scores(
        **{name: float(np.mean([getattr(one, name) for one in scores])) for name in Scores.model_fields}
    )


class Evaluation(_Result):
    """The figures of a whole set; means are over the images, each of equal weight."""

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
        """A row an image and one of means, each figure as rainy -> derained, for a rich console."""
        table = Table(title=f"Protocol {self.protocol}, {len(self.rows)} images, gain {self.gain_db:+.2f} dB")
        table.add_column("image")
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
    """All figures of an image against its truth, uint8 H,W,3 both; TrainerError where sizes differ."""
    if image.shape != truth.shape or image.dtype != np.uint8:
        raise TrainerError(
            f"An image {image.dtype} {image.shape} cannot be measured "
            f"against a truth {truth.dtype} {truth.shape}."
        )
    return Scores(
        psnr_y=psnr_y(image, truth, protocol),
        ssim_y=ssim_y(image, truth, protocol),
        psnr_rgb=psnr_rgb(image, truth),
        ssim_rgb=ssim_rgb(image, truth),
    )


def evaluate_pairs(
    derain: Derain,
    pairs: PairedFolder,
    protocol: Protocol = "A",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Derains every rainy image and measures it; `progress(done, total)` is called after each."""
    rows = []
    for index, identity in enumerate(pairs.ids):
        rainy, truth = pairs.load(index)
        derained = derain(rainy)
        try:
            before, after = score_pair(rainy, truth, protocol), score_pair(derained, truth, protocol)
        except TrainerError as error:
            raise TrainerError(f"'{identity}': {error}") from None
        rows.append(ImageScores(id=identity, input=before, output=after))
        if progress:
            progress(index + 1, len(pairs))
    return Evaluation(protocol=protocol, rows=rows)


@dataclass(frozen=True)
class Panel:
    """One picture of a contact sheet, uint8 H,W,3, and the caption below it."""

    image: Image
    caption: str


def compare(results: Sequence[Image], pairs: PairedFolder) -> list[list[Panel]]:
    """Rows of rainy, derained and clean for a contact sheet, captioned with PSNR-Y and SSIM-Y (A).

    `results` are the derained images, uint8 H,W,3, of the first of the pairs.
    """
    rows = []
    for index, derained in enumerate(results):
        rainy, truth = pairs.load(index)
        captions = (
            f"{name}  {psnr_y(image, truth):.2f} dB / {ssim_y(image, truth):.3f}"
            for name, image in (("rainy", rainy), ("derained", derained))
        )
        images = (rainy, derained, truth)
        rows.append(
            [Panel(*pair) for pair in zip(images, (*captions, f"clean  {pairs.ids[index]}"), strict=True)]
        )
    return rows


def contact_sheet(rows: Sequence[Sequence[Panel]], path: Path | str, width: int = 360) -> None:
    """Writes rows of captioned pictures, each scaled to `width` pixels, as one image file."""
    if not rows:
        raise TrainerError("A contact sheet needs one row of images at least.")
    gap, caption, size = 10, 26, 14
    font = PIL.ImageFont.load_default(size)
    heights = [max(round(width * p.image.shape[0] / p.image.shape[1]) for p in row) for row in rows]
    columns = max(len(row) for row in rows)
    sheet = PIL.Image.new(
        "RGB",
        (gap + columns * (width + gap), gap + sum(height + caption + gap for height in heights)),
        "white",
    )
    draw = PIL.ImageDraw.Draw(sheet)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            left = gap + column * (width + gap)
            scaled = (width, round(width * panel.image.shape[0] / panel.image.shape[1]))
            sheet.paste(
                PIL.Image.fromarray(panel.image).resize(scaled, PIL.Image.Resampling.LANCZOS), (left, top)
            )
            draw.text((left + 2, top + height + 4), panel.caption, fill=(40, 40, 40), font=font)
        top += height + caption + gap
    save_image(np.asarray(sheet), Path(path))

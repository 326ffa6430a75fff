"""Contact sheets: captioned pictures side by side in one image file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from rgsud_core.images import Image, save_image
from trainer.data.pairing import PairedFolder
from trainer.errors import TrainerError
from trainer.restore.evaluation import psnr_y, ssim_y


@dataclass(frozen=True)
class Panel:
    """One picture of a contact sheet, uint8 H,W,3, and the caption below it."""

    image: Image
    caption: str


def compare(derained: Iterable[Image], pairs: PairedFolder) -> list[list[Panel]]:
    """Rows of rainy, derained and clean, captioned with PSNR-Y and SSIM-Y (protocol A).

    `derained` has the versions of the first pairs, in their order; as many rows are made.
    """
    rows = []
    for index, image in enumerate(derained):
        rainy, truth = pairs.load(index)
        captions = (
            f"{name}  {psnr_y(shown, truth):.2f} dB / {ssim_y(shown, truth):.3f}"
            for name, shown in (("rainy", rainy), ("derained", image))
        )
        images = (rainy, image, truth)
        captioned = zip(images, (*captions, f"clean  {pairs.ids[index]}"), strict=True)
        rows.append([Panel(*panel) for panel in captioned])
    return rows


def contact_sheet(rows: Sequence[Sequence[Panel]], path: Path | str, width: int = 360) -> None:
    """Writes rows of captioned pictures as one image file, each scaled to fit into `width` pixels and three
    times that height.

    Raises TrainerError where there is no row, FileError where the file cannot be written.
    """
    if not rows:
        raise TrainerError("A contact sheet needs one row of images at least.")
    gap, caption, size = 10, 26, 14
    font = PIL.ImageFont.load_default(size)
    heights = [max(_scaled(panel.image, width)[1] for panel in row) for row in rows]
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
            scaled = _scaled(panel.image, width)
            sheet.paste(
                PIL.Image.fromarray(panel.image).resize(scaled, PIL.Image.Resampling.LANCZOS), (left, top)
            )
            # Names of files need not be text.
            caption_text = panel.caption.encode(errors="backslashreplace").decode()
            draw.text((left + 2, top + height + 4), caption_text, fill=(40, 40, 40), font=font)
        top += height + caption + gap
    save_image(np.asarray(sheet), Path(path))


def _scaled(image: Image, width: int) -> tuple[int, int]:
    """Width and height of a picture on a sheet."""
    scale = min(width / image.shape[1], 3 * width / image.shape[0])
    return max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0]))

"""Contact sheets: captioned pictures side by side in one image file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.PngImagePlugin
from pydantic import Field, TypeAdapter, ValidationError

from rgsud_core.colours import to_rgb
from rgsud_core.images import Image, encoded, image_format, opened, write_encoded
from trainer.data.pairing import PairedFolder
from trainer.errors import TrainerError
from trainer.restore.evaluation import psnr_y, ssim_y

_NOTE = "rgsud:panels"
"""Key under which a sheet that is PNG says where its pictures are."""
_Length = Annotated[int, Field(ge=0, lt=1 << 24)]
_Box = tuple[_Length, _Length, _Length, _Length, str]
"""Left, top, right and bottom edge of a picture in pixels, and its caption."""
_BOXES: TypeAdapter[list[list[_Box]]] = TypeAdapter(list[list[_Box]])


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
    times that height. A PNG says where they are, for :func:`read_sheet`.

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
    boxes: list[list[tuple[int, int, int, int, str]]] = []
    for row, height in zip(rows, heights, strict=True):
        boxes.append([])
        for column, panel in enumerate(row):
            left = gap + column * (width + gap)
            scaled = _scaled(panel.image, width)
            sheet.paste(
                PIL.Image.fromarray(panel.image).resize(scaled, PIL.Image.Resampling.LANCZOS), (left, top)
            )
            # Names of files need not be text.
            caption_text = panel.caption.encode(errors="backslashreplace").decode()
            draw.text((left + 2, top + height + 4), caption_text, fill=(40, 40, 40), font=font)
            boxes[-1].append((left, top, left + scaled[0], top + scaled[1], caption_text))
        top += height + caption + gap
    path = Path(path)
    options: dict[str, Any] = {}
    if (kind := image_format(path)) == "PNG":
        options["pnginfo"] = PIL.PngImagePlugin.PngInfo()
        options["pnginfo"].add_text(_NOTE, json.dumps(boxes))
    write_encoded(encoded(sheet, kind, path, **options), path)


def read_sheet(path: Path) -> list[list[Panel]]:
    """Rows of pictures of a sheet, as scaled there, with their captions; one picture without a caption where
    the file does not say where its pictures are.

    Raises:
        FileError: it is no image that can be read.
    """
    with opened(path) as file:
        note, sheet = file.info.get(_NOTE), np.array(to_rgb(file))
    try:
        rows = _BOXES.validate_json(note) if isinstance(note, str) else []
    except ValidationError:
        rows = []
    height, width = sheet.shape[:2]
    whole = all(x0 < x1 <= width and y0 < y1 <= height for row in rows for x0, y0, x1, y1, _ in row)
    if not whole or not all(rows) or not rows:
        return [[Panel(sheet, "")]]
    return [[Panel(sheet[y0:y1, x0:x1], caption) for x0, y0, x1, y1, caption in row] for row in rows]


def _scaled(image: Image, width: int) -> tuple[int, int]:
    """Width and height of a picture on a sheet."""
    scale = min(width / image.shape[1], 3 * width / image.shape[0])
    return max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0]))

"""What can be measured of a folder of photographs before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import PIL.JpegImagePlugin

from rgsud_core.errors import RgsudError
from rgsud_core.images import listing, opened
from trainer.data.folders import SHOWN, ImageFolder, part_of
from trainer.errors import TrainerError
from trainer.rain.bank import RainBank
from trainer.rain.search import RainSearchSettings

_STANDARD_MEAN = 57.625
"""Mean of the luminance table of JPEG, Annex K of the standard, which is quality 50."""
_SEARCHED = 40
"""Photographs at most in which rain is looked for."""


@dataclass(frozen=True)
class FolderFacts:
    """What a folder of photographs holds."""

    root: Path
    images: int
    smallest: tuple[int, int]
    """Width and height in pixels of the image with the shortest side."""
    largest: tuple[int, int]
    """Width and height of the image with most pixels."""
    formats: tuple[tuple[str, int], ...]
    """Formats by Pillow's names and how many images have them, the most frequent first."""
    quality: int | None
    """Median quality of its JPEG files, 1 to 100; None where there is none."""
    left_out: int
    """Entries that are no images, or linked folders."""


def measure_folder(root: Path | str) -> FolderFacts:
    """Reads the head of every image of a folder, or of a part of it.

    Raises:
        FileError: the folder is missing or holds no image.
        TrainerError: names the images that cannot be read.
    """
    folder = ImageFolder(root)
    sizes, formats, qualities, problems = [], Counter[str](), [], []
    for path in folder.files.values():
        try:
            with opened(path, decoded=False) as image:
                sizes.append(image.size)
                formats["JPEG" if image.format == "MPO" else str(image.format)] += 1
                if isinstance(image, PIL.JpegImagePlugin.JpegImageFile):
                    qualities.append(jpeg_quality(image))
        except RgsudError as problem:
            problems.append(str(problem))
    if problems:
        more = len(problems) - SHOWN
        raise TrainerError("\n".join(problems[:SHOWN] + [f"{more} more cannot be read either."] * (more > 0)))
    return FolderFacts(
        root=folder.root,
        images=len(folder),
        smallest=min(sizes, key=lambda size: (min(size), max(size))),
        largest=max(sizes, key=lambda size: size[0] * size[1]),
        formats=tuple(formats.most_common()),
        quality=round(median(qualities)) if qualities else None,
        left_out=len(listing(part_of(root)[0]).left_out),
    )


def jpeg_quality(image: PIL.JpegImagePlugin.JpegImageFile) -> int:
    """Quality of a JPEG file as libjpeg counts it, 1 to 100, from its luminance table: for files of libjpeg
    right within 1 from 25 on, near for those of other programs."""
    scale = 100 * float(np.mean(image.quantization[0])) / _STANDARD_MEAN
    return max(1, min(100, round((200 - scale) / 2 if scale <= 100 else 5000 / scale)))


def count_found_rain(root: Path | str, crop: int) -> tuple[int, int]:
    """In how many photographs a run finds rain in front of flat places, for crops of this side, and how many
    were searched: at most 40, drawn at random."""
    folder = ImageFolder(root)
    settings = RainSearchSettings(images=_SEARCHED)
    searched = min(_SEARCHED, len(folder))
    try:
        return len(RainBank(folder, settings, crop=crop, seed=0)), searched
    except TrainerError:  # there is none
        return 0, searched

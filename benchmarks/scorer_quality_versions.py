"""Versions of photographs whose true quality is known, for scorer_quality.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from rgsud_core.images import Image
from trainer.data.folders import ImageFolder
from trainer.data.pairing import PairedFolder
from trainer.recycling.candidate_log import read_candidates


@dataclass(frozen=True)
class Version:
    """One version of a photograph."""

    group: str
    """Versions of one group are ordered among each other."""
    id: str
    name: str
    rainy: Callable[[], Image]
    truth: Callable[[], Image]
    image: Callable[[], Image]

    @property
    def key(self) -> str:
        return f"{self.group}|{self.name}"


def real(records: list[Path], rainy: ImageFolder, truth: ImageFolder) -> Iterator[Version]:
    """Every candidate of the runs."""
    for folder in records:
        run = folder.parent.parent.name + "/" + folder.parent.name
        for item in read_candidates(folder):
            yield Version(
                group=f"{run}|{item.id}",
                id=item.id,
                name=f"{item.lineage.step:09d}",
                rainy=lambda id=item.id: rainy.load_id(id),  # type: ignore[misc]
                truth=lambda id=item.id: truth.load_id(id),  # type: ignore[misc]
                image=item.image,
            )


def smeared(image: Image) -> Iterator[tuple[str, Image]]:
    """Blurred, and smoothed where it hurts less to see."""
    pixels = image.astype(np.float32)
    for sigma in (0.7, 1.5):
        yield f"blurred {sigma}", to_uint8(ndimage.gaussian_filter(pixels, (sigma, sigma, 0)))
    for size in (3, 5):
        yield f"smoothed {size}", to_uint8(ndimage.median_filter(pixels, (size, size, 1)))


def faulty(clean: Image, wet: Image, rng: np.random.Generator) -> Iterator[tuple[str, Image]]:
    """What a derainer may make of a photograph, hardly or plainly visible; not of daclip-lite's making."""
    pixels = clean.astype(np.float32)
    rain = wet - pixels
    edges = pixels - ndimage.gaussian_filter(pixels, (2, 2, 0))
    for share in (0.25, 0.5, 0.75, 1.0):
        yield f"rain {share:.0%}", to_uint8(pixels + share * rain)
    yield from smeared(clean)
    for level in (3, 10):
        yield f"noise {level}", to_uint8(pixels + rng.normal(0, level, pixels.shape))
        yield f"cast {level}", to_uint8(pixels + level * rng.permutation([1.0, 0.0, -1.0]))
    for amount in (0.3, 1.0):
        yield f"sharpened {amount}", to_uint8(pixels + amount * edges)
        yield f"ghost {amount}", to_uint8(pixels + 0.5 * amount * np.roll(edges, (3, 2), (0, 1)))


def to_uint8(pixels: np.ndarray) -> Image:
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


def constructed(pairs: PairedFolder) -> tuple[list[Version], list[tuple[Version, Version]]]:
    """Faulty versions of each photograph, and the pairs of a sharp and a smeared one among all versions."""
    versions, contests = [], []
    for index, id in enumerate(pairs.ids):
        wet, clean = pairs.load(index)

        def version(name: str, image: Image, id: str = id, wet: Image = wet, clean: Image = clean) -> Version:
            return Version(f"constructed|{id}", id, name, lambda: wet, lambda: clean, lambda: image)

        made = [version(name, image) for name, image in faulty(clean, wet, np.random.default_rng(index))]
        versions += made
        by_name = {v.name: v for v in made}
        for base in (version("clean", clean), by_name["rain 25%"]):
            for name, image in smeared(base.image()):
                contests.append((base, version(f"{base.name}, {name}", image)))
    return versions, contests

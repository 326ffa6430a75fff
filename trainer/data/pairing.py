"""Degraded images and their ground truth."""

from __future__ import annotations

from pathlib import Path

from rgsud_core.images import Image
from trainer.data.folders import ImageFolder, named
from trainer.errors import TrainerError


class PairedFolder:
    """Degraded images and their ground truth, matched by id; a suffix may differ, sizes may not."""

    def __init__(self, degraded: Path | str, clean: Path | str) -> None:
        self.degraded = ImageFolder(degraded)
        self.clean = ImageFolder(clean)
        problems = unmatched(self.degraded, self.clean)
        if problems:
            raise TrainerError("\n".join(problems))
        self.ids = self.degraded.ids

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> tuple[Image, Image]:
        """(degraded, clean) of `ids[index]`, both uint8 H,W,3; TrainerError where their sizes differ."""
        pair = self.degraded.load(index), self.clean.load(index)
        if pair[0].shape != pair[1].shape:
            raise TrainerError(_size_clash(self.ids[index], *pair))
        return pair


def _size_clash(identity: str, degraded: Image, clean: Image) -> str:
    return (
        f"'{identity}' is {size_of(degraded)} on its degraded side and {size_of(clean)} on its clean side: "
        "the two must be pixel-aligned."
    )


def size_of(image: Image) -> str:
    """WIDTHxHEIGHT of an image H,W,3."""
    return f"{image.shape[1]}x{image.shape[0]}"


def unmatched(degraded: ImageFolder, clean: ImageFolder) -> list[str]:
    """A sentence for each side that has images without a partner on the other."""
    problems = []
    for one, other in ((degraded, clean), (clean, degraded)):
        lonely = [identity for identity in one.ids if identity not in other.files]
        if lonely:
            problems.append(
                f"{len(lonely)} images of {one.root} have no partner of the same name in {other.root}: "
                f"{named(lonely)}."
            )
    return problems

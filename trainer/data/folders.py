"""Folders of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rgsud_core.images import Image, images_below, read_image
from trainer.errors import TrainerError

SHOWN = 3
"""Names, or problems of one kind, that an error lists before it counts the rest."""


def named(names: Iterable[object], shown: int = SHOWN) -> str:
    """The first few names, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more


class ImageFolder:
    """The images below a folder, by id: the relative path without suffix (POSIX separators).

    Raises:
        FileError: the folder is missing or empty, or two files have one id.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.files = images_below(self.root)
        self.ids: list[str] = sorted(self.files)

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Image:
        """The image of ``ids[index]``, uint8 H,W,3; FileError where it cannot be read."""
        return self.load_id(self.ids[index])

    def images(self) -> Iterator[Image]:
        """All images in the order of ``ids``, each read when it is needed."""
        return map(self.load_id, self.ids)

    def load_id(self, identity: str) -> Image:
        """The image of this id, uint8 H,W,3; TrainerError for an unknown id."""
        if identity not in self.files:
            raise TrainerError(f"{self.root} has no image '{identity}'.")
        return read_image(self.files[identity])

"""Folders of images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from rgsud_core.errors import FileError
from rgsud_core.images import Image, images_below, read_image
from trainer.errors import TrainerError

SHOWN = 3
"""Names, or problems of one kind, that an error lists before it counts the rest."""


def named(names: Iterable[object], shown: int = SHOWN) -> str:
    """The first few names, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more


_PARTS = ("left", "right", "rain", "norain")
_NAMED = {
    "rain": re.compile(r"(rain|rainy)[-_ ]?\d.*|.*[-_](in|rain)|.*-R-\d+", re.IGNORECASE),
    "norain": re.compile(r"norain.*|.*[-_]gt|.*-C-\d+", re.IGNORECASE),
}
_NUMBERS = re.compile(r"(not-)?(\d{1,9})-(\d{1,9})")


def part_of(root: Path | str) -> tuple[Path, str | None]:
    """The folder, and which part of it is meant, of ``FOLDER``, ``FOLDER::left`` and so on."""
    root = Path(root)
    folder, mark, part = root.name.rpartition("::")
    is_part = mark and (part in _PARTS or _NUMBERS.fullmatch(part)) and not root.exists()
    return (root.with_name(folder), part) if is_part else (root, None)


class ImageFolder:
    """The images below a folder, by id: the relative path without suffix (POSIX separators).

    Data sets put rainy and clean images into one folder: ``FOLDER::left`` and ``FOLDER::right`` are the
    halves of its pictures, ``FOLDER::rain`` those of its images whose names say rain (``rain-1``, ``1_in``),
    and ``FOLDER::norain`` those that say none (``norain-1``, ``1_GT``). ``FOLDER::5-8`` has the images whose
    names are the numbers 5 to 8, and ``FOLDER::not-5-8`` all others.

    Raises:
        FileError: the folder is missing or empty, or two files have one id.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        folder, part = part_of(root)
        self.files = images_below(folder)
        if part in _NAMED:
            wanted = _NAMED[part]
            self.files = {id: path for id, path in self.files.items() if wanted.fullmatch(path.stem)}
            if not self.files:
                raise FileError(f"{folder} holds no image whose name says {part}: name another folder.")
        if numbers := _NUMBERS.fullmatch(part or ""):
            said, first, last = numbers.groups()
            inside = {
                id: path.stem.isdecimal() and int(first) <= int(path.stem) <= int(last)
                for id, path in self.files.items()
            }
            self.files = {id: path for id, path in self.files.items() if inside[id] is (said is None)}
            if not self.files:
                raise FileError(f"{folder} holds no image whose number is of {part}: name another folder.")
        self._half = part if part in ("left", "right") else None
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
        image = read_image(self.files[identity])
        if self._half is None:
            return image
        middle = image.shape[1] // 2
        if image.shape[1] != 2 * middle or middle == 0:
            raise TrainerError(f"{self.files[identity]} has no halves: it is {image.shape[1]} pixels wide.")
        return np.ascontiguousarray(image[:, :middle] if self._half == "left" else image[:, middle:])

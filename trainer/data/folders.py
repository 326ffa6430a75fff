"""Folders of photographs: listing, reading, pairing, and a check of all of them before a run starts."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from pool_store.errors import PoolError
from pool_store.schemas import image_id
from rgsud_core.images import SUFFIXES, to_rgb
from trainer.errors import TrainerError

Image = NDArray[np.uint8]
"""uint8 H,W,3 RGB, C-contiguous."""

_SHOWN = 3


def named(names: Iterable[object], shown: int = _SHOWN) -> str:
    """The first few names, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more


def list_images(root: Path | str) -> list[Path]:
    """Every image file below a folder, sorted by path; hidden files and folders are left out.

    Raises TrainerError where the folder is missing or holds no image.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is a file, not a folder" if root.is_file() else "does not exist"
        raise TrainerError(f"{root} {what}: name a folder of images.")
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    )
    if not found:
        raise TrainerError(f"{root} holds no image: put {', '.join(SUFFIXES)} files there.")
    return found


def read_image(path: Path | str) -> Image:
    """An image file as uint8 H,W,3 RGB, upright as its EXIF says.

    Transparency is dropped, 16 bits become 8. Raises TrainerError where the file is missing, broken,
    cut short, or no image.
    """
    try:
        with PIL.Image.open(path) as opened:
            opened.load()
            return np.array(to_rgb(opened))
    except FileNotFoundError:
        raise TrainerError(f"{path} does not exist.") from None
    except PIL.UnidentifiedImageError:
        raise TrainerError(f"{path} is not an image: remove it or save it again.") from None
    except (OSError, SyntaxError, ValueError, struct.error, PIL.Image.DecompressionBombError) as error:
        raise TrainerError(f"{path} cannot be read ({error}): remove it or save it again.") from None


def _identities(root: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """Relative path without suffix -> path; TrainerError where two files share one."""
    files: dict[str, Path] = {}
    for path in paths:
        identity = path.relative_to(root).with_suffix("").as_posix()
        if identity in files:
            raise TrainerError(
                f"{files[identity]} and {path} differ in their suffix alone: rename or remove one of them."
            )
        files[identity] = path
    return files


class ImageFolder:
    """The images below a folder; each goes by its relative path without suffix (POSIX separators)."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.files = _identities(self.root, list_images(self.root))
        self.ids: list[str] = sorted(self.files)

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Image:
        """The image of `ids[index]`, uint8 H,W,3."""
        return self.load_id(self.ids[index])

    def load_id(self, identity: str) -> Image:
        """The image that goes by this id, uint8 H,W,3; TrainerError where there is none."""
        if identity not in self.files:
            raise TrainerError(f"{self.root} has no image '{identity}'.")
        return read_image(self.files[identity])


class PairedFolder:
    """Degraded images and their ground truth, matched by id; a suffix may differ, sizes may not."""

    def __init__(self, degraded: Path | str, clean: Path | str) -> None:
        self.degraded = ImageFolder(degraded)
        self.clean = ImageFolder(clean)
        problems = _unmatched(self.degraded, self.clean)
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
        f"'{identity}' is {_size(degraded)} on its degraded side and {_size(clean)} on its clean side: "
        "the two must be pixel-aligned."
    )


def _size(image: Image) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _unmatched(degraded: ImageFolder, clean: ImageFolder) -> list[str]:
    problems = []
    for one, other in ((degraded, clean), (clean, degraded)):
        lonely = [identity for identity in one.ids if identity not in other.files]
        if lonely:
            problems.append(
                f"{len(lonely)} images of {one.root} have no partner of the same name in {other.root}: "
                f"{named(lonely)}."
            )
    return problems


@dataclass(frozen=True)
class DomainReport:
    """What one folder holds."""

    count: int
    smallest: tuple[int, int]
    """Width and height of the image with the fewest pixels."""
    largest: tuple[int, int]
    """Width and height of the image with the most pixels."""
    bytes: int
    """All images decoded, that is what a full cache takes."""


@dataclass(frozen=True)
class DataReport:
    """What a run is about to train on and to be measured with."""

    rainy: DomainReport
    clean: DomainReport
    validation: DomainReport | None
    """Of the degraded side."""
    leaked: tuple[str, ...]
    """Validation images, by id, that are among the training images too: figures on them flatter."""


@dataclass(frozen=True)
class _Look:
    """One image as the check sees it."""

    identity: str
    size: tuple[int, int]
    digest: bytes


def _look_at(folder: ImageFolder, problems: list[str]) -> list[_Look]:
    def one(identity: str) -> _Look | str:
        try:
            image = folder.load_id(identity)
        except TrainerError as error:
            return str(error)
        # Of the pixels, not of the file: a copy in another format is the same photograph.
        digest = hashlib.blake2b(image.tobytes(), digest_size=16, salt=_size(image).encode()[:16]).digest()
        return _Look(identity, (image.shape[1], image.shape[0]), digest)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        seen = list(threads.map(one, folder.ids))
    broken = [look for look in seen if isinstance(look, str)]
    problems.extend(broken[:_SHOWN])
    if len(broken) > _SHOWN:
        problems.append(f"{len(broken) - _SHOWN} more images of {folder.root} cannot be read either.")
    return [look for look in seen if isinstance(look, _Look)]


def _open(root: Path | str, problems: list[str]) -> ImageFolder | None:
    try:
        return ImageFolder(root)
    except TrainerError as error:
        problems.append(str(error))
        return None


def _report(looks: Sequence[_Look]) -> DomainReport:
    sizes = sorted((look.size for look in looks), key=lambda size: size[0] * size[1])
    return DomainReport(len(looks), sizes[0], sizes[-1], sum(3 * width * height for width, height in sizes))


def check_training_data(
    rainy: Path | str,
    clean: Path | str,
    crop: int,
    validation: tuple[Path | str, Path | str] | None = None,
    *,
    minimum: int = 2,
) -> DataReport:
    """Reads every image of both domains and of the validation pairs (degraded, clean) once.

    Raises one TrainerError with a sentence for every problem: folders missing or empty or with fewer than
    `minimum` images, files unreadable, rainy images with names that the pool does not take, images smaller
    than `crop` pixels, photographs that are in both domains, validation images without a partner or with one
    of another size.
    """
    problems: list[str] = []
    domains: list[list[_Look]] = []
    for root in (rainy, clean):
        folder = _open(root, problems)
        looks = _look_at(folder, problems) if folder else []
        small = [look for look in looks if min(look.size) < crop]
        if small:
            sizes = named(f"{look.identity} ({look.size[0]}x{look.size[1]})" for look in small)
            problems.append(
                f"{len(small)} images of {root} are smaller than the crop of {crop}x{crop}: {sizes}; "
                "remove them or train on smaller crops."
            )
        if folder and root == rainy:
            problems.extend(_unnameable(folder))
        if folder and len(folder) < minimum:
            problems.append(f"{root} holds {len(folder)} images, and {minimum} are needed: add some.")
        domains.append(looks)

    in_clean = {look.digest: look.identity for look in domains[1]}
    both = [f"{look.identity} = {in_clean[look.digest]}" for look in domains[0] if look.digest in in_clean]
    if both:
        problems.append(
            f"{len(both)} photographs are both in {rainy} and in {clean}: {named(both)}; "
            "remove them from one of the two."
        )

    pairs: list[list[_Look]] = []
    if validation is not None:
        sides = [side for root in validation if (side := _open(root, problems))]
        if len(sides) == 2:
            problems.extend(_unmatched(sides[0], sides[1]))
        pairs = [_look_at(side, problems) for side in sides]
        if len(pairs) == 2:
            problems.extend(_mismatched(pairs[0], pairs[1]))
    if problems:
        raise TrainerError("\n".join(problems))

    trained_on = {look.digest for looks in domains for look in looks}
    leaked = {look.identity for looks in pairs for look in looks if look.digest in trained_on}
    return DataReport(
        _report(domains[0]), _report(domains[1]), _report(pairs[0]) if pairs else None, tuple(sorted(leaked))
    )


def _unnameable(rainy: ImageFolder) -> list[str]:
    """Images whose names the reward pool does not take."""
    problems = []
    for identity in rainy.ids:
        try:
            image_id(identity)
        except PoolError as problem:
            problems.append(f"{rainy.files[identity]}: {problem}: rename it.")
    return problems[:_SHOWN] + [f"{len(problems) - _SHOWN} more names like these."] * (len(problems) > _SHOWN)


def _mismatched(degraded: Sequence[_Look], clean: Sequence[_Look]) -> list[str]:
    truths = {look.identity: look.size for look in clean}
    clashes = [
        f"{look.identity} ({look.size[0]}x{look.size[1]} and {truth[0]}x{truth[1]})"
        for look in degraded
        if (truth := truths.get(look.identity)) and truth != look.size
    ]
    if not clashes:
        return []
    return [f"{len(clashes)} validation images differ in size from their ground truth: {named(clashes)}."]

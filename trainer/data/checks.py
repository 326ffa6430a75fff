"""A check of every image before a run starts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pool_store.errors import PoolError
from pool_store.schemas import image_id
from rgsud_core.errors import RgsudError
from rgsud_core.images import frames, listing
from trainer.data.folders import SHOWN, ImageFolder, named, part_of
from trainer.data.pairing import partners, size_of
from trainer.errors import TrainerError


@dataclass(frozen=True)
class DataReport:
    """The images that a run trains on."""

    rainy: int
    """Number of rainy images."""
    clean: int
    """Number of clean images."""
    left_out: tuple[str, ...]
    """Sentences about files that are no images, linked folders, and images of several frames."""
    leaked: tuple[str, ...]
    """Ids of validation images that are also training images, which makes their figures too good."""


@dataclass(frozen=True)
class _Look:
    """One image as the check sees it."""

    identity: str
    size: tuple[int, int]
    digest: bytes
    frames: int = 1


def _look_at(folder: ImageFolder, problems: list[str]) -> list[_Look]:
    def one(identity: str) -> _Look | str:
        try:
            image = folder.load_id(identity)
        except RgsudError as error:
            return str(error)
        # The pixels and not the file: a copy in another format is the same photograph.
        digest = hashlib.blake2b(image.tobytes(), digest_size=16, salt=size_of(image).encode()[:16]).digest()
        return _Look(identity, (image.shape[1], image.shape[0]), digest, frames(folder.files[identity]))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        seen = list(threads.map(one, folder.ids))
    broken = [look for look in seen if isinstance(look, str)]
    problems.extend(broken[:SHOWN])
    if len(broken) > SHOWN:
        problems.append(f"{len(broken) - SHOWN} more images of {folder.root} cannot be read either.")
    return [look for look in seen if isinstance(look, _Look)]


def _open(root: Path | str, problems: list[str]) -> ImageFolder | None:
    try:
        return ImageFolder(root)
    except RgsudError as error:
        problems.append(str(error))
        return None


def check_training_data(
    rainy: Path | str,
    clean: Path | str,
    crop: int,
    validation: tuple[Path | str, Path | str] | None = None,
    *,
    paired: bool = False,
) -> DataReport:
    """Reads every image of both domains and of the validation pairs (degraded, clean) once.

    Raises one TrainerError with a sentence for every problem: folders missing or empty or with one
    image alone, files unreadable, rainy images with names that the pool does not take, images smaller
    than `crop` pixels, photographs that are in both domains, validation images without a partner or with one
    of another size. Where `paired`, the clean images are the truths of the rainy ones: both may be one
    photograph, and each has a partner of its size.
    """
    problems: list[str] = []
    domains: list[list[_Look]] = []
    opened: list[ImageFolder] = []
    for root in (rainy, clean):
        folder = _open(root, problems)
        looks = _look_at(folder, problems) if folder else []
        opened += [folder] if folder else []
        small = [look for look in looks if min(look.size) < crop]
        if small:
            sizes = named(f"{look.identity} ({look.size[0]}x{look.size[1]})" for look in small)
            problems.append(
                f"{len(small)} images of {root} are smaller than the crop of {crop}x{crop}: {sizes}; "
                "remove them or train on smaller crops."
            )
        if folder and root == rainy:
            problems.extend(_unnameable(folder))
        if folder and len(folder) < 2:
            problems.append(f"{root} holds 1 image, and 2 are needed: add some.")
        domains.append(looks)

    if paired and len(opened) == 2:
        pairs_of, lonely = partners(*opened)
        problems += lonely + _mismatched("rainy", domains[0], domains[1], pairs_of)
    in_clean = {} if paired else {look.digest: look.identity for look in domains[1]}
    both = [f"{look.identity} = {in_clean[look.digest]}" for look in domains[0] if look.digest in in_clean]
    if both:
        problems.append(
            f"{len(both)} photographs are both in {rainy} and in {clean}: {named(both)}; "
            "remove them from one of the two."
        )

    pairs: list[list[_Look]] = []
    if validation is not None:
        pairs = _look_at_pairs("validation", validation, problems)
    if problems:
        raise TrainerError("\n".join(problems))

    trained_on = {look.digest for looks in domains for look in looks}
    leaked = {look.identity for looks in pairs for look in looks if look.digest in trained_on}
    return DataReport(
        len(domains[0]), len(domains[1]), tuple(_left_out(opened, domains)), tuple(sorted(leaked))
    )


def _look_at_pairs(kind: str, roots: Sequence[Path | str], problems: list[str]) -> list[list[_Look]]:
    """The images of folders that can be read; those of two folders must be pairs."""
    sides = [side for root in roots if (side := _open(root, problems))]
    looks = [_look_at(side, problems) for side in sides]
    if len(sides) == 2:
        pairs_of, lonely = partners(*sides)
        problems += lonely + _mismatched(kind, looks[0], looks[1], pairs_of)
    return looks


@dataclass(frozen=True)
class SetReport:
    """The images of one part of a data set."""

    rainy: int
    clean: int | None
    """Number of truths, of which several rainy images may have the same; None without ground truth."""
    smallest: tuple[int, int]
    """Width and height in pixels of the rainy image with the shortest side."""
    largest: tuple[int, int]


def check_images(rainy: Path | str, clean: Path | str | None) -> SetReport:
    """Reads every image of a part of a data set once.

    Raises one TrainerError with a sentence for every problem: folders missing or empty, files unreadable,
    images without a partner or with one of another size.
    """
    problems: list[str] = []
    roots = [rainy] if clean is None else [rainy, clean]
    looks = _look_at_pairs("rainy", roots, problems)
    if problems:
        raise TrainerError("\n".join(problems))
    sizes = [look.size for look in looks[0]]
    return SetReport(
        rainy=len(looks[0]),
        clean=len(looks[1]) if clean is not None else None,
        smallest=min(sizes, key=min),
        largest=max(sizes, key=lambda size: size[0] * size[1]),
    )


def _left_out(folders: Sequence[ImageFolder], looks: Sequence[Sequence[_Look]]) -> Iterator[str]:
    for folder, seen in zip(folders, looks, strict=True):
        several = [look.identity for look in seen if look.frames > 1]
        if several:
            yield f"Of {len(several)} images of {folder.root} the first frame is used: {named(several)}."
    for root in dict.fromkeys(part_of(folder.root)[0] for folder in folders):
        others = [path.relative_to(root) for path in listing(root).left_out]
        if others:
            yield f"{len(others)} entries of {root} are no images, or linked folders: {named(others)}."


def _unnameable(rainy: ImageFolder) -> list[str]:
    """Images whose names the reward pool does not take."""
    problems = []
    for identity in rainy.ids:
        try:
            image_id(identity)
        except PoolError as problem:
            problems.append(f"{rainy.files[identity]}: {problem}: rename it.")
    return problems[:SHOWN] + [f"{len(problems) - SHOWN} more names like these."] * (len(problems) > SHOWN)


def _mismatched(
    what: str, degraded: Sequence[_Look], clean: Sequence[_Look], partners: Mapping[str, str]
) -> list[str]:
    sizes = {look.identity: look.size for look in clean}
    truths = {identity: sizes[partner] for identity, partner in partners.items() if partner in sizes}
    clashes = [
        f"{look.identity} ({look.size[0]}x{look.size[1]} and {truth[0]}x{truth[1]})"
        for look in degraded
        if (truth := truths.get(look.identity)) and truth != look.size
    ]
    if not clashes:
        return []
    return [f"{len(clashes)} {what} images differ in size from their ground truth: {named(clashes)}."]

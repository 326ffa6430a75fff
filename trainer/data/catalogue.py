"""The data sets of sets.py by name, and where they lie on this machine."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rgsud_core.errors import RgsudError
from rgsud_core.images import Image
from trainer.data.folders import ImageFolder
from trainer.data.sets import KNOWN_SETS, KnownSet
from trainer.errors import TrainerError

_SIDES = (
    ("input", "target"),
    ("rainy", "clean"),
    ("rain", "norain"),
    ("rain", "gt"),
    ("rainy_image", "ground_truth"),
    ("rainy", "truth"),
    ("rainy", "gt"),
    ("rain", "truth"),
    ("input", "groundtruth"),
    ("real_world", "real_world_gt"),
)
"""What published copies call the rainy images and their ground truth."""
_TRAIN = (
    *("train", "training", "DID-MDN-training", "GT-RAIN_train"),
    *("rain_data_train_light", "rain_data_train_heavy"),
)
_TEST = (
    *("test", "testing", "val", "test_syn", "DID-MDN-test", "GT-RAIN_test", "real_test_1000"),
    *("rain_data_test_light", "rain_data_test_heavy"),
)
_FOR_TRAINING = ("real_world", "real_world_gt")
"""What a set for training is called that lies beside the folders of a split."""
_LOOKED_AT = 20
"""Pictures that are looked at to tell which of their halves is the rainy one."""


@dataclass(frozen=True)
class FoundSet:
    """A known data set on this machine; a pair is the folders of the rainy images and of their truth.

    A folder may be part of one, see :class:`~trainer.data.folders.ImageFolder`.
    """

    known: KnownSet
    train_rainy: Path | None
    train_clean: Path | None
    test: tuple[Path, Path] | None
    photographs: Path | None = None
    """Photographs for testing that have no ground truth."""


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _below(folder: Path, *names: str) -> Iterator[Path]:
    """Folders right below this one that go by one of the names, whatever their case and dashes."""
    wanted = {_plain(name) for name in names}
    if folder.is_dir():
        yield from (
            path for path in sorted(folder.iterdir()) if path.is_dir() and _plain(path.name) in wanted
        )


def _sides(split: Path, known: KnownSet) -> tuple[Path | None, Path | None]:
    """The folders of the rainy images and of their truth in a folder, or in a folder below it."""
    if known.mixed:
        parts = _part(split, "rain"), _part(split, "norain")
        return parts if all(map(_filled, parts)) else (None, None)
    for folder in (split, *_folders(split)):
        for names in _SIDES:
            rainy, clean = (next(_below(folder, name), None) for name in names)
            if rainy and clean:
                return rainy, clean
        names_here = {path.stem.lower() for path in folder.glob("*.*")} if folder.is_dir() else set()
        if any(re.match("norain|.*_gt$", name) for name in names_here):
            # The truth lies beside the rainy images, or beside their folder.
            inner = next(_below(folder, "rainy", "rain"), None)
            return inner or _part(folder, "rain"), _part(folder, "norain")
    rainy = next(_below(split, *(rainy for rainy, _ in _SIDES)), None)
    if rainy is None and known.beside and split.is_dir():
        return _halves(split)
    if rainy is None and not known.paired and _filled(split):
        return split, None
    return rainy, None


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _filled(folder: Path) -> bool:
    try:
        return bool(ImageFolder(folder))
    except RgsudError:
        return False


def _part(folder: Path, part: str) -> Path:
    return folder.with_name(f"{folder.name}::{part}")


def _halves(folder: Path) -> tuple[Path | None, Path | None]:
    """The halves of pictures side by side, the rainy one first: copies differ in which that is.

    Rain adds edges: the rainy half is the one that has more of them in most pictures.
    """
    left, right = (_part(folder, side) for side in ("left", "right"))
    try:
        sides = ImageFolder(left), ImageFolder(right)
        votes = [
            _edges(sides[0].load_id(identity)) > _edges(sides[1].load_id(identity))
            for identity in sides[0].ids[:_LOOKED_AT]
        ]
    except RgsudError:  # it is another layout
        return None, None
    return (left, right) if 2 * sum(votes) >= len(votes) else (right, left)


def _edges(image: Image) -> float:
    return float(np.abs(np.diff(image.astype(np.int16), axis=1)).mean())


def lookup(name: str) -> KnownSet:
    """The data set of this name or alias, whatever its case and dashes; TrainerError where there is none."""
    by_name = {_plain(alias): known for known in KNOWN_SETS for alias in (known.name, *known.aliases)}
    if _plain(name) not in by_name:
        names = [one for known in KNOWN_SETS for one in (known.name, *known.aliases)]
        near = [one for one in names if _plain(one).startswith(_plain(name)[:60]) and _plain(name)]
        near = near or difflib.get_close_matches(name, names, n=2, cutoff=0.85)
        sets = ", ".join(known.name for known in KNOWN_SETS)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are {sets}"
        raise TrainerError(f"No data set is called '{name}': {hint}")
    return by_name[_plain(name)]


def find(name: str, root: Path | str) -> FoundSet:
    """Where a known data set lies: below `root`, or `root` itself if it has the set's name.

    A set without split folders counts as a test set, or as a training set where it has no ground truth.
    Raises TrainerError where the name is unknown or nothing of the set is there.
    """
    known, root = lookup(name), Path(root)
    for folder in _places(known, root):
        train_rainy, train_clean = _first(_below(folder, *_TRAIN), known)
        if train_rainy is None:
            beside = [next(_below(folder, side), None) for side in _FOR_TRAINING]
            train_rainy, train_clean = beside if all(beside) else (None, None)
        tests = _below(folder, *_TEST) if known.tested else iter(())
        rainy, clean = _first((inner for split in tests for inner in _nested(split)), known)
        photographs = None if known.paired else rainy
        if not (train_rainy or rainy):
            if parts := _parts_of(known, folder):
                raise TrainerError(f"{folder} holds several sets: name one of {', '.join(parts)}.")
            rainy, clean = _sides(folder, known)
        if rainy and rainy != photographs and (not known.paired or not known.tested):
            train_rainy, train_clean = train_rainy or rainy, train_clean or clean
        test = (rainy, clean) if rainy and clean and known.tested else None
        photographs = photographs or (None if known.paired else train_rainy)
        if train_rainy and train_rainy == photographs and known.numbers:
            first, last = known.numbers
            chosen = _part(train_rainy, f"{first}-{last}"), _part(train_rainy, f"not-{first}-{last}")
            if all(map(_filled, chosen)):
                photographs, train_rainy = chosen
        if train_rainy or test or photographs:
            return FoundSet(known, train_rainy, train_clean, test, photographs)
    layout = "test/input and test/target" if known.paired else "train/rainy"
    raise TrainerError(
        f"{known.name} is not below {root}: put it into {root / known.name}, as {layout} for example "
        f"({known.paper})."
    )


def _first(splits: Iterable[Path], known: KnownSet) -> tuple[Path | None, Path | None]:
    return next((sides for split in splits if (sides := _sides(split, known))[0]), (None, None))


def _places(known: KnownSet, root: Path) -> Iterator[Path]:
    """Folders that may hold a set: below ``root``, or ``root`` itself if it is called so."""
    # Rain13K holds the test sets of others too.
    groups = [root, *_below(root, *_TRAIN, *_TEST), *_below(root, "Rain13K")]
    groups += [inner for group in groups[1:] for inner in _below(group, *_TEST)]
    names = known.name, *known.aliases
    yield from _called(root, groups, *names)
    if known.inside:
        whole, part = known.inside
        for folder in _called(root, groups, whole):
            yield from _below(folder, part)


def _called(root: Path, groups: Iterable[Path], *names: str) -> Iterator[Path]:
    if _plain(root.name) in map(_plain, names):
        yield root
    for group in groups:
        yield from _below(group, *names)


def _nested(split: Path) -> Iterator[Path]:
    """A folder, and that of the same name in it, which some archives make."""
    yield from _below(split, split.name)
    yield split
    for folder in _folders(split):
        yield from _below(folder, folder.name)


def _parts_of(known: KnownSet, folder: Path) -> list[str]:
    parts = {one.inside[1]: one.name for one in KNOWN_SETS if one.inside and one.inside[0] == known.name}
    return [parts[path.name] for path in _below(folder, *parts) if path.name in parts]

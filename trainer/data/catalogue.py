"""Data sets of the deraining literature: their names, layouts and protocols."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rgsud_core.errors import RgsudError
from rgsud_core.images import Image
from trainer.data.folders import ImageFolder
from trainer.errors import TrainerError

_SIDES = (
    ("input", "target"),
    ("rainy", "clean"),
    ("rain", "norain"),
    ("rain", "gt"),
    ("rainy_image", "ground_truth"),
    ("rainy", "truth"),
    ("rain", "truth"),
    ("input", "groundtruth"),
    ("real_world", "real_world_gt"),
)
"""What published copies call the rainy images and their ground truth."""
_TRAIN = ("train", "training", "DID-MDN-training", "rain_data_train_light", "rain_data_train_heavy")
_TEST = ("test", "testing", "val", "test_syn", "DID-MDN-test", "rain_data_test_light", "rain_data_test_heavy")
_LOOKED_AT = 20
"""Pictures that are looked at to tell which of their halves is the rainy one."""


@dataclass(frozen=True)
class KnownSet:
    """A data set of the literature."""

    name: str
    protocol: Literal["A", "B"]
    """How its figures are measured; see evaluation.py."""
    paper: str
    aliases: tuple[str, ...] = ()
    paired: bool = True
    """Whether there is a ground truth."""
    beside: bool = False
    """Whether it is published as pictures of both, side by side."""
    tested: bool = True
    """Whether it has test pairs of its own."""


_YANG = "Yang et al., Deep Joint Rain Detection and Removal from a Single Image, CVPR 2017"
_ZHANG = "Zhang et al., Image De-raining Using a Conditional GAN, TCSVT 2019"
_JIANG = "Jiang et al., Multi-Scale Progressive Fusion Network for Single Image Deraining, CVPR 2020"
_REALRAIN = (
    "Li et al., Toward Real-world Single Image Deraining: A New Benchmark and Beyond, arXiv 2206.05514"
)
KNOWN_SETS: tuple[KnownSet, ...] = (
    KnownSet("Rain100L", "A", _YANG, ("RainTrainL",)),
    KnownSet("Rain100H", "A", _YANG, ("RainTrainH",)),
    KnownSet("Rain200L", "A", _YANG),
    KnownSet("Rain200H", "A", _YANG),
    KnownSet("Rain12", "A", "Li et al., Rain Streak Removal Using Layer Priors, CVPR 2016"),
    KnownSet("Rain800", "A", _ZHANG, beside=True),
    KnownSet("Rain13K", "A", _JIANG, tested=False),
    KnownSet("Test100", "A", _ZHANG),
    KnownSet("Test1200", "A", "Zhang and Patel, CVPR 2018, as in Rain13K"),
    KnownSet("Test2800", "A", "Fu et al., CVPR 2017, as in Rain13K", ("Rain2800",)),
    KnownSet(
        "DDN-Data",
        "B",
        "Fu et al., Removing Rain from Single Images via a Deep Detail Network, CVPR 2017",
        ("DDN", "Rain1400"),
    ),
    KnownSet(
        "DID-Data",
        "B",
        "Zhang and Patel, Density-aware Single Image De-raining using a Multi-stream Dense "
        "Network, CVPR 2018",
        ("DID", "DID-MDN", "Rain1200"),
        beside=True,
    ),
    KnownSet(
        "SPA-Data",
        "A",
        "Wang et al., Spatial Attentive Single-Image Deraining with a High Quality "
        "Real Rain Dataset, CVPR 2019",
        ("SPA",),
    ),
    KnownSet("RealRain-1k-L", "A", _REALRAIN),
    KnownSet("RealRain-1k-H", "A", _REALRAIN),
    KnownSet(
        "SIRR",
        "A",
        "Wei et al., Semi-supervised Transfer Learning for Image Rain Removal, CVPR 2019",
        ("Real147",),
        paired=False,
    ),
)


@dataclass(frozen=True)
class FoundSet:
    """A known data set on this machine; a pair is the folders of the rainy images and of their truth.

    A folder may be part of one, see :class:`~trainer.data.folders.ImageFolder`.
    """

    known: KnownSet
    train_rainy: Path | None
    train_clean: Path | None
    test: tuple[Path, Path] | None


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
    return rainy, None


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


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
    names = (known.name, *known.aliases)
    at_root = [root] if _plain(root.name) in map(_plain, names) else []
    # Rain13K holds the test sets of others too.
    groups = [root, *_below(root, *_TRAIN, *_TEST), *_below(root, "Rain13K")]
    groups += [inner for group in groups[1:] for inner in _below(group, *_TEST)]
    for folder in (*at_root, *(found for group in groups for found in _below(group, *names))):
        train_rainy, train_clean = next(
            (_sides(split, known) for split in _below(folder, *_TRAIN)), (None, None)
        )
        tests = _below(folder, *_TEST) if known.tested else iter(())
        rainy, clean = next((_sides(split, known) for split in tests), (None, None))
        if not (train_rainy or rainy):
            rainy, clean = _sides(folder, known)
        if rainy and not (clean and known.tested) and (not known.paired or not known.tested):
            train_rainy, train_clean = train_rainy or rainy, train_clean or clean
        test = (rainy, clean) if rainy and clean and known.tested else None
        if train_rainy or test:
            return FoundSet(known, train_rainy, train_clean, test)
    layout = "test/input and test/target" if known.paired else "train/rainy"
    raise TrainerError(
        f"{known.name} is not below {root}: put it into {root / known.name}, as {layout} for example "
        f"({known.paper})."
    )

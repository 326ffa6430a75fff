"""Data sets of the deraining literature: their names, layouts and protocols."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rgsud_core.errors import nearest
from trainer.errors import TrainerError

_SIDES = (
    ("input", "target"),
    ("rainy", "clean"),
    ("rain", "norain"),
    ("rain", "gt"),
    ("rainy_image", "ground_truth"),
    ("rainy", "truth"),
)
"""What published copies call the rainy images and their ground truth."""
_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val")


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


_YANG = "Yang et al., Deep Joint Rain Detection and Removal from a Single Image, CVPR 2017"
_REALRAIN = (
    "Li et al., Toward Real-world Single Image Deraining: A New Benchmark and Beyond, arXiv 2206.05514"
)
KNOWN_SETS: tuple[KnownSet, ...] = (
    KnownSet("Rain100L", "A", _YANG),
    KnownSet("Rain100H", "A", _YANG),
    KnownSet("Rain200L", "A", _YANG),
    KnownSet("Rain200H", "A", _YANG),
    KnownSet("Rain800", "A", "Zhang et al., Image De-raining Using a Conditional GAN, TCSVT 2019"),
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
        ("DID", "Rain1200"),
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
    """A known data set on this machine; a pair is the folders of the rainy images and of their truth."""

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


def _sides(split: Path) -> tuple[Path | None, Path | None]:
    for names in _SIDES:
        rainy, clean = (next(_below(split, name), None) for name in names)
        if rainy and clean:
            return rainy, clean
    return next(_below(split, *(rainy for rainy, _ in _SIDES)), None), None


def lookup(name: str) -> KnownSet:
    """The data set of this name or alias, whatever its case and dashes; TrainerError where there is none."""
    by_name = {_plain(alias): known for known in KNOWN_SETS for alias in (known.name, *known.aliases)}
    if _plain(name) not in by_name:
        hint = nearest(name, [known.name for known in KNOWN_SETS])
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
    for folder in (*at_root, *_below(root, *names)):
        train_rainy, train_clean = next((_sides(split) for split in _below(folder, *_TRAIN)), (None, None))
        rainy, clean = next((_sides(split) for split in _below(folder, *_TEST)), (None, None))
        if not (train_rainy or rainy):
            rainy, clean = _sides(folder)
        if rainy and not clean and not known.paired:
            train_rainy = train_rainy or rainy
        test = (rainy, clean) if rainy and clean else None
        if train_rainy or test:
            return FoundSet(known, train_rainy, train_clean, test)
    layout = "test/input and test/target" if known.paired else "train/rainy"
    raise TrainerError(
        f"{known.name} is not below {root}: put it into {root / known.name}, as {layout} for example "
        f"({known.paper})."
    )

"""Degraded images and their ground truth, by the rules of the data sets that are published."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from rgsud_core.images import Image
from trainer.data.folders import ImageFolder, named
from trainer.errors import TrainerError


class _Rule(NamedTuple):
    """Two images are a pair where their names are the same without what these match."""

    name: str
    degraded: str = "$^"
    clean: str = "$^"
    or_first: bool = False
    """Whether the truth number 000 stands for those that are not there."""


_RULES = (
    _Rule("the same name"),
    _Rule("rain-N, norain-N", "^rainy?[-_ ]?", "^(norain|clean|gt)[-_ ]?"),  # Rain100, RainTrain
    _Rule("norain-Nx2, norain-N", r"^(no)?rain[-_ ]?|x\d+$", "^norain[-_ ]?"),  # Rain200
    _Rule("N_1, N", r"[-_]\d+$"),  # DDN-Data, SPA-Data
    _Rule("N-FRAME_X_Y, N", r"-.*$"),  # SPA-Data, for training
    _Rule("N-R-000, N-C-000", r"(?<=-)R-(?=\d+$)", r"(?<=-)C-(?=\d+$)", or_first=True),  # GT-RAIN
    _Rule("N_in, N_GT", "[-_]?(in|input|rainy?)$", "[-_]?(gt|clean|norain|target)$"),  # Rain12, SPA-Data
)


class PairedFolder:
    """Degraded images and their ground truth, see :func:`partners`; sizes may not differ."""

    def __init__(self, degraded: Path | str, clean: Path | str) -> None:
        self.degraded = ImageFolder(degraded)
        self.clean = ImageFolder(clean)
        self.partners, problems = partners(self.degraded, self.clean)
        if problems:
            raise TrainerError("\n".join(problems))
        self.ids = self.degraded.ids

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> tuple[Image, Image]:
        """(degraded, clean) of `ids[index]`, both uint8 H,W,3; TrainerError where their sizes differ."""
        identity = self.ids[index]
        pair = self.degraded.load_id(identity), self.truth(identity)
        if pair[0].shape != pair[1].shape:
            raise TrainerError(_size_clash(identity, *pair))
        return pair

    def truth(self, identity: str) -> Image:
        """The ground truth of a degraded image, uint8 H,W,3."""
        return self.clean.load_id(self.partners[identity])


def _size_clash(identity: str, degraded: Image, clean: Image) -> str:
    return (
        f"'{identity}' is {size_of(degraded)} on its degraded side and {size_of(clean)} on its clean side: "
        "the two must be pixel-aligned."
    )


def size_of(image: Image) -> str:
    """WIDTHxHEIGHT of an image H,W,3."""
    return f"{image.shape[1]}x{image.shape[0]}"


def partners(degraded: ImageFolder, clean: ImageFolder) -> tuple[dict[str, str], list[str]]:
    """The id of the clean image of each degraded one, of which several may have the same.

    All pairs of two folders go by one rule: the same name in the same folder, or else that of a published
    data set by which no image is left over; where there is none, by the name without its folder.

    Returns:
        The pairs, and a sentence for each side that has images without a partner.
    """
    tried = [_matched(degraded, clean, rule, folders) for folders in (True, False) for rule in _RULES]
    # The first of those that leave the fewest: names that fit by themselves need no rule.
    pairs, lonely, rule = min(tried, key=lambda found: sum(map(len, found[1])))
    by = "of the same name" if rule is _RULES[0] else f"by the names {rule.name}"
    problems = [
        f"{len(ids)} images of {one.root} have no partner {by} in {other.root}: {named(ids)}."
        for ids, one, other in zip(lonely, (degraded, clean), (clean, degraded), strict=True)
        if ids
    ]
    return pairs, problems


def _matched(
    degraded: ImageFolder, clean: ImageFolder, rule: _Rule, folders: bool
) -> tuple[dict[str, str], tuple[list[str], list[str]], _Rule]:
    truths: dict[str, str] = {}
    for identity in clean.ids:
        if truths.setdefault(_key(identity, rule.clean, folders), identity) != identity:
            return {}, (degraded.ids, clean.ids), rule  # it cannot tell the clean ones apart
    pairs: dict[str, str] = {}
    for identity in degraded.ids:
        key = _key(identity, rule.degraded, folders)
        first = re.sub(r"\d+$", "000", key) if rule.or_first else key
        if (truth := truths.get(key, truths.get(first))) is not None:
            pairs[identity] = truth
    used = set(pairs.values())
    lonely = [id for id in degraded.ids if id not in pairs], [id for id in clean.ids if id not in used]
    return pairs, lonely, rule


def _key(identity: str, without: str, folders: bool) -> str:
    # Systems write accents in one character or in two.
    folder, slash, name = unicodedata.normalize("NFC", identity).rpartition("/")
    rest = re.sub(without, "", name, flags=re.IGNORECASE)
    return f"{folder}{slash}{rest}" if folders else rest

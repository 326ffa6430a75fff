"""Several derainers on several data sets, measured image by image; tables of it are made in tables.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate, ScoreBackend
from rgsud_core.errors import RgsudError
from rgsud_core.images import Image
from trainer.data.catalogue import find
from trainer.data.folders import ImageFolder
from trainer.data.pairing import PairedFolder
from trainer.data.published import PUBLISHED
from trainer.data.sets import KnownSet
from trainer.errors import TrainerError
from trainer.restore.evaluation import Protocol, score_pair
from trainer.restore.judge import judge
from trainer.restore.sheets import Panel, contact_sheet

Derain = Callable[[Image], Image]
"""uint8 H,W,3 -> the same."""
Group = Literal["luma", "rgb", "judged", "scored"]

RAINY = "rainy"
"""The name of the rainy images themselves among the methods."""
_SHEET_ROWS = 8


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Measure(_Result):
    """What is measured of an image: a column of a table."""

    key: str
    heading: str
    group: Group
    digits: int
    better: Literal["higher", "lower"] | None
    """Which values are better than the rainy image's; None where doing nothing has the best one."""
    unit: str = ""
    """What a scorer's values are."""


_PAIRED = (
    Measure(key="psnr_y", heading="PSNR", group="luma", digits=2, better="higher"),
    Measure(key="ssim_y", heading="SSIM", group="luma", digits=3, better="higher"),
    Measure(key="psnr_rgb", heading="PSNR", group="rgb", digits=2, better="higher"),
    Measure(key="ssim_rgb", heading="SSIM", group="rgb", digits=3, better="higher"),
)
_JUDGED = (
    Measure(key="left", heading="rain left", group="judged", digits=2, better="lower"),
    Measure(key="pattern", heading="pattern left", group="judged", digits=2, better="lower"),
    Measure(key="taken", heading="scene taken", group="judged", digits=2, better=None),
    Measure(key="direction", heading="direction", group="judged", digits=2, better=None),
    Measure(key="brightness", heading="brightness", group="judged", digits=1, better=None),
    Measure(key="colour", heading="colour", group="judged", digits=1, better=None),
    Measure(key="mirrored", heading="mirrored, dB", group="judged", digits=1, better=None),
)


class ImageRow(_Result):
    """The measures of one image by one method; of the rainy image itself where the method is `rainy`."""

    image: str
    method: str
    values: dict[str, float]
    """By the key of the measure; NaN where it is not known."""


class PublishedRow(_Result):
    """What a paper reports of a method on a data set."""

    method: str
    source: str
    values: dict[str, float]


class MeasuredSet(_Result):
    """The measures of one data set."""

    name: str
    protocol: Protocol | None
    """None where there is no ground truth."""
    images: int
    whole: int | None = None
    """Images of the whole set for testing, as far as that is known."""
    rows: list[ImageRow]
    published: list[PublishedRow] = []

    def mean(self, method: str, key: str) -> float:
        """Mean of a measure over the images that have it; NaN if none has."""
        values = [row.values.get(key, math.nan) for row in self.rows if row.method == method]
        known = [value for value in values if not math.isnan(value)]
        return float(np.mean(known)) if known else math.nan


class Comparison(_Result):
    """Derainers measured on data sets."""

    measures: list[Measure]
    methods: list[str]
    """The derainers, in the order in which they were given."""
    sets: list[MeasuredSet]


@dataclass(frozen=True)
class ImageSet:
    """Images to measure on, with ground truth or without."""

    name: str
    rainy: Path
    clean: Path | None = None
    protocol: Protocol = "A"
    known: KnownSet | None = None


def find_image_set(name: str, root: Path | str, protocol: Protocol | None = None) -> ImageSet:
    """The test pairs of a data set of the literature below ``root``, or its photographs if it has no truths.

    Raises:
        TrainerError: there is no such data set, or it is not there.
    """
    found = find(name, root)
    known = found.known
    if found.test is not None:
        return ImageSet(known.name, *found.test, protocol or known.protocol, known)
    if found.photographs is None:
        raise TrainerError(f"{known.name} has no test pairs below {root}: give both folders.")
    return ImageSet(known.name, found.photographs, known=known)


def compare(
    derainers: Mapping[str, Derain],
    sets: Sequence[ImageSet],
    *,
    scorers: Sequence[str] = (),
    sheets: Mapping[str, Path] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Measures each derainer on each image of each set, and the rainy image itself.

    With ground truth: PSNR and SSIM of luma and RGB. Without: see :mod:`trainer.restore.judge`.

    Args:
        derainers: by the name that they have in tables.
        sets: of different names.
        scorers: addresses of scorers, whose scores are given in their own units as well.
        sheets: for sets, by name, where a contact sheet of the first eight images goes.
        progress: ``progress(done, total)`` is called after each image.

    Raises:
        RgsudError: an image cannot be read, has no partner, or cannot be measured; a scorer cannot be opened.
    """
    if RAINY in derainers:
        raise TrainerError(
            f"A derainer cannot be called '{RAINY}', as the rainy images are: rename its file."
        )
    opened = [
        (test, ImageFolder(test.rainy) if test.clean is None else PairedFolder(test.rainy, test.clean))
        for test in sets
    ]
    total, done = sum(len(folder) for _, folder in opened), 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    with ExitStack() as stack:
        backends: dict[str, ScoreBackend] = {}
        for address in dict.fromkeys(scorers):
            backend = open_scorer(address)
            stack.callback(backend.close)
            backends[address if backend.name in backends else backend.name] = backend
        measured = [
            _measure(test, folder, derainers, backends, (sheets or {}).get(test.name), advance)
            for test, folder in opened
        ]
        kinds = {one.protocol is None for one in measured}
        measures = [*_PAIRED * (False in kinds), *_JUDGED * (True in kinds), *_measures_of(backends)]
    return Comparison(measures=measures, methods=list(derainers), sets=measured)


def _measure(
    test: ImageSet,
    folder: ImageFolder | PairedFolder,
    derainers: Mapping[str, Derain],
    backends: Mapping[str, ScoreBackend],
    sheet: Path | None,
    advance: Callable[[], None],
) -> MeasuredSet:
    rows: list[ImageRow] = []
    panels: list[list[Panel]] = []
    for identity, rainy, truth in _images(folder):
        shown: list[Panel] = []
        for method, derain in {RAINY: _unchanged, **derainers}.items():
            image = derain(rainy)
            values = _quality(identity, rainy, image, truth, derain, test.protocol)
            values |= _scored(backends, identity, image, rainy)
            rows.append(ImageRow(image=identity, method=method, values=values))
            said = identity if truth is None else f"{values['psnr_y']:.2f} dB"
            shown.append(Panel(image, f"{method}  {said}"))
        if truth is not None:
            shown.append(Panel(truth, f"clean  {identity}"))
        if len(panels) < _SHEET_ROWS:
            panels.append(shown)
        advance()
    if sheet is not None:
        contact_sheet(panels, sheet)
    return MeasuredSet(
        name=test.name,
        protocol=None if test.clean is None else test.protocol,
        images=len(folder),
        whole=(test.known.test or None) if test.known else None,
        rows=rows,
        published=_published(test.known, backends),
    )


def _unchanged(image: Image) -> Image:
    return image


def _images(folder: ImageFolder | PairedFolder) -> Iterator[tuple[str, Image, Image | None]]:
    for index, identity in enumerate(folder.ids):
        if isinstance(folder, PairedFolder):
            yield identity, *folder.load(index)
        else:
            yield identity, folder.load(index), None


def _quality(
    identity: str, rainy: Image, image: Image, truth: Image | None, derain: Derain, protocol: Protocol
) -> dict[str, float]:
    if truth is None:
        judged = judge(identity, rainy, image, derain(np.ascontiguousarray(rainy[:, ::-1])))
        return {measure.key: getattr(judged, measure.key) for measure in _JUDGED}
    try:
        return score_pair(image, truth, protocol).model_dump()
    except RgsudError as error:
        raise TrainerError(f"'{identity}': {error}") from None


def _scored(
    backends: Mapping[str, ScoreBackend], identity: str, image: Image, rainy: Image
) -> dict[str, float]:
    candidate = Candidate(identity, image, rainy)
    return {name: backend.in_unit(float(backend.score([candidate])[0])) for name, backend in backends.items()}


def _measures_of(backends: Mapping[str, ScoreBackend]) -> list[Measure]:
    return [
        Measure(
            key=name,
            heading=name,
            group="scored",
            digits=3,
            better="lower" if backend.lower_better else "higher",
            unit=backend.unit,
        )
        for name, backend in backends.items()
    ]


def _published(known: KnownSet | None, backends: Mapping[str, ScoreBackend]) -> list[PublishedRow]:
    rows = []
    for figures in PUBLISHED.get(known.name, ()) if known else ():
        given = {"psnr_y": figures.psnr, "ssim_y": figures.ssim}
        given |= {name: figures.daclip for name, backend in backends.items() if backend.name == "daclip"}
        values = {key: value for key, value in given.items() if value is not None}
        rows += [PublishedRow(method=figures.method, source=figures.source, values=values)] * bool(values)
    return rows

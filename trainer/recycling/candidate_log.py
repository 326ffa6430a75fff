"""Every candidate of a run on disk, so that scorers can be compared and trained without repeating the run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import PIL.Image
from pydantic import BaseModel

from iqa_service.scorers.base import Candidate
from pool_store.schemas import Lineage
from rgsud_core.images import Image, read_image
from trainer.errors import TrainerError

_TABLE = "candidates.jsonl"
_SCORES = "scores.jsonl"


@dataclass(frozen=True)
class LoggedCandidate:
    """A candidate that was logged."""

    id: str
    """Id of the rainy image that it was made from."""
    path: Path
    lineage: Lineage
    log_odds: float | None = None
    """Its score; None where it was not scored, or by an earlier version."""

    def image(self) -> Image:
        """uint8 H,W,3."""
        return read_image(self.path)


class _Named(BaseModel):
    file: str


class _Line(_Named):
    id: str
    lineage: Lineage


class _Score(_Named):
    log_odds: float


_Found = TypeVar("_Found", bound=_Named)


class CandidateLog:
    """Writes candidates to a folder: lossless WebP files, ``candidates.jsonl`` with their lineage, and
    ``scores.jsonl`` with the scores of those that were scored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, candidate: Candidate, lineage: Lineage) -> None:
        """Write one candidate; a repeated step of a resumed run replaces the first.

        Raises:
            TrainerError: the folder cannot be written.
        """
        file = _file(candidate.id, lineage)
        path = self._folder / file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(candidate.image).save(path, lossless=True, method=0, quality=0)
            self._append(_TABLE, {"id": candidate.id, "file": file, "lineage": lineage.model_dump()})
        except OSError as problem:
            raise self._unwritable(problem) from None

    def scored(self, candidate: Candidate, lineage: Lineage, log_odds: float) -> None:
        """Write the score of a candidate that was added.

        Raises:
            TrainerError: the folder cannot be written.
        """
        try:
            self._append(_SCORES, {"file": _file(candidate.id, lineage), "log_odds": log_odds})
        except OSError as problem:
            raise self._unwritable(problem) from None

    def _append(self, table: str, line: dict[str, Any]) -> None:
        with (self._folder / table).open("a+b") as lines:
            if lines.tell():
                lines.seek(-1, os.SEEK_END)
                if lines.read() != b"\n":
                    lines.write(b"\n")  # a line that was cut off must not spoil this one
            lines.write(json.dumps(line).encode() + b"\n")

    def _unwritable(self, problem: OSError) -> TrainerError:
        return TrainerError(
            f"the record in {self._folder} cannot be written ({problem.strerror or problem}): "
            "free space on that disk, or leave out recycling.record."
        )


def read_candidates(folder: Path) -> Iterator[LoggedCandidate]:
    """The candidates in a folder, in the order in which they were made; repeated steps count once.

    Raises:
        TrainerError: the folder holds no record.
    """
    if not (folder / _TABLE).is_file():
        raise TrainerError(f"{folder} holds no record: give a folder that recycling.record wrote.")
    by_file = {line.file: line for line in _lines(folder / _TABLE, _Line)}
    scores = {line.file: line.log_odds for line in _lines(folder / _SCORES, _Score)}
    for file, line in by_file.items():
        yield LoggedCandidate(line.id, folder / file, line.lineage, scores.get(file))


def _file(id: str, lineage: Lineage) -> str:
    return f"{id}/{lineage.run}-{lineage.step:09d}.webp"


def _lines(path: Path, kind: type[_Found]) -> Iterator[_Found]:
    """The lines that are whole, and whose file lies in the folder of the table."""
    with suppress(OSError), path.open("rb") as table:
        for text in table:
            with suppress(ValueError):  # cut off by a full disk or a kill
                line = kind.model_validate_json(text)
                if (path.parent / line.file).resolve().is_relative_to(path.parent.resolve()):
                    yield line

"""Every candidate of a run on disk, so that scorers can be compared and trained without repeating the run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from iqa_service.scorers.base import Candidate
from pool_store.schemas import Lineage
from rgsud_core.images import Image, read_image
from trainer.errors import TrainerError

_TABLE = "candidates.jsonl"


@dataclass(frozen=True)
class LoggedCandidate:
    """A candidate that was logged."""

    id: str
    """Id of the rainy image that it was made from."""
    path: Path
    lineage: Lineage

    def image(self) -> Image:
        """uint8 H,W,3."""
        return read_image(self.path)


class CandidateLog:
    """Writes candidates to a folder: lossless WebP files, and ``candidates.jsonl`` with their lineage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, candidate: Candidate, lineage: Lineage) -> None:
        """Write one candidate; a repeated step of a resumed run replaces the first.

        Raises:
            TrainerError: the folder cannot be written.
        """
        file = f"{candidate.id}/{lineage.run}-{lineage.step:09d}.webp"
        path = self._folder / file
        line = {"id": candidate.id, "file": file, "lineage": lineage.model_dump()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(candidate.image).save(path, lossless=True, method=0, quality=0)
            with (self._folder / _TABLE).open("a+b") as table:
                if table.tell():
                    table.seek(-1, os.SEEK_END)
                    if table.read() != b"\n":
                        table.write(b"\n")  # a line that was cut off must not spoil this one
                table.write(json.dumps(line).encode() + b"\n")
        except OSError as problem:
            raise TrainerError(
                f"the record in {self._folder} cannot be written ({problem.strerror or problem}): "
                "free space on that disk, or leave out recycling.record."
            ) from None


def read_candidates(folder: Path) -> Iterator[LoggedCandidate]:
    """The candidates in a folder, in the order in which they were made; repeated steps count once.

    Raises:
        TrainerError: the folder holds no record.
    """
    try:
        lines = (folder / _TABLE).read_text().splitlines()
    except OSError:
        raise TrainerError(f"{folder} holds no record: give a folder that recycling.record wrote.") from None
    by_file: dict[str, Any] = {}
    for line in lines:
        with suppress(json.JSONDecodeError):  # cut off by a full disk or a kill
            entry = json.loads(line)
            by_file[entry["file"]] = entry
    for file, entry in by_file.items():
        yield LoggedCandidate(entry["id"], folder / file, Lineage.model_validate(entry["lineage"]))

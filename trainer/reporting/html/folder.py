"""What a run's folder says, read as a stranger's: nothing in it is imported, nothing beyond it opened."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rgsud_core.errors import first_line
from rgsud_core.settings import YAML_CHARACTERS, read_yaml
from trainer.errors import TrainerError
from trainer.reporting.lines import EvaluationLine, Line, NoticeLine, StepLine, parse

_LONGEST_LINE = 1 << 20
_LONGEST_FILE = 1 << 20
_LARGEST = 1e30
"""Beyond it a figure is no measurement, and no axis can be drawn."""
_Measured = TypeVar("_Measured", StepLine, EvaluationLine)


@dataclass(frozen=True)
class RunFolder:
    """A run as its folder has it."""

    folder: Path
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Its configuration, flat, by dotted key."""
    problem: str | None = None
    """Why the configuration is not known."""
    lines: list[Line] = field(default_factory=list)
    """All lines of metrics.jsonl, in their order."""
    steps: list[StepLine] = field(default_factory=list)
    """By step; what was repeated after a resume counts once. So do evaluations."""
    evaluations: list[EvaluationLine] = field(default_factory=list)
    notices: list[NoticeLine] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> Line | None:
        """The newest line."""
        return self.lines[-1] if self.lines else None

    @property
    def stage2(self) -> int | None:
        """Samples after which stage 2 began, to the nearest line; None if it has not."""
        began = [line.samples for line in self.lines if line.stage == 2]
        return min(began) if began else None

    @property
    def share(self) -> float | None:
        """Share of the schedule that is over, 0 to 1; None where it is not known."""
        if self.last is None:
            return None
        shares = []
        for key, value in (("samples", self.last.samples), ("seconds", self.last.seconds)):
            planned = number(self.settings.get(f"schedule.{key}"))
            if planned > 0:
                shares.append(min(1.0, number(value) / planned))
        return max(shares, default=None)

    @property
    def over(self) -> bool:
        """Whether the run has reached the end of its schedule: an interrupted one leaves a summary too."""
        return bool(self.summary) and (self.share or 0) >= 0.9999

    def rainy_psnr_y(self) -> float:
        """Mean PSNR-Y of the rainy validation images, dB; NaN where it is not known."""
        if self.evaluations:
            return number(self.evaluations[-1].psnr_y) - number(self.evaluations[-1].gain_db)
        return number(self.summary.get("input_psnr_y"))


def read_run(folder: Path) -> RunFolder:
    """A run's folder; what it lacks, and a line that is being written, is left out.

    Raises:
        TrainerError: it is no run's folder.
    """
    config, metrics = folder / "config.yaml", folder / "metrics.jsonl"
    try:
        here = config.is_file() or metrics.is_file()
    except (OSError, ValueError):
        here = False
    if not here:
        raise TrainerError(f"there is no run in {folder}: give a run's folder, runs/demo for example.")
    tree, problem = _configuration(config)
    lines = list(_lines(metrics))
    settings = flat(tree)
    name = settings.get("name")
    return RunFolder(
        folder=folder,
        name=name if isinstance(name, str) and name else folder.resolve().name,
        settings=settings,
        problem=problem,
        lines=lines,
        steps=_once(line for line in lines if isinstance(line, StepLine)),
        evaluations=_once(line for line in lines if isinstance(line, EvaluationLine)),
        notices=[line for line in lines if isinstance(line, NoticeLine)],
        summary=_json(folder / "summary.json"),
        environment=_json(folder / "environment.json"),
    )


def number(value: object) -> float:
    """A figure, or NaN where it is none that can be drawn."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST:
        return float(value)
    return math.nan


def flat(tree: Mapping[Any, Any], before: str = "") -> dict[str, Any]:
    """A tree of settings by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def _configuration(path: Path) -> tuple[dict[str, Any], str | None]:
    try:
        with path.open() as file:
            tree = read_yaml(file.read(YAML_CHARACTERS + 1))
    except FileNotFoundError:
        return {}, "the folder has no config.yaml"
    except (OSError, ValueError, yaml.YAMLError) as error:
        return {}, f"config.yaml cannot be read ({first_line(error)})"
    if not isinstance(tree, dict):
        return {}, "config.yaml is not a tree of settings"
    return tree, None


def _lines(path: Path) -> Iterator[Line]:
    try:
        with path.open("rb") as file:
            while text := file.readline(_LONGEST_LINE):
                if (line := parse(text)) is not None:
                    yield line
    except OSError:
        return


def _once(lines: Iterable[_Measured]) -> list[_Measured]:
    kept: list[_Measured] = []
    for line in lines:
        while kept and kept[-1].step >= line.step:
            kept.pop()
        kept.append(line)
    return kept


def _json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_LONGEST_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

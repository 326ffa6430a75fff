"""What recycling costs a training step.

    python benchmarks/recycling_cost.py [--quick] [--json FILE] [--page FILE]

The recipe `rain100l-gan` on demonstration data, by the trainer's own loop. All variants take turns:
candidates every so many steps; within the step (`synchronous`), beside it with the scorer in this process
(`launch: inline`), or beside it with the scorer on Ray Serve (`launch: ray`). A turn ends when all its
candidates are decided. Ratios are of turns in one round, and medians over rounds. What deraining and
scoring a candidate take by themselves, with all cores, is measured in each round too: what a step loses
beyond that is the price of doing it beside.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pages import commit, fill, parser, report, serving, table

# As the command line has it, before torch comes.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch

from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate
from iqa_service.serving.ray_app import deploy_scorer
from iqa_service.serving.settings import ServiceSettings
from trainer.config import Config, load_config
from trainer.data.demo import DemoData, write_demo_data
from trainer.launch.assembly import assemble
from trainer.restore.inference import derain_image
from trainer.state.checkpoints import Checkpoints
from trainer.train import train

CADENCES = (1, 2, 4, 8, 16)
DEFAULT = 4
"""`recycling.every`, unless a recipe says otherwise."""
NEVER = 10**9
SCORER = "daclip-lite?consistency=1"
WAYS = {
    "within": "within the step (`synchronous: true`)",
    "beside": "beside it, scorer in the same process (`launch: inline`)",
    "served": "beside it, scorer on Ray Serve (`launch: ray`)",
}
COSTS = {
    "adds to a step": ("added_share", ".1%"),
    "of that arithmetic": ("arithmetic_share", ".1%"),
    "beyond it": ("beyond_share", "+.1%"),
    "processor time": ("cpu_added_share", "+.1%"),
    "candidates/s": ("candidates_per_s", ".2f"),
}


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int = 2
    turn: int = 16
    """Steps; every cadence divides it."""
    cadences: tuple[int, ...] = CADENCES
    served: tuple[int, ...] = (1, 4)


QUICK = Effort(1, 4, (1, 4), (4,))


@dataclass(frozen=True)
class Turn:
    """What a turn took."""

    seconds: float
    cpu_seconds: float
    """Processor time of this process, over all cores."""
    candidates: int
    lost: int


class Subject:
    """One trainer, that takes turns at several cadences."""

    def __init__(self, config: Config, steps: int, stack: ExitStack) -> None:
        self._config, self._steps = config, steps
        self.job = assemble(config, Checkpoints(config.folder / "checkpoints", 1), [], stack)
        self._turns = 0
        for _ in range(0, len(self.job.rainy), steps):
            self.turn(1)  # every image has an entry and its source then, as it has for most of a run

    def turn(self, every: int | None) -> Turn:
        """Train for a while with a candidate every so many steps, in the middle between them."""
        job, progress, counts = self.job, self.job.state.progress, self.job.recycler.counts
        self._turns += 1
        start = self._turns * self._steps - max(1, (every or 1) // 2)
        progress.steps = start
        job.config = self._config.model_copy(
            update={
                "recycling": self._config.recycling.model_copy(update={"every": every or 1}),
                "schedule": self._config.schedule.model_copy(
                    update={"recycle_from": NEVER if every is None else 0}
                ),
            }
        )
        scored, lost = counts.scored, counts.dropped + counts.lost
        times: list[float] = []
        cpu_times: list[float] = []

        def over() -> bool:
            ends = progress.steps - start >= self._steps
            if ends:
                job.recycler.flush(600)
            times.append(time.perf_counter())
            cpu_times.append(time.process_time())
            return ends

        job.stopping = over
        train(job)
        return Turn(
            times[-1] - times[0],
            cpu_times[-1] - cpu_times[0],
            counts.scored - scored,
            counts.dropped + counts.lost - lost,
        )


def configure(data: DemoData, runs: Path, name: str, **recycling: Any) -> Config:
    """The recipe `rain100l-gan`, without end, reports, or stage 2."""
    settings = [
        f"name={name}",
        f"runs={runs}",
        "launch=inline",
        f"data.rainy={data.rainy}",
        f"data.clean={data.clean}",
        "schedule.stage2_from=never",
        "schedule.seconds=null",
        f"schedule.samples={NEVER}",
        "schedule.recycle_from=0",
        "report.plan=false",
        *(f"report.{what}_every={NEVER}" for what in ("evaluate", "sheet", "checkpoint")),
        *(f"recycling.{key}={value}" for key, value in recycling.items()),
    ]
    return load_config("rain100l-gan", settings)


def cadences(subjects: dict[str, Subject], effort: Effort) -> dict[str, float]:
    """What a step takes, by the way of recycling and its cadence; and where its time goes."""
    here = subjects["beside"]
    rainy, scorer = here.job.rainy, open_scorer(f"local:{SCORER}")
    pairs = [
        (image, derain_image(here.job.method.derainer, image)) for image in map(rainy.load, range(len(rainy)))
    ]

    def alone() -> dict[str, float]:
        """Seconds by themselves, mean over the images."""
        started = time.perf_counter()
        for image, _ in pairs:
            derain_image(here.job.method.derainer, image)
        derained = time.perf_counter()
        for image, made in pairs:
            scorer.score([Candidate("alone", made, image)])
        return {
            "derain": (derained - started) / len(pairs),
            "score": (time.perf_counter() - derained) / len(pairs),
        }

    variants: list[tuple[str, int]] = [
        *((way, every) for every in effort.cadences for way in ("within", "beside")),
        *(("served", every) for every in effort.served),
        *((way, DEFAULT) for way in ("beside", "served")),  # once more: what the target is about
    ]
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(effort.rounds):
        print(f"turns, round {number + 1} of {effort.rounds}")
        middle = len(variants) // 2
        offs, turns = [here.turn(None)], []
        for place, (way, every) in enumerate(variants):
            if place == middle:
                offs.append(here.turn(None))
                work_alone = alone()
            turns.append((f"{way}_every{every}", subjects[way].turn(every)))
        offs.append(here.turn(None))
        off = statistics.fmean(turn.seconds for turn in offs)
        found["off_step_ms"].append(1000 * off / effort.turn)
        found["off_spread_share"].append((max(t.seconds for t in offs) - min(t.seconds for t in offs)) / off)
        for name, seconds in work_alone.items():
            found[f"alone_{name}_ms"].append(1000 * seconds)
        cpu = statistics.fmean(turn.cpu_seconds for turn in offs)
        for key, turn in turns:
            arithmetic = turn.candidates * sum(work_alone.values()) / off
            found[f"{key}_step_ms"].append(1000 * turn.seconds / effort.turn)
            found[f"{key}_added_share"].append(turn.seconds / off - 1)
            found[f"{key}_arithmetic_share"].append(arithmetic)
            found[f"{key}_beyond_share"].append(turn.seconds / off - 1 - arithmetic)
            found[f"{key}_cpu_added_share"].append(turn.cpu_seconds / cpu - 1)
            found[f"{key}_candidates_per_s"].append(turn.candidates / turn.seconds)
            found[f"{key}_lost"].append(turn.lost)
    figures = {key: statistics.median(values) for key, values in found.items()}
    stats = here.job.pool.stats()
    assert stats is not None
    return figures | {"turns_acceptance_share": float(stats.acceptance or 0.0)}


def measure(effort: Effort) -> dict[str, float]:
    """Every figure."""
    figures: dict[str, float] = {"cores": os.cpu_count() or 1, "threads": torch.get_num_threads()}
    with TemporaryDirectory(prefix="recycling-cost-") as scratch, serving():
        service = deploy_scorer(ServiceSettings(scorer=f"local:{SCORER}", cpus=0, http=False))
        folder = Path(scratch)
        data = write_demo_data(folder / "data")
        with ExitStack() as trained:
            ways = {"within": (SCORER, True), "beside": (SCORER, False), "served": (service, False)}
            subjects = {
                way: Subject(
                    configure(data, folder, way, scorer=scorer, synchronous=synchronous), effort.turn, trained
                )
                for way, (scorer, synchronous) in ways.items()
            }
            figures |= cadences(subjects, effort)
    return figures


def write_page(page: Path, figures: Mapping[str, float], cases: Sequence[tuple[str, int]]) -> None:
    """The figures as tables, for the ways and cadences that were measured."""
    costs = [
        [
            WAYS[way],
            every,
            *(f"{figures[f'{way}_every{every}_{key}']:{form}}" for key, form in COSTS.values()),
        ]
        for way, every in cases
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    command = f"python benchmarks/recycling_cost.py {' '.join(sys.argv[1:])}"
    fill(
        "recycling_cost.md",
        page,
        heading=f"`{command}` at commit {commit()}, {machine}",
        costs=table(["way", "every", *COSTS], costs),
        arithmetic_ms=figures["alone_derain_ms"] + figures["alone_score_ms"],
        lost=sum(figures[f"{way}_every{every}_lost"] for way, every in cases),
        **figures,
    )


def main() -> None:
    """Measure, print, write the figures and the page."""
    options = parser(__doc__)
    options.add_argument("--page", type=Path, help="where the page goes")
    chosen = options.parse_args()
    effort = QUICK if chosen.quick else Effort()
    figures = measure(effort)
    report(figures, chosen.json)
    if chosen.page:
        cases = [(way, every) for way in ("within", "beside") for every in effort.cadences]
        write_page(chosen.page, figures, cases + [("served", every) for every in effort.served])


if __name__ == "__main__":
    main()

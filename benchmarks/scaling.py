"""What recycling costs a training step, how many candidates are decided a second, what a second worker adds.

    python benchmarks/scaling.py [--quick] [--json FILE] [--page FILE]

The recipe `rain100l-gan` on demonstration data, by the trainer's own loop. All variants take turns:
candidates every so many steps; within the step (`synchronous`), beside it with the scorer in this process
(`launch: inline`), or beside it with the scorer on Ray Serve (`launch: ray`). A turn ends when all its
candidates are decided. Ratios are of turns in one round, and medians over rounds. What deraining and
scoring a candidate take by themselves, with all cores, is measured in each round too: what a step loses
beyond that is the price of doing it beside.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pages import commit, serving

# As the command line has it, before torch comes.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import ray
import torch
from rich.console import Console
from scaling_page import write_page

from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate
from iqa_service.serving.ray_app import deploy_scorer
from iqa_service.serving.settings import ServiceSettings
from pool_store.client import open_pool
from pool_store.schemas import Lineage
from trainer.config import Config, load_config
from trainer.data.demo import DemoData, write_demo_data
from trainer.data.folders import ImageFolder
from trainer.launch.assembly import assemble
from trainer.launch.start import run
from trainer.launch.worker import work
from trainer.recycling.recycler import Recycler
from trainer.reporting.lines import StepLine, parse
from trainer.restore.inference import derain_image
from trainer.state.checkpoints import Checkpoints
from trainer.train import train

CADENCES = (1, 2, 4, 8, 16)
DEFAULT = 4
"""`recycling.every`, unless a recipe says otherwise."""
NEVER = 10**9
SCORER = "daclip-lite?consistency=1"


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int = 2
    turn: int = 16
    """Steps; every cadence divides it."""
    cadences: tuple[int, ...] = CADENCES
    served: tuple[int, ...] = (1, 4)
    candidates: int = 64
    worker_steps: int = 16


QUICK = Effort(1, 4, (1, 4), (4,), 16, 8)


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


def cadences(subjects: dict[str, Subject], effort: Effort, say: Callable[[str], object]) -> dict[str, float]:
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
        say(f"turns, round {number + 1} of {effort.rounds}")
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


def end_to_end(scorers: dict[str, str], data: DemoData, folder: Path, count: int) -> dict[str, float]:
    """Candidates a second from submission to decision, with nothing else to do: all enter, then none does."""
    folder_images = ImageFolder(data.rainy)
    rainy = [folder_images.load(number) for number in range(len(folder_images))]
    figures: dict[str, float] = {}
    lineage = Lineage(run="benchmark", step=1, stage=1, worker=0, time=time.time())
    for way, spec in scorers.items():
        scorer = open_scorer(spec)
        pool = open_pool(f"embedded:{folder}-{way}", fingerprint=scorer.fingerprint)
        recycler = Recycler(scorer, pool, queue=count)
        originals = [np.roll(rainy[number % len(rainy)], number, axis=1) for number in range(count)]
        recycler.submit(Candidate("warm", rainy[0], rainy[0]), lineage)
        recycler.flush()
        for outcome, darker, enter in (("all_enter", 40, count), ("none_enters", 0, 0)):
            candidates = [
                Candidate(str(number), np.maximum(image, darker) - np.uint8(darker), image)
                for number, image in enumerate(originals)
            ]
            before = recycler.counts.replaced
            started = time.perf_counter()
            for candidate in candidates:
                recycler.submit(candidate, lineage)
            recycler.flush(600)
            figures[f"{way}_{outcome}_candidates_per_s"] = count / (time.perf_counter() - started)
            assert recycler.counts.replaced - before == enter, recycler.problem or recycler.counts
        recycler.close()
        pool.close()
        scorer.close()
    return figures


@ray.remote(num_cpus=1)
def by_itself(tree: dict[str, Any]) -> None:
    """A run that shares nothing with others but the machine and the scorer."""
    torch.set_num_threads(1)
    work(Config.model_validate(tree), None, [], lambda: False)


def workers(config: Config, scorer: str, steps: int) -> dict[str, float]:
    """Rainy crops a second of one worker, of two, and of two independent runs."""

    def run_of(name: str, count: int, launch: str = "ray") -> Config:
        tree = config.model_dump(mode="json")
        tree |= {"name": name, "launch": launch, "ray": {"workers": count, "cpus": 1}}
        tree["schedule"]["samples"] = steps * count * config.data.batch
        tree["recycling"]["scorer"] = scorer
        tree["report"]["log_every"] = 4
        return Config.model_validate(tree)

    def rate(ran: Config) -> float:
        lines = map(parse, (ran.folder / "metrics.jsonl").read_text().splitlines())
        rates = [line.images_per_second for line in lines if isinstance(line, StepLine)]
        return statistics.median(rates[1:])  # the first warms up

    figures = {}
    for count in (1, 2):
        run(run_of(f"workers-{count}", count), console=Console(quiet=True))
        figures[f"workers{count}_samples_per_s"] = rate(run_of(f"workers-{count}", count))
    alone = [run_of(f"alone-{number}", 1, "inline") for number in range(2)]
    ray.get([by_itself.remote(each.model_dump(mode="json")) for each in alone])
    figures["separate2_samples_per_s"] = sum(map(rate, alone))
    one, two, apart = figures.values()
    return figures | {
        "workers2_over_1_ratio": two / one,
        "separate2_over_1_ratio": apart / one,
        "workers2_over_separate2_ratio": two / apart,
    }


def measure(effort: Effort, say: Callable[[str], object]) -> dict[str, float]:
    """Every figure."""
    figures: dict[str, float] = {"cores": os.cpu_count() or 1, "threads": torch.get_num_threads()}
    with TemporaryDirectory(prefix="scaling-") as scratch, serving():
        service = deploy_scorer(ServiceSettings(scorer=f"local:{SCORER}", cpus=0, http=False))
        folder = Path(scratch)
        data = write_demo_data(folder / "data")
        base = configure(data, folder, "base", scorer=SCORER)
        say("candidates, from submission to decision")
        scorers = {"here": f"local:{SCORER}", "served": service}
        figures |= end_to_end(scorers, data, folder / "decided", effort.candidates)
        with ExitStack() as trained:
            ways = {"within": (SCORER, True), "beside": (SCORER, False), "served": (service, False)}
            subjects = {
                way: Subject(
                    configure(data, folder, way, scorer=scorer, synchronous=synchronous), effort.turn, trained
                )
                for way, (scorer, synchronous) in ways.items()
            }
            figures |= cadences(subjects, effort, say)
        say("one worker and two")
        figures |= workers(base, service, effort.worker_steps)
    return figures


def main() -> None:
    """Measure, print, write the figures and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round, for a look")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--page", type=Path, help="where the page goes, with a plot beside it")
    chosen = parser.parse_args()
    effort = QUICK if chosen.quick else Effort()
    console = Console()
    figures = measure(effort, console.print)
    for key, value in figures.items():
        console.print(f"{key:45} {value:14,.4g}", highlight=False)
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")
    if chosen.page:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
        command = f"python benchmarks/scaling.py {' '.join(sys.argv[1:])}"
        heading = f"`{command}` at commit {commit()}, {machine}"
        cases = [(way, every) for way in ("within", "beside") for every in effort.cadences]
        cases += [("served", every) for every in effort.served]
        write_page(chosen.page, figures, cases, heading)


if __name__ == "__main__":
    main()

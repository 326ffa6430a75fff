"""Runs of the rows, by the ordinary trainer, on the processor's clock."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rgsud_core.console import make_console
from rgsud_core.images import Image
from rgsud_core.signals import until_interrupted
from trainer.ablation.rows import Row
from trainer.config import Config, load_config
from trainer.data.pairing import PairedFolder
from trainer.launch.worker import view_of, work
from trainer.recycling.rewards import combine
from trainer.restore.evaluation import evaluate_pairs, psnr_y
from trainer.restore.inference import derain_image
from trainer.run import Callback, Run
from trainer.state.checkpoints import Checkpoints
from trainer.state.schedule import share

SHARED = 0.4
"""Share of the run that rows have in common."""
CHOSEN_BY = 3
"""Every which of the training images an evaluation measures, to choose settings by."""
DONE = "done"
"""File in the folder of a run that is over."""


class Domain(NamedTuple):
    """Folders of images; the truth is that of the rainy ones."""

    rainy: Path
    truth: Path
    clean: Path
    validation_rainy: Path
    validation_clean: Path


def domain(name: str, data: Path, out: Path) -> Domain:
    """The folders of `rain100l` or `roadscene` below ``data``.

    RoadScene comes as pairs of one folder: its first 60 scenes are the rainy domain, the clean sides of the
    next 90 the clean one, the last 24 are to measure with; those between are left out, since neighbours look
    alike. Links to them are made below ``out``.
    """
    if name == "rain100l":
        train, val = data / "rain100l/train", data / "rain100l/val"
        clean = data / "rain800/train/clean"
        return Domain(train / "rainy", train / "truth", clean, val / "rainy", val / "clean")
    pairs = {side: sorted((data / f"roadscene_night/train/{side}").iterdir()) for side in ("rainy", "clean")}
    chosen = (
        ("rainy", 0, 60),
        ("clean", 0, 60),
        ("clean", 64, 154),
        ("rainy", -24, None),
        ("clean", -24, None),
    )
    folders = Domain(*(out / "data" / part for part in Domain._fields))
    for folder, (side, first, last) in zip(folders, chosen, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        for file in pairs[side][first:last]:
            if not (link := folder / file.name).exists():
                link.symlink_to(file.resolve())
    return folders


def clock() -> float:
    """Processor time of all threads, as if spread over two cores, in seconds."""
    return time.process_time() / 2


class Measuring(Callback):
    """Writes what raw and averaged weights and the pool are worth into records.jsonl, and ends the run at a
    share of its schedule."""

    def __init__(self, training: PairedFolder, until: float) -> None:
        self._training, self._until = training, until

    def _over(self, run: Run) -> bool:
        return share(run.config.schedule, run.progress) >= self._until

    def on_begin(self, run: Run) -> None:
        interrupted, run.clock = run.stopping, clock
        run.stopping = lambda: interrupted() or self._over(run)

    def on_evaluate(self, run: Run) -> None:
        assert run.validation is not None
        assert run.measured is not None
        training, progress = self._training, run.progress
        derained = (derain_image(run.method.derainer, image) for image in run.validation.degraded.images())
        line: dict[str, Any] = {
            "seconds": progress.seconds,
            "steps": progress.steps,
            "stage": progress.stage,
            "raw": evaluate_pairs(derained, run.validation).output.model_dump(),
            "input": run.measured.input.model_dump(),
            "ema": run.measured.output.model_dump(),
            "training_psnr_y": statistics.fmean(
                psnr_y(derain_image(run.method.averaged, rainy), truth)
                for rainy, truth in map(training.load, range(0, len(training), CHOSEN_BY))
            ),
        }
        if pool := run.state.pool:
            served = [
                psnr_y(
                    self._served(run.config, entry.id, images),
                    training.clean.load_id(training.partners[entry.id]),
                )
                for entry in pool.scan()
                if (images := [pool.image(candidate.digest) for candidate in entry.candidates])
            ]
            line |= {"pool_psnr_y": statistics.fmean(served)} if served else {}
        with (run.config.folder / "records.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _served(self, config: Config, identity: str, images: list[Image]) -> Image:
        """What stage 2 trains against."""
        reward = combine(images, config.recycling.reward)
        if config.method.rain_brightens:
            reward = np.minimum(reward, self._training.degraded.load_id(identity))
        served: Image = np.rint(reward).astype(np.uint8)
        return served

    def on_end(self, run: Run) -> None:
        if self._over(run):
            (run.config.folder / DONE).touch()


def run_row(name: str, rows: Mapping[str, Row], folders: Domain, runs: Path, common: Sequence[str]) -> None:
    """Train a row, after the part that it shares with others; what is done already is not done again.

    Args:
        name: name of the row, and of its run's folder below ``runs``.
        common: settings of all rows, key=value each; those of a row come after them.

    Raises:
        KeyboardInterrupt: the user ended it; what is there has been saved.
    """
    row, start = rows[name], None
    if row.begins is not None:
        first = next(one for one in rows.values() if one.begins == row.begins)
        start = _train(_configure(row.begins, first, folders, runs, common), folders, SHARED, None)
    _train(_configure(name, row, folders, runs, common), folders, 1, start)


def _configure(name: str, row: Row, folders: Domain, runs: Path, common: Sequence[str]) -> Config:
    # A resumed run goes on counting above what its pool holds: one candidate every few steps at most.
    files = Checkpoints(runs / name / "checkpoints", 1).files()
    steps = int(files[-1].stem.removeprefix("step-")) if files else 0
    filled = [
        one.replace("{truth}", str(folders.truth)).replace("{steps}", str(steps)) for one in row.settings
    ]
    places = [f"data.{key}={folder}" for key, folder in folders._asdict().items() if key != "truth"]
    return load_config(row.recipe, [*places, f"runs={runs}", f"name={name}", *common, *filled])


def _train(config: Config, folders: Domain, until: float, start: Path | None) -> Path:
    """Train until a share of the run, from its own newest checkpoint or else ``start``; its last one."""
    checkpoints = Checkpoints(config.folder / "checkpoints", config.report.keep_checkpoints)
    if not (config.folder / DONE).exists():
        start = checkpoints.newest() if checkpoints.files() else start
        measuring = Measuring(PairedFolder(folders.rainy, folders.truth), until)
        with until_interrupted() as asked:
            work(config, start, [view_of(config, make_console(stderr=True))], asked.is_set, [measuring])
        if asked.is_set():
            raise KeyboardInterrupt(f"the run in {config.folder} has been saved")
    return checkpoints.newest()

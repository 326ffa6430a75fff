"""What a run tells while it trains: metrics, notices, sample sheets, evaluations, the model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from pool_store.client import Pool
from rgsud_core.files import unwritable, writing
from trainer.config import Config
from trainer.data.folders import ImageFolder, PairedFolder
from trainer.methods.parallel import sum_over_workers, workers
from trainer.models.registry import serialise_derainer
from trainer.recycling.pool_link import Aside
from trainer.recycling.recycler import Recycled, Recycler
from trainer.reporting.sinks import View
from trainer.restore.evaluation import Evaluation, Panel, contact_sheet, evaluate_pairs
from trainer.restore.inference import derain_image
from trainer.state.schedule import Progress


class MayAil(Protocol):
    """Something that training can do without for a while."""

    problem: str | None
    """What is the matter with it at the moment."""


class SilentReporter:
    """For workers beside worker 0, which tells for all."""

    last: Evaluation | None = None

    def __init__(self, config: Config, recycler: Recycler) -> None:
        self._every = config.report.log_every
        self._recycler = recycler

    def begin(self) -> None:
        """Nothing."""

    def step(self, progress: Progress, losses: dict[str, Tensor], waited: float) -> None:
        """Adds to what worker 0 tells of the recycling."""
        if progress.steps % self._every == 0:
            summed(self._recycler.counts)

    def notice(self, text: str, progress: Progress) -> None:
        """Nothing."""

    def evaluate(self, net: nn.Module, progress: Progress) -> None:
        """Nothing."""

    def sheet(self, net: nn.Module, progress: Progress) -> None:
        """Nothing."""

    def model(self, net: nn.Module) -> None:
        """Nothing."""


class Reporter:
    """Writes into the run's folder, and shows what it writes.

    Args:
        config: the run.
        rainy: training images, for the sample sheets.
        validation: pairs, where there are some.
        pool, recycler: what the figures on rewards come from.
        troubles: what is told once when it has a problem, and once when it has none any more, by the words
            for it.
        views: where each line of ``metrics.jsonl`` is shown too; closed with the reporter.
    """

    def __init__(
        self,
        config: Config,
        rainy: ImageFolder,
        validation: PairedFolder | None,
        pool: Aside,
        recycler: Recycler,
        troubles: Mapping[str, MayAil],
        views: Sequence[View],
    ) -> None:
        self.last: Evaluation | None = None
        """The newest evaluation."""
        self._config = config
        self._rainy = rainy
        self._validation = validation
        self._pool, self._recycler = pool, recycler
        self._troubles = troubles
        self._views = views
        self._folder: Path = config.folder
        self._board = SummaryWriter(str(self._folder / "tensorboard"))
        self._metrics = (self._folder / "metrics.jsonl").open("a")
        self._since = time.perf_counter()
        self._waited = 0.0
        self._complaints: set[str] = set()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        for view in self._views:
            view.close()
        self._metrics.close()
        self._board.close()

    def begin(self) -> None:
        """Training begins: what came before is no part of the rate."""
        self._restart()

    def step(self, progress: Progress, losses: dict[str, Tensor], waited: float) -> None:
        """After every step; ``waited`` is the time in seconds that it waited for its batch."""
        self._waited += waited
        every = self._config.report.log_every
        if progress.steps % every:
            return
        elapsed = time.perf_counter() - self._since
        pool, counts = self._pool.stats(), summed(self._recycler.counts)
        figures: dict[str, float | None] = {f"loss/{name}": float(value) for name, value in losses.items()}
        figures |= {
            "rate/images_per_second": every * self._config.data.batch * workers() / elapsed,
            "rate/step_ms": 1000 * elapsed / every,
            "rate/data_ms": 1000 * self._waited / every,
            "pool/entries": None if pool is None else pool.entries,
            "pool/mean_log_odds": None if pool is None else pool.mean_log_odds,
            "pool/acceptance": None if pool is None else pool.acceptance,
            "recycled/scored": counts.scored,
            "recycled/dropped": counts.dropped,
            "recycled/lost": counts.lost,
        }
        self._write("step", progress, figures)
        for what, ailing in self._troubles.items():
            self._complain(what, ailing.problem, progress)
        self._restart()

    def notice(self, text: str, progress: Progress) -> None:
        """Something that a person should know."""
        self._line("notice", progress, {"text": text})

    def evaluate(self, net: nn.Module, progress: Progress) -> None:
        """Measure on the validation pairs, where there are some."""
        if self._validation is not None:
            self.last = evaluate_pairs(lambda image: self._derain(net, image), self._validation)
            figures: dict[str, float | None] = {**self.last.output.model_dump(), "gain_db": self.last.gain_db}
            self._write("evaluation", progress, {f"validation/{name}": v for name, v in figures.items()})
        self._restart()

    def sheet(self, net: nn.Module, progress: Progress) -> None:
        """Four training images: rainy, derained now, and their rewards."""
        rows = []
        ids = self._rainy.ids[:4]
        for id in ids:
            rainy = self._rainy.load_id(id)
            row = [Panel(rainy, f"rainy {id}"), Panel(self._derain(net, rainy), "derained")]
            reward = self._pool.ask(lambda pool, id=id: _reward(pool, id), None)  # type: ignore[misc]
            if reward is not None:
                row.append(reward)
            rows.append(row)
        contact_sheet(rows, self._folder / "samples" / f"step-{progress.steps:09d}.png")
        self._restart()

    def model(self, net: nn.Module) -> None:
        """Write the derainer as it stands."""
        with writing(self._folder / "model" / "derainer.safetensors") as partial:
            partial.write_bytes(serialise_derainer(net, self._config.derainer))

    def _derain(self, net: nn.Module, image: Any) -> Any:
        return derain_image(net, image, tile=self._config.recycling.tile)

    def _complain(self, what: str, problem: str | None, progress: Progress) -> None:
        """Once when it begins, and once when it is over."""
        if problem is not None and what not in self._complaints:
            self._complaints.add(what)
            self.notice(f"{what}, training goes on: {problem}", progress)
        elif problem is None and what in self._complaints:
            self._complaints.remove(what)
            self.notice(f"{what}: no longer.", progress)

    def _line(self, kind: str, progress: Progress, rest: Mapping[str, float | str | None]) -> None:
        line = {
            "time": round(time.time(), 3),
            "run": self._config.name,
            "kind": kind,
            "step": progress.steps,
            "samples": progress.samples,
            "stage": progress.stage,
            "seconds": round(progress.seconds, 3),
            **rest,
        }
        try:
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()
        except OSError as problem:
            raise unwritable(Path(self._metrics.name), problem) from None
        for view in self._views:
            view.show(line)

    def _write(self, kind: str, progress: Progress, figures: Mapping[str, float | None]) -> None:
        self._line(kind, progress, figures)
        for name, value in figures.items():
            if value is not None:
                self._board.add_scalar(name, value, progress.samples)

    def _restart(self) -> None:
        """Evaluations and sheets are no part of the rate."""
        self._since = time.perf_counter()
        self._waited = 0.0


def summed(counts: Recycled) -> Recycled:
    """What became of the candidates of all workers, who must all ask."""
    names = [field.name for field in fields(counts)]
    return Recycled(*sum_over_workers(*(getattr(counts, name) for name in names)))


def _reward(pool: Pool, id: str) -> Panel | None:
    entry = pool.entries([id]).get(id)
    if entry is None:
        return None
    best = entry.best
    caption = f"reward of step {best.lineage.step}, log-odds {best.log_odds:.2f}"
    return Panel(pool.image(best.digest), caption)

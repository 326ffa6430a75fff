"""What a run tells while it trains: a progress bar, metrics, sample sheets, evaluations, the model."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from pool_store.client import Pool
from trainer.config import Config
from trainer.data.folders import ImageFolder, PairedFolder
from trainer.evaluation import Evaluation, Panel, contact_sheet, evaluate_pairs
from trainer.inference import derain_image
from trainer.models.derainers import serialise_derainer
from trainer.parallel import workers
from trainer.recycling import Recycler
from trainer.state import Progress, writing


class SilentReporter:
    """For workers beside worker 0, which tells for all."""

    last: Evaluation | None = None

    def step(self, progress: Progress, losses: dict[str, Tensor], waited: float) -> None:
        """Nothing."""

    def evaluate(self, net: nn.Module, progress: Progress) -> None:
        """Nothing."""

    def sheet(self, net: nn.Module, progress: Progress) -> None:
        """Nothing."""

    def model(self, net: nn.Module) -> None:
        """Nothing."""


class Reporter:
    """Writes into the run folder and onto the console.

    Args:
        config: the run.
        rainy: training images, for the sample sheets.
        validation: pairs, where there are some.
        pool, recycler: what the figures on rewards come from.
        console: where the bar and the tables go.
    """

    def __init__(
        self,
        config: Config,
        rainy: ImageFolder,
        validation: PairedFolder | None,
        pool: Pool,
        recycler: Recycler,
        console: Console,
    ) -> None:
        self.last: Evaluation | None = None
        """The newest evaluation."""
        self._config = config
        self._rainy = rainy
        self._validation = validation
        self._pool = pool
        self._recycler = recycler
        self._console = console
        self._folder: Path = config.folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._board = SummaryWriter(str(self._folder / "tensorboard"))
        self._metrics = (self._folder / "metrics.jsonl").open("a")
        self._bar = Bar(
            TextColumn("stage {task.fields[stage]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("training", total=config.schedule.samples, stage=1, said="")
        self._since = time.perf_counter()
        self._waited = 0.0
        self._complained = False

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._metrics.close()
        self._board.close()

    def step(self, progress: Progress, losses: dict[str, Tensor], waited: float) -> None:
        """After every step; ``waited`` is the time in seconds that it waited for its batch."""
        self._waited += waited
        every = self._config.report.log_every
        if progress.steps % every:
            return
        elapsed = time.perf_counter() - self._since
        pool, counts = self._pool.stats(), self._recycler.counts
        figures: dict[str, float | None] = {f"loss/{name}": float(value) for name, value in losses.items()}
        figures |= {
            "rate/images_per_second": every * self._config.data.batch * workers() / elapsed,
            "rate/step_ms": 1000 * elapsed / every,
            "rate/data_ms": 1000 * self._waited / every,
            "pool/entries": pool.entries,
            "pool/mean_log_odds": pool.mean_log_odds,
            "pool/acceptance": pool.acceptance,
            "recycled/scored": counts.scored,
            "recycled/dropped": counts.dropped,
            "recycled/lost": counts.lost,
        }
        self._write("step", progress, figures)
        mean = "" if pool.mean_log_odds is None else f", score {pool.mean_log_odds:.2f}"
        terms = " ".join(f"{name} {float(value):.3g}" for name, value in losses.items())
        said = (
            f"{figures['rate/images_per_second']:.1f} images/s ({1000 * elapsed / every:.0f} ms a step, "
            f"data {1000 * self._waited / every:.0f})  {terms}  pool {pool.entries}{mean}"
        )
        self._bar.update(self._task, completed=progress.samples, stage=progress.stage, said=said)
        if self._recycler.problem and not self._complained:
            self._console.print(
                f"[yellow]Candidates are being lost, training goes on: {self._recycler.problem}"
            )
        self._complained = self._recycler.problem is not None
        self._restart()

    def evaluate(self, net: nn.Module, progress: Progress) -> None:
        """Measure on the validation pairs, where there are some."""
        if self._validation is not None:
            self.last = evaluate_pairs(lambda image: self._derain(net, image), self._validation)
            figures: dict[str, float | None] = {**self.last.output.model_dump(), "gain_db": self.last.gain_db}
            self._write("evaluation", progress, {f"validation/{name}": v for name, v in figures.items()})
            self._console.print(
                f"{progress.samples} samples, {progress.seconds:.0f} s, stage {progress.stage}: "
                f"PSNR-Y {self.last.output.psnr_y:.2f} dB ({self.last.gain_db:+.2f}), "
                f"SSIM-Y {self.last.output.ssim_y:.4f}"
            )
        self._restart()

    def sheet(self, net: nn.Module, progress: Progress) -> None:
        """Four training images: rainy, derained now, and their rewards."""
        rows = []
        ids = self._rainy.ids[:4]
        entries = self._pool.entries(ids)
        for id in ids:
            rainy = self._rainy.load_id(id)
            row = [Panel(rainy, f"rainy {id}"), Panel(self._derain(net, rainy), "derained")]
            if id in entries:
                best = entries[id].candidates[0]
                caption = f"reward of step {best.lineage.step}, log-odds {best.log_odds:.2f}"
                row.append(Panel(self._pool.image(best.digest), caption))
            rows.append(row)
        contact_sheet(rows, self._folder / "samples" / f"step-{progress.steps:09d}.png")
        self._restart()

    def model(self, net: nn.Module) -> None:
        """Write the derainer as it stands."""
        with writing(self._folder / "model" / "derainer.safetensors") as partial:
            partial.write_bytes(serialise_derainer(net, self._config.derainer))

    def _derain(self, net: nn.Module, image: Any) -> Any:
        return derain_image(net, image, tile=self._config.recycling.tile)

    def _write(self, kind: str, progress: Progress, figures: dict[str, float | None]) -> None:
        place = {"kind": kind, "step": progress.steps, "samples": progress.samples, "stage": progress.stage}
        line = {**place, "seconds": round(progress.seconds, 3), **figures}
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()
        for name, value in figures.items():
            if value is not None:
                self._board.add_scalar(name, value, progress.samples)

    def _restart(self) -> None:
        """Evaluations and sheets are no part of the rate."""
        self._since = time.perf_counter()
        self._waited = 0.0

"""Where the lines of a run go: its ``metrics.jsonl``, TensorBoard, a bar, a log, the metrics of a cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from rgsud_core.files import unwritable
from trainer.config import ScheduleSettings
from trainer.reporting.lines import EvaluationLine, Line, NoticeLine, StepLine, parse
from trainer.state.schedule import seconds_left

_PLAIN_SECONDS = 10.0
"""Seconds between two lines of progress where no bar can be drawn."""
_FOLLOW_SECONDS = 0.2


class View:
    """Shows or stores the lines of one run, in their order."""

    def show(self, line: Line) -> None:
        """Take one line."""

    def close(self) -> None:
        """Release files and screens: no line follows."""


class MetricsFile(View):
    """Appends every line to a file, ``metrics.jsonl``.

    Raises:
        FileError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a")
        except OSError as problem:
            raise unwritable(path, problem) from None

    def show(self, line: Line) -> None:
        try:
            self._file.write(line.json_text() + "\n")
            self._file.flush()
        except OSError as problem:
            raise unwritable(self._path, problem) from None

    def close(self) -> None:
        self._file.close()


class TensorBoardView(View):
    """Figures over samples, in a folder that TensorBoard reads."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # comes with the extra `train`

        self._board = SummaryWriter(str(folder))

    def show(self, line: Line) -> None:
        for name, value in line.figures().items():
            self._board.add_scalar(name, value, line.samples)

    def close(self) -> None:
        self._board.close()


class ConsoleView(View):
    """A progress bar with notices above it; in a log, a line of progress every ten seconds."""

    def __init__(self, console: Console, schedule: ScheduleSettings) -> None:
        self._console = console
        self._schedule = schedule
        self._shown = 0.0
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("stage {task.fields[stage]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}, {task.fields[left]} left"),
                console=console,
            )
            self._task = self._bar.add_task("training", total=schedule.samples, stage=1, figures="", left="")
            self._bar.start()

    def show(self, line: Line) -> None:
        if isinstance(line, NoticeLine):
            self._print(line.text)
        elif isinstance(line, EvaluationLine):
            self._print(
                f"{line.samples} samples, {line.seconds:.0f} s, stage {line.stage}: "
                f"PSNR-Y {line.psnr_y:.2f} dB ({line.gain_db:+.2f}), SSIM-Y {line.ssim_y:.4f}"
            )
        elif self._bar is not None:
            self._bar.update(
                self._task,
                completed=line.samples,
                stage=line.stage,
                figures=glance(line),
                left=self._left(line),
            )
        elif time.monotonic() - self._shown >= _PLAIN_SECONDS:
            self._shown = time.monotonic()
            self._print(
                f"stage {line.stage}, {line.samples} of {self._schedule.samples} samples: {glance(line)}, "
                f"{self._left(line)} left"
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def _left(self, line: StepLine) -> timedelta:
        return timedelta(seconds=round(seconds_left(self._schedule, line, line.images_per_second)))


class JsonView(View):
    """Every line as JSON, for whatever collects the logs of many programs."""

    def __init__(self, console: Console) -> None:
        self._file = console.file

    def show(self, line: Line) -> None:
        print(line.json_text(), file=self._file, flush=True)


class RayMetricsView(View):
    """The figures as gauges of a Ray worker, which its cluster exports to Prometheus: `rgsud_train_...`."""

    def __init__(self) -> None:
        self._gauges: dict[str, Any] = {}

    def show(self, line: Line) -> None:
        from ray.util.metrics import Gauge

        progress = {"samples": line.samples, "stage": line.stage, "step": line.step, "seconds": line.seconds}
        figures = progress | line.figures()
        for name, value in figures.items():
            if name not in self._gauges:
                title = "rgsud_train_" + name.replace("/", "_")
                self._gauges[name] = Gauge(title, f"{name} of metrics.jsonl", tag_keys=("run",))
            self._gauges[name].set(float(value), tags={"run": line.run})


def glance(line: StepLine) -> str:
    """A line of kind `step` in a few words."""
    terms = " ".join(f"{name} {value:.3g}" for name, value in line.losses().items())
    mean = "" if line.pool_mean_log_odds is None else f", score {line.pool_mean_log_odds:.2f}"
    return (
        f"{line.images_per_second:.1f} images/s ({line.step_ms:.0f} ms a step, data {line.data_ms:.0f})  "
        f"{terms}  pool {line.pool_entries or 0}{mean}"
    )


@contextmanager
def following(path: Path, views: Sequence[View]) -> Iterator[None]:
    """Show what is appended to a file of lines, by whatever process, until the end of the block."""
    ended = threading.Event()
    start = path.stat().st_size if path.exists() else 0

    def follow() -> None:
        place, last = start, False
        while not last:
            last = ended.wait(_FOLLOW_SECONDS)
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(place)
                # What has no end yet is being written.
                for line in iter(file.readline, b""):
                    if not line.endswith(b"\n"):
                        break
                    place += len(line)
                    if (known := parse(line)) is not None:
                        for view in views:
                            view.show(known)

    thread = threading.Thread(target=follow, name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for view in views:
            view.close()

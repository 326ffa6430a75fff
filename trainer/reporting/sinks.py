"""Where the lines of a run's ``metrics.jsonl`` are shown: a bar, a log, the metrics of a cluster.

Every line has `time`, `run`, `kind`, `step`, `samples`, `stage`, `seconds`, and by its kind
  step        figures named `loss/...`, `rate/...`, `pool/...`, `recycled/...`
  evaluation  figures named `validation/...`
  notice      `text`: something that a person should know
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

Line = dict[str, Any]
_PLAIN_SECONDS = 10.0
"""Between two lines of progress where no bar can be drawn."""
_FOLLOW_SECONDS = 0.2


class View(Protocol):
    """Shows the lines of one run, in their order."""

    def show(self, line: Line) -> None:
        """Take one line."""
        ...

    def close(self) -> None:
        """There are no more."""
        ...


class ConsoleView:
    """A progress bar with notices above it; in a log, a line of progress every ten seconds.

    Args:
        console: where it is drawn.
        samples: of the whole run.
        seconds: after which it ends early.
    """

    def __init__(self, console: Console, samples: int, seconds: float | None = None) -> None:
        self._console = console
        self._samples, self._seconds = samples, seconds
        self._told = 0.0
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("stage {task.fields[stage]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[said]}, {task.fields[left]} left"),
                console=console,
            )
            self._task = self._bar.add_task("training", total=samples, stage=1, said="", left="")
            self._bar.start()

    def show(self, line: Line) -> None:
        """See :class:`View`."""
        if line["kind"] == "notice":
            self._console.print(line["text"], markup=False, highlight=False, soft_wrap=True)
        elif line["kind"] == "evaluation":
            self._console.print(
                f"{line['samples']} samples, {line['seconds']:.0f} s, stage {line['stage']}: "
                f"PSNR-Y {line['validation/psnr_y']:.2f} dB ({line['validation/gain_db']:+.2f}), "
                f"SSIM-Y {line['validation/ssim_y']:.4f}",
                highlight=False,
                soft_wrap=True,
            )
        elif self._bar is not None:
            self._bar.update(
                self._task,
                completed=line["samples"],
                stage=line["stage"],
                said=glance(line),
                left=self._left(line),
            )
        elif time.monotonic() - self._told >= _PLAIN_SECONDS:
            self._told = time.monotonic()
            self._console.print(
                f"stage {line['stage']}, {line['samples']} of {self._samples} samples: {glance(line)}, "
                f"{self._left(line)} left",
                highlight=False,
                soft_wrap=True,
            )

    def close(self) -> None:
        """See :class:`View`."""
        if self._bar is not None:
            self._bar.stop()

    def _left(self, line: Line) -> timedelta:
        left = max(0, self._samples - line["samples"]) / max(line["rate/images_per_second"], 1e-9)
        if self._seconds is not None:
            left = min(left, max(0.0, self._seconds - line["seconds"]))
        return timedelta(seconds=round(left))


class JsonView:
    """Every line as JSON, for whatever collects the logs of many programs."""

    def __init__(self, console: Console) -> None:
        self._file = console.file

    def show(self, line: Line) -> None:
        """See :class:`View`."""
        print(json.dumps(line), file=self._file, flush=True)

    def close(self) -> None:
        """See :class:`View`."""


class RayMetricsView:
    """The figures as gauges of a Ray worker, which its cluster exports to Prometheus: `rgsud_train_...`."""

    def __init__(self) -> None:
        self._gauges: dict[str, Any] = {}

    def show(self, line: Line) -> None:
        """See :class:`View`."""
        from ray.util.metrics import Gauge

        figures = {name: line[name] for name in ("samples", "stage", "step", "seconds")}
        figures |= {name: value for name, value in line.items() if "/" in name and value is not None}
        for name, value in figures.items():
            if name not in self._gauges:
                title = "rgsud_train_" + name.replace("/", "_")
                self._gauges[name] = Gauge(title, f"{name} of metrics.jsonl", tag_keys=("run",))
            self._gauges[name].set(float(value), tags={"run": line["run"]})

    def close(self) -> None:
        """See :class:`View`."""


def glance(line: Line) -> str:
    """A line of kind `step` in a few words."""
    mean = line["pool/mean_log_odds"]
    terms = " ".join(f"{name[5:]} {value:.3g}" for name, value in line.items() if name.startswith("loss/"))
    return (
        f"{line['rate/images_per_second']:.1f} images/s ({line['rate/step_ms']:.0f} ms a step, data "
        f"{line['rate/data_ms']:.0f})  {terms}  pool {line['pool/entries'] or 0}"
        + ("" if mean is None else f", score {mean:.2f}")
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
                    for view in views:
                        view.show(json.loads(line))

    thread = threading.Thread(target=follow, name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for view in views:
            view.close()

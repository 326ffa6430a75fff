"""Where the lines of a run are shown."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rgsud_core.errors import FileError
from tests.patience import wait_until
from trainer.config import ScheduleSettings
from trainer.reporting.lines import Line, parse
from trainer.reporting.sinks import ConsoleView, JsonView, MetricsFile, View, following


def _line(kind: str, **rest: Any) -> Line:
    head = {"time": 1.0, "run": "r", "kind": kind, "step": 2, "samples": 8, "stage": 1, "seconds": 3.0}
    line = parse(json.dumps({**head, **rest}))
    assert line is not None
    return line


STEP = _line(
    "step",
    **{
        "loss/adv": 0.5,
        "rate/images_per_second": 4.0,
        "rate/step_ms": 1000.0,
        "rate/data_ms": 7.0,
        "pool/entries": None,
        "pool/mean_log_odds": None,
    },
)
MEASURED = _line(
    "evaluation",
    **{f"validation/{name}": 1.0 for name in ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "gain_db")},
)


class Seen(View):
    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.closed = False

    def show(self, line: Line) -> None:
        self.lines.append(line)

    def close(self) -> None:
        self.closed = True


def test_a_log_gets_a_line_of_progress_and_every_notice() -> None:
    out = io.StringIO()
    view = ConsoleView(Console(file=out, width=60), ScheduleSettings(samples=16))
    view.show(STEP)
    view.show(STEP)  # not again within ten seconds
    view.show(_line("notice", text="Something [odd] happened."))
    view.show(MEASURED)
    view.close()
    first, second, third = out.getvalue().splitlines()
    assert first.startswith(
        "stage 1, 8 of 16 samples: 4.0 images/s (1000 ms a step, data 7)  adv 0.5  pool 0"
    )
    assert first.endswith("0:00:02 left")
    out.truncate(0)
    ConsoleView(Console(file=out, width=60), ScheduleSettings(samples=16, seconds=4.0)).show(STEP)
    assert out.getvalue().endswith("0:00:01 left\n")
    assert second == "Something [odd] happened."
    assert third == "8 samples, 3 s, stage 1: PSNR-Y 1.00 dB (+1.00), SSIM-Y 1.0000"


def test_json_lines_are_the_lines_themselves() -> None:
    out = io.StringIO()
    JsonView(Console(file=out)).show(STEP)
    assert json.loads(out.getvalue()) == STEP.record()


def test_what_another_process_appends_is_shown_once_and_whole(tmp_path: Path) -> None:
    path, seen = tmp_path / "metrics.jsonl", Seen()
    path.write_text(_line("notice", text="of an earlier run").json_text() + "\n")
    with following(path, [seen]), path.open("a") as file:
        whole = STEP.json_text() + "\n"
        file.write(whole + whole[:20])
        file.flush()
        wait_until(lambda: seen.lines, "nothing is shown")
        assert seen.lines == [STEP]
        file.write(whole[20:] + _line("notice", text="the last").json_text() + "\n")
    assert [line.kind for line in seen.lines] == ["step", "step", "notice"]
    assert seen.closed


def test_a_run_over_its_schedule_has_no_time_left() -> None:
    out = io.StringIO()
    ConsoleView(Console(file=out, force_terminal=False, width=200), ScheduleSettings(samples=4)).show(STEP)
    assert "0:00:00 left" in out.getvalue()


def test_a_metrics_file_is_appended_to_and_one_that_cannot_be_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    for line in (STEP, MEASURED):
        file = MetricsFile(path)
        file.show(line)
        file.close()
    assert [parse(text) for text in path.read_text().splitlines()] == [STEP, MEASURED]
    with pytest.raises(FileError, match="cannot be written"):
        MetricsFile(path / "below" / "a file")

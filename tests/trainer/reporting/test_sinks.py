"""Where the lines of a run are shown."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer.reporting.sinks import ConsoleView, JsonView, following


def _line(kind: str, **rest: Any) -> dict[str, Any]:
    return {
        "time": 1.0,
        "run": "r",
        "kind": kind,
        "step": 2,
        "samples": 8,
        "stage": 1,
        "seconds": 3.0,
        **rest,
    }


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


class Seen:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.closed = False

    def show(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def close(self) -> None:
        self.closed = True


def test_a_log_gets_a_line_of_progress_and_every_notice() -> None:
    out = io.StringIO()
    view = ConsoleView(Console(file=out, width=60), samples=16)
    view.show(STEP)
    view.show(STEP)  # not again within ten seconds
    view.show(_line("notice", text="Something [odd] happened."))
    view.show(_line("evaluation", **{f"validation/{k}": 1.0 for k in ("psnr_y", "gain_db", "ssim_y")}))
    view.close()
    first, second, third = out.getvalue().splitlines()
    assert first.startswith(
        "stage 1, 8 of 16 samples: 4.0 images/s (1000 ms a step, data 7)  adv 0.5  pool 0"
    )
    assert first.endswith("0:00:02 left")
    out.truncate(0)
    ConsoleView(Console(file=out, width=60), samples=16, seconds=4.0).show(STEP)
    assert out.getvalue().endswith("0:00:01 left\n")
    assert second == "Something [odd] happened."
    assert third == "8 samples, 3 s, stage 1: PSNR-Y 1.00 dB (+1.00), SSIM-Y 1.0000"


def test_json_lines_are_the_lines_themselves() -> None:
    out = io.StringIO()
    JsonView(Console(file=out)).show(STEP)
    assert json.loads(out.getvalue()) == STEP


def test_what_another_process_appends_is_shown_once_and_whole(tmp_path: Path) -> None:
    path, seen = tmp_path / "metrics.jsonl", Seen()
    path.write_text(json.dumps(_line("notice", text="of an earlier run")) + "\n")
    with following(path, [seen]), path.open("a") as file:
        whole = json.dumps(STEP) + "\n"
        file.write(whole + whole[:20])
        file.flush()
        deadline = time.monotonic() + 10
        while not seen.lines and time.monotonic() < deadline:
            time.sleep(0.01)
        assert seen.lines == [STEP]
        file.write(whole[20:] + json.dumps(_line("notice", text="the last")) + "\n")
    assert [line["kind"] for line in seen.lines] == ["step", "step", "notice"]
    assert seen.closed


def test_a_run_over_its_schedule_has_no_time_left() -> None:
    out = io.StringIO()
    ConsoleView(Console(file=out, force_terminal=False, width=200), 4, None).show(STEP)
    assert "0:00:00 left" in out.getvalue()

"""The lines of metrics.jsonl: read as they are written, whatever version wrote them."""

from __future__ import annotations

import json

import pytest

from trainer.reporting.lines import EvaluationLine, NoticeLine, StepLine, parse

HEAD = {"time": 1.5, "run": "r", "step": 2, "samples": 8, "stage": 1, "seconds": 3.0}
STEP = HEAD | {
    "kind": "step",
    "loss/adv": 0.5,
    "loss/D": 0.25,
    "rate/images_per_second": 4.0,
    "rate/step_ms": 1000.0,
    "rate/data_ms": 7.0,
    "rate/candidates_ms": 90.0,
    "pool/entries": 3,
    "pool/mean_log_odds": None,
    "pool/acceptance": 0.5,
    "pool/replacements": 4,
    "recycled/scored": 6,
    "recycled/dropped": 1,
    "recycled/lost": 2,
}


def test_a_line_is_written_as_it_was_read() -> None:
    for record in (STEP, HEAD | {"kind": "notice", "text": "Hear, [hear]."}, STEP | {"rate/of_later": 1.0}):
        line = parse(json.dumps(record))
        assert line is not None
        assert json.loads(line.json_text()) == record


def test_a_step_by_its_fields() -> None:
    step = parse(json.dumps(STEP))
    assert isinstance(step, StepLine)
    assert step.losses() == {"adv": 0.5, "D": 0.25}
    assert (step.images_per_second, step.step_ms, step.data_ms) == (4.0, 1000.0, 7.0)
    assert (step.pool_entries, step.pool_mean_log_odds, step.pool_acceptance) == (3, None, 0.5)
    assert (step.scored, step.dropped, step.lost) == (6, 1, 2)
    assert "pool/mean_log_odds" not in step.figures()
    assert step.figures()["pool/entries"] == 3
    made = StepLine(**HEAD, images_per_second=4.0, step_ms=1000.0, data_ms=7.0)  # type: ignore[arg-type]
    assert made.record()["rate/images_per_second"] == 4.0


def test_a_perfect_image_has_no_finite_psnr_and_is_read_back() -> None:
    figures = {f"validation/{name}": 1.0 for name in ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "gain_db")}
    line = parse(json.dumps(HEAD | {"kind": "evaluation"} | figures | {"validation/psnr_y": float("inf")}))
    assert isinstance(line, EvaluationLine)
    assert parse(line.json_text()) == line
    assert line.psnr_y == float("inf")


@pytest.mark.parametrize(
    "text", ["", "[]", "7", json.dumps(STEP)[:-20], json.dumps(HEAD | {"kind": "other"})]
)
def test_what_is_no_line_is_none(text: str) -> None:
    assert parse(text) is None


def test_a_notice() -> None:
    assert parse(json.dumps(HEAD | {"kind": "notice", "text": "hello"})) == NoticeLine(**HEAD, text="hello")  # type: ignore[arg-type]

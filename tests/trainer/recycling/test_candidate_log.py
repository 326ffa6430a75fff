"""A record holds every candidate of a run, bit by bit, and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from iqa_service.scorers.base import Candidate
from pool_store.client import open_pool
from pool_store.schemas import Lineage
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.launch.start import run
from trainer.recycling.candidate_log import CandidateLog, read_candidates


def _lineage(step: int) -> Lineage:
    return Lineage(run="r", step=step, stage=1, time=1.5)


def test_candidates_come_back_as_they_were(tmp_path: Path) -> None:
    images = [np.random.default_rng(n).integers(0, 256, (9, 7, 3), dtype=np.uint8) for n in range(3)]
    record = CandidateLog(tmp_path / "record")
    for step, (id, image) in enumerate(zip(("a", "b/c", "a"), images, strict=True)):
        record.add(Candidate(id, image), _lineage(step))
    record.add(Candidate("a", images[0] // 2), _lineage(0))
    back = list(read_candidates(tmp_path / "record"))
    assert [(item.id, item.lineage.step) for item in back] == [("a", 0), ("b/c", 1), ("a", 2)]
    for item, image in zip(back, (images[0] // 2, *images[1:]), strict=True):
        np.testing.assert_array_equal(item.image(), image)


def test_a_run_records_what_it_recycles(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "record"
    recycling = config.recycling.model_copy(update={"record": folder})
    run(config.model_copy(update={"recycling": recycling}))
    recorded = list(read_candidates(folder))
    # Candidates from 4 of 24 samples on, one a step of 2.
    assert [item.lineage.step for item in recorded] == list(range(2, 13))
    assert {item.lineage.stage for item in recorded} == {1, 2}
    assert len({item.id for item in recorded}) == 4
    pool = open_pool(f"embedded:{config.folder}/pool", fingerprint="random-0")
    try:
        best = {entry.id: entry.best.log_odds for entry in pool.scan()}
    finally:
        pool.close()
    scores = {id: [item.log_odds for item in recorded if item.id == id] for id in best}
    assert {id: np.float32(max(given)) for id, given in scores.items()} == best


def test_what_is_no_record_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"holds no record: give a folder that recycling\.record wrote"):
        next(read_candidates(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainerError, match=r"the record in .* cannot be written"):
        CandidateLog(tmp_path / "file").add(Candidate("a", np.zeros((4, 4, 3), np.uint8)), _lineage(1))


def test_a_line_that_was_cut_off_costs_itself_alone(tmp_path: Path) -> None:
    record = CandidateLog(tmp_path)
    image = np.zeros((4, 4, 3), np.uint8)
    record.add(Candidate("a", image), _lineage(1))
    record.add(Candidate("b", image), _lineage(2))
    table = tmp_path / "candidates.jsonl"
    table.write_bytes(table.read_bytes()[:-9])
    record.add(Candidate("c", image), _lineage(3))
    assert [item.id for item in read_candidates(tmp_path)] == ["a", "c"]


def test_a_score_is_that_of_its_candidate_and_may_be_missing(tmp_path: Path) -> None:
    record = CandidateLog(tmp_path)
    for id, step in (("a", 1), ("b/c", 2), ("a", 3)):
        record.add(Candidate(id, np.zeros((4, 4, 3), np.uint8)), _lineage(step))
    record.scored(Candidate("a", np.zeros((4, 4, 3), np.uint8)), _lineage(3), -1.5)
    record.scored(Candidate("b/c", np.zeros((4, 4, 3), np.uint8)), _lineage(2), 0.25)
    assert [item.log_odds for item in read_candidates(tmp_path)] == [None, 0.25, -1.5]


@pytest.mark.parametrize("file", ["/etc/passwd", "../secret.png", "a/../../secret.png", "\0"])
def test_nothing_outside_of_a_record_is_read(file: str, tmp_path: Path) -> None:
    record = CandidateLog(tmp_path / "record")
    record.add(Candidate("a", np.zeros((4, 4, 3), np.uint8)), _lineage(1))
    line = {"id": "b", "file": file, "lineage": _lineage(2).model_dump()}
    with (tmp_path / "record" / "candidates.jsonl").open("a") as table:
        table.write(json.dumps(line) + "\n")
    assert [item.id for item in read_candidates(tmp_path / "record")] == ["a"]

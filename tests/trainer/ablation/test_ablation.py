"""An ablation end to end, the table that comes with the package, and its records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trainer.ablation.__main__ import main
from trainer.ablation.page import curves, figures, summary, table
from trainer.ablation.rows import DEFAULT, read_rows
from trainer.ablation.runs import Domain, _configure, domain
from trainer.errors import TrainerError
from trainer.run import Run

RESULTS = Path(__file__).parents[3] / "benchmarks/results"
ROWS = """
sets:
  small:
    - schedule.samples=48
    - data.crop=32
    - device=cpu
    - "derainer={width: 4, encoder: [1], middle: 1, decoder: [1]}"
    - recycling.scorer=local:random
    - recycling.every=4
rows:
  learns:
    heading: "unpaired: both stages"
    begins: part
    settings: [small, "method={sources: [rendered], overlay: add, discriminator: null}"]
  bound:
    heading: "bound: true pairs"
    settings: [small, "method={name: supervised}", "data.clean={truth}"]
"""


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(photographs: Path) -> Path:
    """The small photographs as `rain100l`; the rainy images are their own truth."""
    folders = domain("rain100l", photographs / "data", photographs)
    sides = (photographs / name for name in ("rainy", "rainy", "clean", "val/rainy", "val/clean"))
    for folder, side in zip(folders, sides, strict=True):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(side)
    return photographs


def test_two_rows_from_the_table_to_the_page(
    data: Path, threads: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "rows.yaml").write_text(ROWS)
    out, figures_file = data / "out", data / "figures.json"
    command = [str(data / "data"), "--rows", str(data / "rows.yaml"), "--out", str(out)]
    command += ["--seconds", "1e6", "--evaluate-every", "4", "--json", str(figures_file)]
    main(command)
    page = capsys.readouterr().out
    found = json.loads(figures_file.read_text())
    # 48 crops are 12 steps of 4; the shared part ends at 40 %, after the step with which 20 are reached.
    assert found["learns_seed0_steps"] == found["bound_seed0_steps"] == 12
    steps = {
        part: [json.loads(line)["steps"] for line in (out / f"seed0/{part}/records.jsonl").open()]
        for part in ("part", "learns", "bound")
    }
    assert steps["part"] == [4, 5]
    assert sorted(set(steps["learns"])) == [8, 12]
    assert sorted(set(steps["bound"])) == [4, 8, 12]
    assert "| unpaired: both stages | 0 | 12 |" in page
    assert "| bound: true pairs | 1 |" in page
    assert (out / "curves.png").stat().st_size > 10_000

    # What is done is not done again, and the same page comes out of the records.
    monkeypatch.setattr("trainer.ablation.runs.work", lambda *_: pytest.fail("it is done"))
    main(command)
    assert capsys.readouterr().out == page


def test_what_was_cut_off_goes_on(data: Path, threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "rows.yaml").write_text(ROWS)
    out = data / "out"
    command = [str(data / "data"), "--rows", str(data / "rows.yaml"), "--out", str(out), "--runs", "bound"]
    command += ["--seconds", "1e6", "--evaluate-every", "4"]

    def cut_off(self: object, run: Run) -> None:
        if run.progress.steps == 8:
            raise TrainerError("cut off")

    with monkeypatch.context() as patched:
        patched.setattr("trainer.ablation.runs.Measuring.on_evaluate", cut_off)
        with pytest.raises(TrainerError, match="cut off"):
            main(command)
    main(command)
    lines = [json.loads(line) for line in (out / "seed0/bound/records.jsonl").open()]
    assert lines[0]["steps"] == 8  # from the checkpoint of step 4
    assert lines[-1]["steps"] == 12


def test_every_row_of_the_package_is_a_valid_configuration(tmp_path: Path) -> None:
    folders = Domain(*(tmp_path / name for name in Domain._fields))
    rows = read_rows()
    for name, row in rows.items():
        config = _configure(name, row, folders, tmp_path, [])
        assert config.folder == tmp_path / name
    few = _configure("few_stage1", rows["few_stage1"], folders, tmp_path, [])
    assert few.method.model_dump()["sources"][2][1]["images"] == 4


def test_the_published_page_comes_out_of_its_records() -> None:
    rows = read_rows()
    found = curves(RESULTS / "what_teaches", rows)
    assert figures(found) == json.loads((RESULTS / "what_teaches.json").read_text())
    page = (RESULTS / "what_teaches.md").read_text().splitlines()
    for line in (*summary(found, rows).splitlines()[2:], *table(found, rows).splitlines()[2:]):
        assert line in page


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "rows.yaml"
    bad.write_text("rows: {a: {headin: x}}")
    with pytest.raises(TrainerError, match=f"{bad} cannot be read .*headin.*see {DEFAULT}"):
        read_rows(bad)
    with pytest.raises(TrainerError, match=r"absent\.yaml cannot be read"):
        read_rows(tmp_path / "absent.yaml")

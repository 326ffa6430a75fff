"""Derainers compared, and the tables of it."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from numpy.typing import NDArray

from iqa_service.scorers.base import Candidate, ScoreBackend
from rgsud_core.images import Image, read_image
from trainer.data.catalogue import lookup
from trainer.errors import TrainerError
from trainer.restore.comparison import Comparison, ImageSet, compare, find_image_set
from trainer.restore.evaluation import score_pair
from trainer.restore.sheets import read_sheet
from trainer.restore.tables import as_csv, latex, markdown, write_table


def blurred(image: Image) -> Image:
    """Takes the photographs' rain, vertical lines, rather well."""
    return scipy.ndimage.minimum_filter(image, (1, 3, 1))


def darkened(image: Image) -> Image:
    return (image // 4).astype(np.uint8)


@pytest.fixture
def compared(photographs: Path) -> Comparison:
    val, seen = photographs / "val", []
    sets = [
        ImageSet("Rain100L", val / "rainy", val / "clean", "A", lookup("Rain100L")),
        ImageSet("real", photographs / "rainy"),
    ]
    sheet = photographs / "sheet.png"
    result = compare(
        {"better": blurred, "worse": darkened},
        sets,
        scorers=["local:random", "daclip-lite"],
        sheets={"Rain100L": sheet},
        progress=lambda *counts: seen.append(counts),
    )
    assert seen == [(n, 6) for n in range(1, 7)]
    captions = [[panel.caption for panel in row] for row in read_sheet(sheet)]
    assert len(captions) == 2
    assert [re.sub(r"[\d.]+ dB", "N dB", caption) for caption in captions[1]] == [
        "rainy  N dB",
        "better  N dB",
        "worse  N dB",
        "clean  1",
    ]
    return result


def test_each_image_is_measured_by_each_method(compared: Comparison, photographs: Path) -> None:
    paired, real = compared.sets
    assert [(row.image, row.method) for row in paired.rows] == [
        (image, method) for image in "01" for method in ("rainy", "better", "worse")
    ]
    rainy, truth = (read_image(photographs / "val" / side / "1.png") for side in ("rainy", "clean"))
    rows = {(row.image, row.method): row.values for row in paired.rows}
    assert rows["1", "rainy"].items() >= score_pair(rainy, truth).model_dump().items()
    assert rows["1", "better"].items() >= score_pair(blurred(rainy), truth).model_dump().items()
    assert paired.mean("better", "psnr_y") == np.mean([rows[image, "better"]["psnr_y"] for image in "01"])
    assert all(0 < row.values["daclip-lite"] < 1 for one in compared.sets for row in one.rows)
    assert (real.protocol, real.images, len(real.rows)) == (None, 4, 12)
    assert {row.values["brightness"] for row in real.rows if row.method == "rainy"} == {0}
    assert Comparison.model_validate_json(compared.model_dump_json()).sets[0] == paired


def _cells(table: str) -> dict[str, list[str]]:
    """The rows of the first table of a Markdown text, by their first cell."""
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    return {first.strip(): [cell.strip() for cell in cells] for first, *cells in reversed(lines)}


def test_published_figures_stand_beside_ours_and_the_best_are_marked(compared: Comparison) -> None:
    text = markdown(compared)
    luma, rgb, judged, scored = (_cells(part) for part in re.split(r"\n\n(?=[A-Z])", text))
    theirs = "<u>34.41</u>" if "**" in luma["better"][0] else "**34.41**"
    assert luma["RGSUD (published)"][0] == theirs
    marks = "".join(cell for row in luma.values() for cell in row)
    assert (marks.count("**"), marks.count("<u>")) == (4, 2)
    assert "*" not in luma["rainy"][0] + luma["worse"][0]
    assert "RGSUD (published)" not in rgb
    assert rgb["better"][0].startswith("**")
    assert rgb["worse"] == [cell.strip("*") for cell in rgb["worse"]]  # worse than the rainy image
    assert judged["rainy"][4:] == ["0.0", "0.0", "inf"]
    assert set(scored) == {"", "rainy", "better", "worse"}
    assert "- daclip-lite: probability of degradation, lower is better." in text
    assert "- random: log-odds, higher is better." in text
    assert "- real: 4 images, no ground truth; rain can be told from the scene in 0." in text
    assert "from arXiv 2605.00719" in text


def test_the_worst_images_are_named(compared: Comparison) -> None:
    rows = {(row.image, row.method): row.values["psnr_y"] for row in compared.sets[0].rows}
    order = sorted("01", key=lambda image: rows[image, "better"] - rows[image, "rainy"])
    said = ", ".join(f"{n} ({rows[n, 'rainy']:.2f} -> {rows[n, 'better']:.2f} dB)" for n in order)
    assert f"- Worst of better on Rain100L: {said}." in markdown(compared)


def test_a_file_of_every_image_can_be_read(compared: Comparison, tmp_path: Path) -> None:
    write_table(compared, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 + 4 * 3
    assert float(rows[1]["psnr_rgb"]) == compared.sets[0].rows[1].values["psnr_rgb"]
    assert rows[1]["left"] == rows[-1]["psnr_y"] == ""
    assert as_csv(compared) == (tmp_path / "t.csv").read_text()
    for suffix in ("md", "tex", "json"):
        write_table(compared, tmp_path / f"t.{suffix}")
    assert (tmp_path / "t.md").read_text() == markdown(compared)
    with pytest.raises(TrainerError, match=r"t\.xls names no kind of table: end it in \.md"):
        write_table(compared, tmp_path / "t.xls")


@pytest.mark.parametrize(
    "name",
    [
        "a_b",
        "100%",
        "x&y",
        "$5",
        "#1",
        "{}",
        "^~",
        "back\\slash",
        "a|b",
        "_it_",
        "*b*",
        "`c`",
        "a\nb",
        "\udce9",
    ],
)
def test_names_are_escaped(name: str, compared: Comparison, tmp_path: Path) -> None:
    named = compared.model_copy(update={"methods": [name]})
    table = latex(named)
    row = next(line for line in table.splitlines() if line.rstrip().endswith(r"\\") and "RGSUD" in line)
    columns = len(re.findall(r"(?<!\\)&", row))
    body = [line for line in table.splitlines() if line.rstrip().endswith(r"\\")]
    ours = body[body.index(row) + 1]
    assert len(re.findall(r"(?<!\\)&", ours)) == columns
    cell = re.split(r"(?<!\\)&", ours)[0]
    left = re.sub(r"\\(text\w+\{\}|\^\{\}|[&%$#_{}])", "", cell)
    assert not re.search(r"[&%$#_{}^~\\\n]", left)
    lines = [line for line in markdown(named).splitlines() if line.startswith("|")][:7]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    shown = re.split(r"(?<!\\)\|", lines[-1])[1]
    assert not re.search(r"(?<!\\)[*`]|(?<![\\\w])_", shown)
    write_table(named, tmp_path / "t.md")


def test_an_image_that_is_perfect_already_is_no_fault(photographs: Path) -> None:
    clean = photographs / "val" / "clean"
    result = compare({"same": lambda image: image}, [ImageSet("clean", clean, clean)])
    assert result.sets[0].mean("same", "psnr_y") == math.inf
    assert "| inf " in re.sub(" +", " ", markdown(result))


def test_published_scores_stand_beside_those_of_the_same_scorer(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Daclip(ScoreBackend):
        name, unit, lower_better = "daclip", "probability of degradation", True

        def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
            return np.full(len(candidates), 3, np.float32)

        def in_unit(self, log_odds: float) -> float:
            return 0.01 * log_odds

    monkeypatch.setattr("trainer.restore.comparison.open_scorer", lambda _: Daclip())
    test = ImageSet("Real3000", photographs / "rainy", known=lookup("Real3000"))
    text = markdown(compare({"ours": blurred}, [test], scorers=["local:daclip"]))
    scored = _cells(text.split("Scores without ground truth:")[1])
    assert scored["RGSUD (published)"] == ["**0.018**"]
    assert (scored["CSUD (published)"], scored["ours"], scored["rainy"]) == (["0.042"], ["0.030"], ["0.030"])
    assert "- Real3000: 4 of 300 images, no ground truth" in text


def test_sets_are_found_with_their_protocol_or_without_truth(tmp_path: Path) -> None:
    for folder in ("DDN/test/input", "DDN/test/target", "SIRR/rainy", "Rain800/train/input"):
        (tmp_path / folder).mkdir(parents=True)
    assert find_image_set("ddn-data", tmp_path).protocol == "B"
    assert find_image_set("ddn-data", tmp_path, "A").protocol == "A"
    assert find_image_set("SIRR", tmp_path).clean is None
    with pytest.raises(TrainerError, match="Rain800 has no test pairs below"):
        find_image_set("Rain800", tmp_path)


def test_no_derainer_is_called_as_the_rainy_images_are(photographs: Path) -> None:
    with pytest.raises(TrainerError, match="cannot be called 'rainy'"):
        compare({"rainy": blurred}, [ImageSet("x", photographs / "rainy")])

"""The command ``rgsud score``, as a user types it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from iqa_service.errors import ScorerBusy
from iqa_service.heatmap import tile_scores
from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate
from iqa_service.scorers.baselines import RandomBackend
from iqa_service.scorers.consistency import consistency
from rgsud.cli import main
from rgsud_core.degradation.rendered import add_rain, random_look
from rgsud_core.images import Image, read_image


@pytest.fixture
def folder(tmp_path: Path, china: Image, flower: Image) -> Path:
    (tmp_path / "images/city").mkdir(parents=True)
    PIL.Image.fromarray(china).save(tmp_path / "images/city/china.png")
    PIL.Image.fromarray(flower).save(tmp_path / "images/flower.png")
    return tmp_path / "images"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object, command: tuple[str, ...] = ("score",)) -> int:
    monkeypatch.setattr("sys.argv", ["rgsud", *command, *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_json_has_the_scores_of_the_scorer(monkeypatch, capsys, folder: Path, china: Image) -> None:
    assert run(monkeypatch, folder, folder / "flower.png", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    lite = open_scorer("local:daclip-lite")
    assert (said["scorer"], said["fingerprint"]) == ("daclip-lite", lite.fingerprint)
    assert [row["image"] for row in said["scores"]] == [
        "city/china",
        "flower",
        "images/flower",
    ]
    row = said["scores"][0]
    assert row["log_odds"] == pytest.approx(float(lite.score([Candidate("a", china)])[0]), abs=1e-3)
    assert row["reward"] == pytest.approx(1 / (1 + math.exp(-row["log_odds"])))
    assert row["report"] == pytest.approx(1 - row["reward"])


def test_the_table_names_each_image(monkeypatch, capsys, folder: Path) -> None:
    assert run(monkeypatch, folder, "--scorer", "local:random?seed=4") == 0
    said = capsys.readouterr().out
    expected = open_scorer("local:random?seed=4")
    image = np.asarray(PIL.Image.open(folder / "flower.png"))
    assert f"{expected.score([Candidate('flower', image)])[0]:+.3f}" in said
    assert "city/china" in said


def test_what_cannot_be_read_costs_no_other_image(monkeypatch, capsys, folder: Path, tmp_path: Path) -> None:
    (folder / "text.png").write_text("no image")
    code = run(monkeypatch, folder, tmp_path / "absent.png", "--json", "--scorer", "local:random")
    said = capsys.readouterr()
    assert code == 2
    assert len(json.loads(said.out)["scores"]) == 2
    assert "not everything was scored: " in said.err
    assert "text.png is not an image" in said.err
    assert ", and 1 more" in said.err


def test_what_the_scorer_refuses_costs_no_other_image(monkeypatch, capsys, folder: Path) -> None:
    PIL.Image.new("RGB", (1, 300)).save(folder / "strip.png")
    code = run(monkeypatch, folder, "--json")
    said = capsys.readouterr()
    assert code == 2
    assert [row["image"] for row in json.loads(said.out)["scores"]] == ["city/china", "flower"]
    assert "not everything was scored: an image of 1 x 300 pixels is a strip" in said.err


def test_a_service_without_room_is_asked_again(monkeypatch, capsys, folder: Path) -> None:
    class Busy(RandomBackend):
        refusals = 2

        def score(self, candidates):
            if self.refusals:
                self.refusals -= 1
                raise ScorerBusy("the scorer", 0.01)
            return super().score(candidates)

    monkeypatch.setattr("iqa_service.scorers.baselines.RandomBackend", Busy)
    assert run(monkeypatch, folder, "--json", "--scorer", "local:random") == 0
    assert len(json.loads(capsys.readouterr().out)["scores"]) == 2


def test_the_rainy_image_is_found_by_name(monkeypatch, capsys, folder: Path, tmp_path: Path, china) -> None:
    rng = np.random.default_rng(0)
    rainy = add_rain(china, random_look(rng), rng)
    (tmp_path / "rainy/city").mkdir(parents=True)
    PIL.Image.fromarray(rainy).save(tmp_path / "rainy/city/china.png")
    spec = "local:random?consistency=0.5"
    code = run(monkeypatch, folder, "--json", "--scorer", spec, "--rainy", tmp_path / "rainy")
    said = capsys.readouterr()
    plain = open_scorer("local:random").score([Candidate("city/china", china)])[0]
    (row,) = json.loads(said.out)["scores"]
    assert row["log_odds"] == pytest.approx(plain + 0.5 * consistency(china, rainy), abs=1e-4)
    assert code == 2
    assert "no rainy image 'flower'" in said.err


def test_the_reference_of_an_ensemble(monkeypatch, capsys, folder: Path, tmp_path: Path, china) -> None:
    for number in range(8):
        PIL.Image.fromarray(china[number:]).save(folder / f"{number}.png")
    of = "random(seed=1),random(seed=2)"
    made = tmp_path / "reference.json"
    assert run(monkeypatch, of, folder, "--output", made, command=("scorer", "reference")) == 0
    address = f"local:ensemble?of={of}&reference={made}"
    assert f"10 images. Use it with {address}" in capsys.readouterr().err
    assert run(monkeypatch, folder, "--scorer", address, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["scores"]) == 10
    assert run(monkeypatch, "random", folder, command=("scorer", "reference")) == 2
    assert "has one member" in capsys.readouterr().err


def test_the_heatmap_is_worst_where_it_rains(monkeypatch, capsys, folder: Path, tmp_path: Path) -> None:
    image = np.asarray(PIL.Image.open(folder / "flower.png"))
    rng = np.random.default_rng(0)
    half = image.copy()
    half[:, 160:] = add_rain(image, random_look(rng, 2), rng)[:, 160:]
    PIL.Image.fromarray(half).save(tmp_path / "half.png")
    lite = open_scorer("local:daclip-lite")
    field = tile_scores(lite, Candidate("half", half))
    assert field.shape == half.shape[:2]
    assert field[:, :130].mean() > field[:, 190:].mean() + 1
    target = tmp_path / "maps/half.png"
    assert run(monkeypatch, tmp_path / "half.png", "--heatmap", target) == 0
    drawn = np.asarray(PIL.Image.open(target).convert("RGB")).astype(int)
    assert min(drawn.shape[:2]) > 300
    red = drawn[..., 0] - drawn[..., 2]  # of the scores' half of the picture: red where it rains
    marked = red[100:-100, drawn.shape[1] // 2 : int(drawn.shape[1] * 0.9)]
    middle = marked.shape[1] // 2
    assert marked[:, middle:].mean() > marked[:, :middle].mean()
    assert run(monkeypatch, folder, "--scorer", "local:random", "--heatmap", target) == 2
    assert "give a folder" in capsys.readouterr().err


def test_folders_of_the_same_names_keep_their_rainy_images_and_heatmaps(
    monkeypatch, capsys, tmp_path: Path, flower: Image
) -> None:
    for place in ("a", "b", "rainy"):
        (tmp_path / place).mkdir()
        PIL.Image.fromarray(flower).save(tmp_path / place / "1.png")
    scorer = ("--scorer", "local:random?consistency=1", "--rainy", tmp_path / "rainy")
    assert run(monkeypatch, tmp_path / "a", tmp_path / "b", *scorer, "--heatmap", tmp_path / "heat") == 0
    drawn = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "heat").rglob("*.png"))
    assert drawn == ["heat/1.png", "heat/b/1.png"]
    assert len(list((tmp_path / "b").iterdir())) == 1


def test_a_heatmap_without_a_format_is_refused_before_the_work(monkeypatch, capsys, folder: Path) -> None:
    assert run(monkeypatch, folder / "flower.png", "--heatmap", folder / "out.v2") == 2
    said = capsys.readouterr()
    assert "no suffix of an image format" in said.err
    assert "log-odds" not in said.out


def test_deep_and_turned_images_are_scored_as_they_look(monkeypatch, capsys, tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    PIL.Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").mean() == pytest.approx(127.5, abs=1)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (64, 48)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (64, 48, 3)
    PIL.Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    assert run(monkeypatch, tmp_path / "float.tif", "--scorer", "local:random") == 2
    assert "floating-point pixels outside of [0,1] have no known range" in capsys.readouterr().err


def test_a_folder_is_listed_as_by_every_command(monkeypatch, capsys, folder: Path) -> None:
    for name in ("flower.jpg", "flower.gif", "it[copy]:car:.png"):
        PIL.Image.open(folder / "flower.png").save(folder / name)
    (folder / "._flower.png").write_text("what another system notes")
    (folder / "folder.png").mkdir()
    (folder / "notes.txt").write_text("no image")
    assert run(monkeypatch, folder, "--scorer", "local:random", "--json") == 0
    said = capsys.readouterr()
    names = [row["image"] for row in json.loads(said.out)["scores"]]
    assert names == ["city/china", "flower.gif", "flower.jpg", "flower.png", "it[copy]:car:"]
    assert "1 entries of" in said.err
    assert run(monkeypatch, folder, "--scorer", "local:random") == 0
    assert "it[copy]:car:" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
def test_of_several_frames_it_is_said_that_the_first_is_scored(
    suffix: str, monkeypatch, capsys, tmp_path: Path
) -> None:
    film = [PIL.Image.new("RGB", (64, 48), (60 * number, 90, 30)) for number in range(3)]
    film[0].save(tmp_path / f"film.{suffix}", save_all=True, append_images=film[1:])
    assert run(monkeypatch, tmp_path, "--scorer", "local:random", "--json") == 0
    said = capsys.readouterr()
    assert f"film.{suffix} has 3 frames or pages: the first is scored." in said.err.replace("\n", " ")
    assert len(json.loads(said.out)["scores"]) == 1


def test_a_heatmap_of_any_shape_and_name_is_drawn(monkeypatch, capsys, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, size in (("$x_1$ and $", (64, 64)), ("strip", (2000, 40)), ("tall", (40, 2000))):
        PIL.Image.new("RGB", size, "grey").save(tmp_path / "in" / f"{name}.png")
    target = f"{tmp_path}/heat.2024/"
    assert run(monkeypatch, tmp_path / "in", "--scorer", "local:random", "--heatmap", target) == 0
    assert len(list(Path(target).iterdir())) == 3

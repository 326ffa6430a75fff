"""The command: what it does with good input, and that bad input is one sentence and an exit code."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
import yaml

from tests.rgsud.command import rgsud

Tree = dict[str, object]


def _recipe(tree: Tree, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_train_derain_evaluate(
    tree: Tree, photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rgsud(monkeypatch, "train", _recipe(tree, photographs), "schedule.samples=16") == 0
    run = photographs / "runs" / "small"
    assert rgsud(monkeypatch, "derain", run, photographs / "rainy", photographs / "out", "--tile", 64) == 0
    assert {p.name for p in (photographs / "out").iterdir()} == {"0.png", "1.png", "2.png", "3.png"}
    sheet = photographs / "sheet.png"
    val = photographs / "val"
    assert rgsud(monkeypatch, "evaluate", run, val / "rainy", val / "clean", "--sheet", sheet) == 0
    assert PIL.Image.open(sheet).width > 3 * 300
    assert "| small" in capsys.readouterr().out


def test_the_demonstration_ends_with_table_sheet_and_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("schedule.samples=40", "recycling.every=1", "recycling.scorer=local:random", "device=cpu")
    for launch in ("ray", "inline"):  # the second replaces the first, even where an earlier version wrote it
        assert rgsud(monkeypatch, "demo", f"runs={tmp_path}", f"launch={launch}", *settings) == 0
        with (tmp_path / "demo" / "config.yaml").open("a") as earlier:
            earlier.write("no_longer: a setting\n")
    assert "Reward pool" in capsys.readouterr().out
    assert (tmp_path / "demo" / "summary.json").exists()
    assert (tmp_path / "demo" / "demo.png").exists()


def _spoil(kind: str, photographs: Path) -> None:
    victim = photographs / "rainy" / "1.png"
    if kind == "truncated":
        victim.write_bytes(victim.read_bytes()[:200])
    elif kind == "text":
        (photographs / "rainy" / "note.jpg").write_text("not a picture")
    elif kind == "small":
        PIL.Image.new("RGB", (10, 10)).save(victim)
    elif kind == "empty":
        shutil.rmtree(photographs / "clean")
        (photographs / "clean").mkdir()
    elif kind == "same":
        shutil.copy(victim, photographs / "clean" / "copy.png")
    elif kind == "partner":
        (photographs / "val" / "clean" / "0.png").unlink()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("truncated", "1.png"),
        ("text", "note.jpg"),
        ("small", "10x10"),
        ("empty", "clean"),
        ("same", "copy"),
        ("partner", "0"),
    ],
)
def test_bad_photographs_are_named_before_anything_is_trained(
    kind: str,
    named: str,
    tree: Tree,
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _spoil(kind, photographs)
    assert rgsud(monkeypatch, "train", _recipe(tree, photographs)) == 2
    said = capsys.readouterr().err
    assert named in said
    assert "Traceback" not in said
    assert not (photographs / "runs" / "small" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.crops=64", "data: unknown setting 'crops': did you mean 'crop'?"),
        ("method.generator.widht=3", "did you mean 'width'?"),
        ("method.generater=3", "method: unknown setting 'generater': did you mean 'generator'?"),
        ("method.name=supervist", "method: unknown method 'supervist': did you mean 'supervised'?"),
        ("method.name=supervised", "method: unknown setting 'dem'"),
        ("method.sources=[flad]", "method.sources.1.0: unknown source of rain 'flad': did you mean 'flat'?"),
        ("method.sources=[reward]", "'reward' cannot be the last source of stage 1"),
        ("method.sources=[{name: flat, share: 0.5}, rendered]", "0.5 is no share: write it as 50%"),
        ("method.discriminator=null", "overlay resnet learns from a discriminator"),
        ("method.overlay=blend", "source unet gives residuals, which overlay blend does not take"),
        ("method.name=nowhere.at_all:Method", "there is no module 'nowhere'"),
        ("recyling.every=2", "did you mean 'recycling'?"),
        ("derainer=nafnet-3", "unknown derainer 'nafnet-3': did you mean 'nafnet-32'?"),
        ("data.crop=33", "no multiple of method.generator.downscale 2"),
        ("method.discriminator.layers=5", "data.crop 32 is too small for method.discriminator.layers 5"),
        ("ray.workers=0", "greater than or equal to 1"),
        ("ray.workers=[4, 2]", "the fewest come first"),
        ("schedule.stage2_from=0.5", "schedule.stage2_from: 0.5 is no moment of the run: write a number"),
        ("schedule.seconds=0", "schedule.seconds: Input should be greater than 0"),
        ("schedule.plateau_patience=0", "greater than or equal to 1"),
        ("data.batch=[old", "is not YAML after the '='"),
        ("method.sources.2=[{name: reward_smooth, window: 30}, unet]", "30 is even"),
        (
            "method.sources.2=[{name: reward_smooth, sigma: 15}, unet]",
            "too large for crops of 32",
        ),
        ("data.batch", "write key=value"),
        ("recycling.scorer=local:daclip-light", "did you mean 'local:daclip-lite'?"),
        ("recycling.pool=somewhere", "unknown pool 'somewhere'"),
        ("device=cuda:99", "the device 'cuda:99' cannot be used"),
    ],
)
def test_a_wrong_setting_names_the_nearest(
    setting: str,
    said: str,
    tree: Tree,
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert rgsud(monkeypatch, "train", _recipe(tree, photographs), setting) == 2
    errors = capsys.readouterr().err
    assert said in errors.replace("\n", " ")
    assert "?." not in errors
    assert "Traceback" not in errors


def test_a_known_data_set_is_enough_to_train_and_evaluate(
    tree: Tree, photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = photographs / "sets" / "DDN-Data"
    shutil.copytree(photographs / "rainy", known / "train" / "input")
    shutil.copytree(photographs / "clean", known / "train" / "target")
    shutil.copytree(photographs / "val" / "rainy", known / "test" / "input")
    shutil.copytree(photographs / "val" / "clean", known / "test" / "target")
    tree["data"] = {"crop": 32, "batch": 2, "workers": 0}
    settings = ("data.set=ddn", f"data.root={photographs / 'sets'}", "schedule.samples=16")
    assert rgsud(monkeypatch, "train", _recipe(tree, photographs), *settings) == 0
    run = photographs / "runs" / "small"
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]
    assert data["validation_clean"] == str(known / "test" / "target")
    capsys.readouterr()
    sheet = photographs / "sheet.png"
    evaluation = ("evaluate", run, photographs / "sets", "--sheet", sheet)
    assert rgsud(monkeypatch, *evaluation, "--set", "DDN") == 0
    assert "- DDN-Data: 2 of 1400 images, protocol B." in capsys.readouterr().out
    assert rgsud(monkeypatch, *evaluation, "--set", "Rain12O0") == 2
    assert "did you mean 'Rain1200'" in capsys.readouterr().err
    alone = ("evaluate", run, photographs / "val" / "rainy", "--sheet", photographs / "judged.png")
    assert rgsud(monkeypatch, *alone) == 0
    assert "rain left" in capsys.readouterr().out
    assert (photographs / "judged.png").is_file()
    assert rgsud(monkeypatch, "train", "demo", "data.set=DDN") == 2
    assert "data.root" in capsys.readouterr().err
    shutil.copytree(photographs / "val" / "rainy", photographs / "sets" / "SIRR" / "rainy")
    tables = [photographs / "table.tex", photographs / "table.csv"]
    several = ("--model", run, "--model", "rgsud-base", "--set", "DDN", "--set", "SIRR", "--scorer", "random")
    outputs = [word for table in tables for word in ("--output", table)]
    root = ("--root", photographs / "sets", "--sheet", sheet)
    assert rgsud(monkeypatch, "evaluate", *several, *root, *outputs) == 0
    shown = capsys.readouterr().out
    for said in ("| small ", "| rgsud-base ", "| rainy ", "RGSUD (published)", "SIRR rain left", "random"):
        assert said in shown
    assert all(table.is_file() for table in tables)
    assert {path.name for path in photographs.glob("sheet-*")} == {"sheet-DDN-Data.png", "sheet-SIRR.png"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "nowhere"),
        ("train", "nowhere.yaml"),
        ("derain", "nowhere", "a", "b"),
        ("evaluate", "nowhere", "a", "b"),
        ("scorer", "pretrain", "nowhere"),
        ("unheard-of",),
    ],
)
def test_what_is_missing_is_said(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rgsud(monkeypatch, *arguments) == 2
    assert next((given for given in arguments if "nowhere" in given), arguments[0]) in capsys.readouterr().err


def test_the_shipped_recipes_are_valid(photographs: Path) -> None:
    from trainer.config import describe_recipe, load_config, recipes

    assert {"demo", "paper", "rain100l-mini"} <= set(recipes())
    for name in recipes():
        assert all(len(line) > 20 for line in describe_recipe(name))
    for name in recipes():
        load_config(name, [f"data.rainy={photographs}", f"data.clean={photographs}"])


def test_a_demonstration_does_not_take_the_place_of_another_run(
    tree: Tree, photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rgsud(monkeypatch, "train", _recipe(tree, photographs), "schedule.samples=4") == 0
    runs = photographs / "runs"
    assert rgsud(monkeypatch, "demo", f"runs={runs}", "name=small") == 2
    assert "holds a run on other data: choose another name" in capsys.readouterr().err
    assert (runs / "small" / "model" / "derainer.safetensors").exists()


def test_a_sheet_without_a_format_is_refused_before_the_work(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    val = photographs / "val"
    arguments = ("evaluate", "no model", val / "rainy", val / "clean", "--sheet", photographs / "sheet")
    assert rgsud(monkeypatch, *arguments) == 2
    assert "no suffix of an image format" in capsys.readouterr().err


def test_settings_are_shown_with_value_type_and_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rgsud(monkeypatch, "settings", "schedule", "--recipe", "demo") == 0
    shown = capsys.readouterr().out
    assert "schedule.stage2_from=70%  int | percentage | plateau | never\n    When stage 2 begins" in shown
    assert "recycling" not in shown.replace("When recycling", "")
    assert rgsud(monkeypatch, "settings", "ray.workers") == 0
    assert "ray.workers=1  int >= 1 | [int >= 1, int >= 1]\n" in capsys.readouterr().out

    assert rgsud(monkeypatch, "settings", "--json", "--recipe", "demo") == 0
    described = {one["key"]: one for one in json.loads(capsys.readouterr().out)}
    assert described["schedule.samples"]["value"] == 100_000
    assert described["schedule.samples"]["default"] == 400_000
    assert described["schedule"]["group"]
    assert all(one["text"] for key, one in described.items() if not key.startswith("method"))

    for key, said in (("schedule.sample", "did you mean 'schedule.samples'?"), ("shedule", "'schedule'?")):
        assert rgsud(monkeypatch, "settings", key) == 2
        assert said in capsys.readouterr().err
    assert rgsud(monkeypatch, "settings", "--recipe", "nowhere") == 2
    assert "there is no recipe 'nowhere'" in capsys.readouterr().err


def test_recipes_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert rgsud(monkeypatch, "recipes") == 0
    shown = capsys.readouterr().out
    assert "rain100l-mini" in shown
    assert "For GPUs" in shown


def test_an_interrupted_run_says_that_it_is_saved_and_other_commands_do_not(
    tree: Tree, photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer import train as loop

    monkeypatch.setattr(loop, "finished", lambda *_: signal.raise_signal(signal.SIGINT) or False)
    assert rgsud(monkeypatch, "train", _recipe(tree, photographs)) == 130
    said = capsys.readouterr().err
    assert f"interrupted; the run in {photographs / 'runs' / 'small'} has been saved: --resume" in said

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place, arguments in (
        (
            "trainer.restore.files.listing",
            ("derain", photographs / "runs" / "small", photographs, "x"),
        ),
        ("iqa_service.registry.open_scorer", ("score", photographs / "rainy" / "0.png")),
        ("trainer.launch.start.Checkpoints", ("train", photographs / "recipe.yaml")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupted)
            assert rgsud(patch, *arguments) == 130
        said = capsys.readouterr().err
        assert "rgsud: interrupted." in said
        assert "saved" not in said


@pytest.mark.parametrize("output", ["/dev/full", "closed"])
def test_an_output_that_cannot_be_written_is_a_sentence(output: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from rgsud.cli import main; main()", "settings"]
    if output == "closed":
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        said = process.communicate()[1] if process.stderr is None else process.stderr.read()
        assert process.wait() == 1
    else:
        with Path(output).open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        said = done.stderr
        assert done.returncode == 2
        assert "the output cannot be read or written (No space left on device)" in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said

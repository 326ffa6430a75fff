"""Parts of a stranger, each one file outside the packages, trained with by import path."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import yaml

from iqa_service.serving import clusters
from rgsud import cli

EXAMPLES = Path(__file__).parent / "examples"
DERAINER = "derainer={name: shallow_derainer:Shallow, channels: 8}"
METHOD = "method={name: plain_method:Plain, rain: {name: rendered, strongest: 3}}"
SOURCE = "method={sources: [{name: drizzle_source:Drizzle, drops: 20}], overlay: add, discriminator: null}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """rainy/, clean/, and a recipe of a small run. The examples are on this process's path only."""
    rng = np.random.default_rng(0)
    for side, count in (("rainy", 4), ("clean", 3)):
        (tmp_path / side).mkdir()
        for number in range(count):
            image = PIL.Image.fromarray(rng.integers(0, 200, (6, 6, 3), np.uint8)).resize((72, 64))
            image.save(tmp_path / side / f"{number}.png")
    recipe = {
        "name": "strange",
        "device": "cpu",
        "launch": "inline",
        "data": {"rainy": "rainy", "clean": "clean", "crop": 32, "batch": 2, "workers": 0},
        "derainer": {"width": 4, "encoder": [1], "middle": 1, "decoder": [1]},
        "method": {"sources": ["rendered"], "overlay": "add", "discriminator": None},
        "schedule": {"samples": 24, "recycle_from": 4, "stage2_from": 12},
        "recycling": {"scorer": "local:random", "every": 1, "synchronous": True},
        "report": {"log_every": 1, "plan": False},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    return tmp_path


def _rgsud(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rgsud", *arguments])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _lines(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def test_a_derainer_is_trained_and_read_again_where_it_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _rgsud(monkeypatch, "train", "small.yaml", DERAINER) == 0
    asked = ("derain", "runs/strange", "rainy/0.png", "out.png")
    capsys.readouterr()
    assert _rgsud(monkeypatch, *asked) == 2
    said = capsys.readouterr().err
    assert "names the class shallow_derainer:Shallow, and loading it would run its code" in said
    assert said.count("\n") == 1
    assert not Path("out.png").exists()
    assert _rgsud(monkeypatch, *asked, "--derainer", "shallow_derainer:Shallow") == 0
    assert PIL.Image.open("out.png").size == (72, 64)
    pairs = ("evaluate", "runs/strange", "rainy", "rainy")
    assert _rgsud(monkeypatch, *pairs) == 2
    assert _rgsud(monkeypatch, *pairs, "--derainer", "shallow_derainer:Shallow") == 0


def test_a_method_trains_in_both_stages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _rgsud(monkeypatch, "train", "small.yaml", METHOD) == 0
    steps = _lines(Path("runs/strange"), "step")
    assert ["loss/re" in steps[at] for at in (0, -1)] == [False, True]
    assert all("loss/l1" in step for step in steps)


def test_a_source_brings_its_rain(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _rgsud(monkeypatch, "train", "small.yaml", SOURCE, "data.workers=1") == 0
    said = [line["text"] for line in _lines(Path("runs/strange"), "notice")]
    assert "20 drops fall on each crop" in said


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("derainer=shallow_derainer:Shalow", "derainer: shallow_derainer has no 'Shalow': did you mean"),
        ("derainer=nowhere:Net", "derainer: 'nowhere:Net' cannot be imported, there is no module 'nowhere'"),
        ("derainer=pathlib:Path", "derainer: 'pathlib:Path' is no derainer: name a subclass of torch.nn."),
        ("derainer={name: shallow_derainer:Shallow, chanels: 3}", "setting 'chanels': did you mean 'channel"),
        ("method=drizzle_source:Drizzle", "method: 'drizzle_source:Drizzle' is no method: name a subclass"),
        ("method={name: plain_method:Plain, ema: none}", "method.ema: Input should be a valid number"),
        ("method.sources=[plain_method:Plain]", "method.sources.1.0: 'plain_method:Plain' is no"),
        ("method.sources=[nowhere:Rain]", "'nowhere:Rain' cannot be imported"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_with_its_setting(
    setting: str,
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _rgsud(monkeypatch, "train", "small.yaml", setting) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1
    assert not Path("runs").exists()


@pytest.fixture
def cluster() -> Iterator[None]:
    clusters.join("local", num_cpus=4, include_dashboard=False)
    yield
    clusters.leave()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_all_four_at_once_train_on_ray(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("slope.txt").write_text("0.4")
    scorer = "recycling.scorer=sharpness_scorer:Sharpness?weights=slope.txt"
    method = "method={name: plain_method:Plain, rain: {name: drizzle_source:Drizzle, drops: 20}}"
    on_ray = ("launch=ray", "ray.cpus=1", "data.workers=1")
    assert _rgsud(monkeypatch, "train", "small.yaml", DERAINER, scorer, method, *on_ray) == 0
    run = Path("runs/strange")
    assert "loss/re" in _lines(run, "step")[-1]
    assert "20 drops fall on each crop" in [line["text"] for line in _lines(run, "notice")]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["pool_entries"] == 4
    # Log-odds as the slope in the file makes them: 5 at most.
    assert -100 < summary["pool_mean_log_odds"] < 5
    asked = ("derain", "runs/strange", "rainy/0.png", "out.png")
    assert _rgsud(monkeypatch, *asked, "--derainer", "shallow_derainer:Shallow") == 0

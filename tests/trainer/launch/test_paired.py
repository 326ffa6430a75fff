"""Training on pairs, from the command line on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import yaml
from typer.testing import CliRunner

from rgsud.cli import app
from trainer.errors import TrainerError
from trainer.launch.start import run


@pytest.fixture
def truth(photographs: Path) -> Path:
    """The truths of the rainy images; one photograph has no rain, so that both sides are the same."""
    folder = photographs / "truth"
    folder.mkdir()
    for file in sorted((photographs / "rainy").iterdir()):
        image = np.asarray(PIL.Image.open(file))
        darker = image if file.name == "0.png" else np.maximum(image, 10) - np.uint8(10)
        PIL.Image.fromarray(darker).save(folder / file.name)
    return folder


@pytest.fixture
def recipe(tree: dict[str, object], photographs: Path) -> Path:
    """The small configuration, without settings of a method."""
    path = photographs / "small.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in tree.items() if key != "method"}))
    return path


def test_pairs_train_from_the_command_line(recipe: Path, truth: Path) -> None:
    command = ["train", str(recipe), "method.name=supervised", f"data.clean={truth}"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = (recipe.parent / "runs/small/metrics.jsonl").read_text()
    assert '"loss/psnr"' in lines
    assert '"loss/adv"' not in lines
    assert "are trained on" not in lines


def test_sides_that_do_not_match_are_named(tree: dict[str, object], truth: Path) -> None:
    from trainer.config import Config

    data = {**tree["data"], "clean": str(truth)}  # type: ignore[dict-item]
    config = Config.model_validate({**tree, "method": {"name": "supervised"}, "data": data})
    PIL.Image.open(truth / "1.png").crop((0, 0, 70, 64)).save(truth / "1.png")
    with pytest.raises(TrainerError, match=r"^1 rainy images differ in size from their ground truth: 1 \(7"):
        run(config)
    shutil.move(truth / "1.png", truth / "one.png")
    sides = r"^1 images of .*rainy have no partner of the same name in .*truth: 1\.\n1 images of .*: one\.$"
    with pytest.raises(TrainerError, match=sides):
        run(config)

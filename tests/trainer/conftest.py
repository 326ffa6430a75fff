"""Small photographs and a small run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from trainer.config import Config


def _scene(rng: np.random.Generator, rainy: bool) -> PIL.Image.Image:
    smooth = PIL.Image.fromarray(rng.integers(0, 200, (6, 6, 3), dtype=np.uint8)).resize((72, 64), 3)
    image = np.asarray(smooth).copy()
    if rainy:
        image[:, rng.integers(0, 72, 8)] += 50
    return PIL.Image.fromarray(image)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """rainy/, clean/, val/rainy and val/clean, 72x64."""
    rng = np.random.default_rng(0)
    for folder, count, rainy in (("rainy", 4, True), ("clean", 3, False)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            _scene(rng, rainy).save(tmp_path / folder / f"{number}.png")
    for side in ("rainy", "clean"):
        (tmp_path / "val" / side).mkdir(parents=True)
    for number in range(2):
        scene = _scene(rng, False)
        scene.save(tmp_path / "val" / "clean" / f"{number}.png")
        image = np.asarray(scene).copy()
        image[:, ::9] += 50
        PIL.Image.fromarray(image).save(tmp_path / "val" / "rainy" / f"{number}.png")
    return tmp_path


@pytest.fixture
def tree(photographs: Path) -> dict[str, object]:
    """A configuration that trains in a second or two, as a tree; synchronous, random scorer."""
    return {
        "name": "small",
        "runs": str(photographs / "runs"),
        "device": "cpu",
        "launch": "inline",
        "data": {
            "rainy": str(photographs / "rainy"),
            "clean": str(photographs / "clean"),
            "validation_rainy": str(photographs / "val" / "rainy"),
            "validation_clean": str(photographs / "val" / "clean"),
            "crop": 32,
            "batch": 2,
            "workers": 0,
        },
        "derainer": {"width": 4, "encoder": [1], "middle": 1, "decoder": [1]},
        "method": {
            "generator": {"width": 8, "blocks": 1, "downscale": 2, "explicit_rain": True},
            "dem": {"width": 4, "levels": 1},
            "discriminator": {"width": 8, "layers": 2},
            "self_reconstruction": 1.0,
        },
        "schedule": {"samples": 24, "recycle_from": 4, "stage2_from": 12},
        "recycling": {"scorer": "local:random", "every": 1, "synchronous": True},
        "report": {
            "log_every": 2,
            "evaluate_every": 6,
            "sheet_every": 6,
            "checkpoint_every": 3,
            "plan": False,
        },
    }


@pytest.fixture
def config(tree: dict[str, object]) -> Config:
    return Config.model_validate(tree)

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets
import torch

from iqa_service.scorers.daclip import DaCLIP

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data made with the original code."""
    folder = Path(os.environ.get("RGSUD_SHARED", "")).resolve()
    if "RGSUD_SHARED" not in os.environ or not folder.is_dir():
        pytest.skip("no reference data: RGSUD_SHARED names no folder")
    return folder


def make_daclip(seed: int = 0, *, image_tower: bool = False) -> DaCLIP:
    torch.manual_seed(seed)
    model = DaCLIP(CONFIG, image_tower=image_tower)
    for name, parameter in model.named_parameters():
        if "zero_modules" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture
def daclip() -> DaCLIP:
    return make_daclip()


@pytest.fixture
def full_daclip() -> DaCLIP:
    return make_daclip(image_tower=True)


@pytest.fixture(scope="session")
def china() -> np.ndarray:
    """A photograph of a pagoda, uint8 213,320,3."""
    image = PIL.Image.fromarray(sklearn.datasets.load_sample_image("china.jpg"))
    return np.asarray(image.resize((320, 213), PIL.Image.Resampling.BICUBIC))


@pytest.fixture(scope="session")
def flower() -> np.ndarray:
    """A photograph of a flower, uint8 213,320,3."""
    image = PIL.Image.fromarray(sklearn.datasets.load_sample_image("flower.jpg"))
    return np.asarray(image.resize((320, 213), PIL.Image.Resampling.BICUBIC))

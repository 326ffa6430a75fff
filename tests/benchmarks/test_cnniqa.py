"""CNNIQA, a scorer by import path."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets
import torch

from iqa_service.errors import ScorerError
from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate
from iqa_service.scorers.pyiqa_metrics import Scale, to_log_odds


def test_cnniqa_of_its_authors_is_their_forward_pass(tmp_path) -> None:
    china = sklearn.datasets.load_sample_image("china.jpg")
    torch.manual_seed(0)
    shapes = {"conv1": (50, 1, 7, 7), "fc1": (800, 100), "fc2": (800, 800), "fc3": (1, 800)}
    state = {f"{k}.weight": torch.randn(v) * 0.05 for k, v in shapes.items()}
    state |= {f"{k}.bias": torch.randn(v[0]) for k, v in shapes.items()}
    state["fc3.bias"] += 40
    torch.save(state, tmp_path / "live.pth")
    backend = open_scorer(f"benchmarks.cnniqa:CnniqaBackend?weights={tmp_path / 'live.pth'}")
    # One patch by hand, 33 pixels so that the authors' loop finds it.
    image = china[:33, :33]
    grey = np.array(PIL.Image.fromarray(image).convert("L"), np.float64)[:32, :32] / 255
    padded = np.pad(grey, 1, mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    mean, square = windows.mean((2, 3)), np.square(windows).mean((2, 3))
    patch = torch.from_numpy((grey - mean) / (np.sqrt(np.maximum(square - mean**2, 0)) + 1)).float()
    h = torch.nn.functional.conv2d(patch[None, None], state["conv1.weight"], state["conv1.bias"]).flatten(2)
    h = torch.cat([h.amax(2), h.amin(2)], 1)
    for layer in ("fc1", "fc2"):
        h = (h @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]).relu()
    dmos = float(h @ state["fc3.weight"].T + state["fc3.bias"])
    expected = to_log_odds(dmos, Scale(0, 100, lower_better=True))
    assert backend.score([Candidate("a", image)])[0] == pytest.approx(expected, abs=1e-3)
    with pytest.raises(ScorerError, match="candidate 'a' is too small for cnniqa-live"):
        backend.score([Candidate("a", china[:32])])
    with pytest.raises(ScorerError, match="holds no weights of CNNIQA"):
        open_scorer(f"benchmarks.cnniqa:CnniqaBackend?weights={tmp_path / 'absent.pth'}")

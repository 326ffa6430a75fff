"""CNNIQA as its authors published it: Kang et al., CVPR 2014, on grey patches of normalised contrast.

pyiqa's ``cnniqa`` sees colour and has other weights. This one takes those of github.com/lidq92/CNNIQA, which
predict LIVE's difference mean opinion score; the scorer's address is ``cnniqa:CnniqaBackend?weights=PATH``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from iqa_service.errors import ScorerError
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.checkpoint_io import read_state
from iqa_service.scorers.pyiqa_metrics import Scale, to_log_odds
from iqa_service.scorers.views import check_image
from rgsud_core.errors import first_line
from rgsud_core.images import Image

_PATCH = 32
_DMOS = Scale(0, 100, lower_better=True)


class CnniqaBackend(ScoreBackend):
    """Log-odds of a low DMOS, which is the mean over the patches of an image.

    Args:
        weights: a state dict with ``conv1``, ``fc1``, ``fc2`` and ``fc3``.

    Raises:
        ScorerError: the weights cannot be read or are others.
    """

    name = "cnniqa-live"

    def __init__(self, weights: Path) -> None:
        conv = nn.Conv2d(1, 50, 7)
        self._layers = nn.ModuleDict(
            {"conv1": conv, "fc1": nn.Linear(100, 800), "fc2": nn.Linear(800, 800), "fc3": nn.Linear(800, 1)}
        ).eval()
        try:
            content = weights.read_bytes()
            self._layers.load_state_dict(read_state(weights))
        except (OSError, RuntimeError, TypeError) as error:
            raise ScorerError(
                f"'{weights}' holds no weights of CNNIQA ({first_line(error)}): give another file"
            ) from error
        self.fingerprint = "cnniqa-live-" + hashlib.sha256(content).hexdigest()[:16]

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """See ``ScoreBackend.score``; both sides have to exceed 32 pixels."""
        return np.array([to_log_odds(self._dmos(candidate), _DMOS) for candidate in candidates], np.float32)

    @torch.inference_mode()
    def _dmos(self, candidate: Candidate) -> float:
        who = f"candidate '{candidate.id}'"
        check_image(candidate.image, who)
        if min(candidate.image.shape[:2]) <= _PATCH:
            raise ScorerError(
                f"{who} is too small for {self.name}: both sides have to exceed {_PATCH} pixels"
            )
        layers = self._layers
        h = layers["conv1"](_patches(candidate.image))
        h = torch.cat([h.amax((2, 3)), h.amin((2, 3))], dim=1)
        return float(layers["fc3"](layers["fc2"](layers["fc1"](h).relu()).relu()).mean())


def _patches(image: Image) -> Tensor:
    """Grey patches N,1,32,32 side by side, each normalised within itself; the last of a line is left out."""
    grey = torch.from_numpy(np.array(PIL.Image.fromarray(image).convert("L"), np.float32)) / 255
    rows, columns = ((length - 1) // _PATCH for length in grey.shape)
    cut = grey[: rows * _PATCH, : columns * _PATCH].unfold(0, _PATCH, _PATCH).unfold(1, _PATCH, _PATCH)
    patches = cut.reshape(-1, 1, _PATCH, _PATCH)

    def smooth(values: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(nn.functional.pad(values, (1, 1, 1, 1), mode="replicate"), 3, 1)

    mean = smooth(patches)
    deviation = (smooth(patches.square()) - mean.square()).clamp(min=0).sqrt()
    return (patches - mean) / (deviation + 1)

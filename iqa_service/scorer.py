"""Scorers: how far an image is from showing rain, as log-odds.

DACLIP-IQA asks a DA-CLIP which degradation an image shows. Its reward is the probability that the image is
not degraded; candidates are compared by the log-odds of that, because the probability itself saturates.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from iqa_service.daclip import DaCLIP, Rule, load_daclip, load_rule
from iqa_service.errors import ScorerError
from iqa_service.views import VIEWS, Image

__all__ = ["LITE_WEIGHTS", "Candidate", "DaclipScorer", "Image", "Scorer", "open_daclip"]

LITE_WEIGHTS = Path(__file__).parent / "weights" / "daclip-lite.safetensors"
_VERSION = 1
"""Raise when the same weights, words and views come to score differently."""
_VIEWS_AT_ONCE = 64


@dataclass(frozen=True)
class Candidate:
    """A derained image that applies to become a reward."""

    id: str
    """Of the rainy image it was made from."""
    image: Image
    """uint8 H,W,3 RGB."""
    rainy: Image | None = None
    """The rainy image itself, for scorers that compare."""


class Scorer(Protocol):
    """Scores one image without a reference."""

    name: str
    fingerprint: str
    """Scores with different fingerprints must never be compared."""

    def views(self, image: Image) -> Image:
        """What :meth:`score` needs of an image, uint8 H,W,3: uint8 V,S,S,3."""
        ...

    def score(self, views: Image) -> NDArray[np.float32]:
        """Log-odds of "not degraded" of N images, higher is better, from uint8 N,V,S,S,3: float32 N."""
        ...


class DaclipScorer:
    """DACLIP-IQA: a DA-CLIP asked for the degradation in each view of an image.

    The log-odds of a view are logsumexp(logits of the other words) - logsumexp(logits of ``rule.degraded``);
    those of an image are the mean over its views. An image's score moves by less than 1e-3 with what else is
    in its batch.

    Args:
        model: gives degradation features.
        rule: the words, and which of them count as degraded.
        views: ``centre`` (the image shrunk to the model's size, its middle) or ``tiles`` (native resolution).
        name: of this scorer, in tables and reports.
    """

    def __init__(self, model: DaCLIP, rule: Rule, views: str, name: str) -> None:
        if views not in VIEWS:
            raise ScorerError(f"unknown views '{views}': choose {' or '.join(VIEWS)}")
        self.name = name
        self._model = model.eval()
        self._size = model.image_size
        self._cut = VIEWS[views]
        self.fingerprint = _fingerprint(model, rule, f"{views} {self._size}")
        with torch.inference_mode():
            self._text = model.text_directions(rule.words)
        self._degraded = torch.tensor([word in rule.degraded for word in rule.words])

    def views(self, image: Image) -> Image:
        """The squares of an image, uint8 H,W,3, that are scored: uint8 V,S,S,3."""
        return self._cut(image, self._size)

    def score(self, views: Image) -> NDArray[np.float32]:
        """Log-odds of "not degraded", float32 N, of N images given as views, uint8 N,V,S,S,3.

        Raises:
            ScorerError: the views are not of this type and shape, or the model gives NaN for them.
        """
        square = (self._size, self._size, 3)
        if views.dtype != np.uint8 or views.ndim != 5 or views.shape[2:] != square or views.shape[1] == 0:
            raise ScorerError(
                f"{self.name} got views of {views.dtype} {views.shape}, not uint8 (N, V, {self._size}, "
                f"{self._size}, 3): make them with this scorer's views()"
            )
        if len(views) == 0:
            return np.zeros(0, np.float32)
        flat = torch.from_numpy(np.ascontiguousarray(views.reshape(-1, *square)))
        with torch.inference_mode():
            odds = [self._log_odds(chunk) for chunk in torch.split(flat, _VIEWS_AT_ONCE)]
            scores = torch.cat(odds).view(views.shape[:2]).mean(dim=1)
        if not scores.isfinite().all():
            raise ScorerError(f"{self.name} gave NaN: its weights are damaged, fetch or train them again")
        return scores.numpy().astype(np.float32)

    def _log_odds(self, views: torch.Tensor) -> torch.Tensor:
        device = self._text.device
        pixels = self._model.normalise(views.to(device).permute(0, 3, 1, 2))
        logits = self._model.degradation_logits(self._model.encode_degradation(pixels), self._text).cpu()
        return log_odds(logits, self._degraded)


def log_odds(logits: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """Log-odds of "not degraded", float32 N, from logits N,W over words; which are degraded is bool W."""
    logits = logits.float()
    return logits[:, ~degraded].logsumexp(dim=1) - logits[:, degraded].logsumexp(dim=1)


def _fingerprint(model: DaCLIP, rule: Rule, views: str) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps([_VERSION, views, rule.model_dump(mode="json")]).encode())
    for key, tensor in sorted(model.scoring_state().items()):
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def open_daclip(
    weights: str | Path = LITE_WEIGHTS,
    views: str | None = None,
    *,
    name: str = "daclip",
    device: str | None = None,
) -> DaclipScorer:
    """DACLIP-IQA on the DA-CLIP in a file.

    Args:
        weights: a path, or ``hf://OWNER/REPOSITORY/FILE``; see :func:`iqa_service.daclip.load_daclip`.
        views: ``centre`` or ``tiles``; as its rule says when left out.
        name: of the scorer.
        device: where it runs; a GPU if there is one when left out.

    Raises:
        ScorerError: the weights cannot be read, or the views or the device do not exist.
    """
    rule = load_rule(weights)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = load_daclip(weights).to(device)
    except (RuntimeError, AssertionError) as error:
        if isinstance(error, ScorerError):
            raise
        raise ScorerError(f"device '{device}' cannot be used ({error}): choose cpu or cuda") from error
    return DaclipScorer(model, rule, views or rule.views, name)

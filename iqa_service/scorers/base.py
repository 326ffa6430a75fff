"""Scorers: how far an image is from showing rain, as log-odds.

DACLIP-IQA asks a DA-CLIP which degradation an image shows. Its reward is the probability that the image is
not degraded; candidates are compared by the log-odds of that, because the probability itself saturates.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from iqa_service.errors import ScorerError
from iqa_service.scorers.daclip import DaCLIP, Rule, load_daclip, load_rule
from iqa_service.scorers.views import TILES, Image, Views
from rgsud_core.errors import first_line, nearest

__all__ = ["LITE_WEIGHTS", "Candidate", "DaclipScorer", "Image", "Precision", "Scorer", "open_daclip"]

LITE_WEIGHTS = Path(__file__).parents[1] / "weights" / "daclip-lite.safetensors"
_VERSION = 2
"""Raise when the same weights, words, views and precision come to score differently."""
_VIEWS_AT_ONCE = 64
_RAIN_LIKE = ("rainy", "raindrop", "snowy", "hazy")

Precision = Literal["float32", "bfloat16"]
"""Of the image tower's forward pass; text, logits and log-odds are always float32. Not int8: quantised as it
goes, a view's score moved by 0.1 with what else was in its batch, and bfloat16 was faster."""


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
    """Scores one image without a reference.

    The score of an image is the mean of those of its views, each of them scored for itself: whoever holds
    views of several images may pass them as so many images of one view, and take the means.
    """

    name: str
    fingerprint: str
    """Scores with different fingerprints must never be compared."""
    geometry: Views
    """Which squares of an image it looks at."""

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
    in its batch (0.1 in bfloat16).

    Args:
        model: gives degradation features.
        rule: the words, and which of them count as degraded.
        views: ``centre`` (the image shrunk to the model's size, its middle) or ``tiles`` (native resolution).
        name: of this scorer, in tables and reports.
        tiles: how many there are at most.
        precision: of the image tower.

    Raises:
        ScorerError: there are no such views, or there is no such precision.
    """

    def __init__(
        self,
        model: DaCLIP,
        rule: Rule,
        views: str,
        name: str,
        *,
        tiles: int = TILES,
        precision: Precision = "float32",
    ) -> None:
        if views not in ("centre", "tiles"):
            raise ScorerError(f"unknown views '{views}': choose centre or tiles")
        self.name = name
        self.rule = rule
        self.precision = precision
        self.geometry = Views(
            kind="tiles" if views == "tiles" else "centre", size=model.image_size, tiles=tiles
        )
        self.fingerprint = _fingerprint(model, rule, self.geometry, precision)
        with torch.inference_mode():
            self._text = model.text_directions(rule.words)
        self._degraded = torch.tensor([word in rule.degraded for word in rule.words])
        self._size = model.image_size
        self._model = _in_precision(model.eval(), precision)

    def views(self, image: Image) -> Image:
        """The squares of an image, uint8 H,W,3, that are scored: uint8 V,S,S,3."""
        return self.geometry.cut(image)

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
        try:
            with torch.inference_mode():
                odds = [self._log_odds(chunk) for chunk in torch.split(flat, _VIEWS_AT_ONCE)]
                scores = torch.cat(odds).view(views.shape[:2]).mean(dim=1)
        except RuntimeError as problem:  # of memory that is short, for one
            raise ScorerError(
                f"{self.name} failed ({first_line(problem)}): take device=cpu or fewer tiles"
            ) from problem
        if not scores.isfinite().all():
            raise ScorerError(f"{self.name} gave NaN: its weights are damaged, fetch or train them again")
        return scores.numpy().astype(np.float32)

    def _log_odds(self, views: torch.Tensor) -> torch.Tensor:
        pixels = self._model.normalise(views.to(self._text.device).permute(0, 3, 1, 2))
        if self.precision == "bfloat16":
            pixels = pixels.bfloat16()
        features = self._model.encode_degradation(pixels).float()
        return log_odds(self._model.degradation_logits(features, self._text).cpu(), self._degraded)


def log_odds(logits: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """Log-odds of "not degraded", float32 N, from logits N,W over words; which are degraded is bool W."""
    logits = logits.float()
    return logits[:, ~degraded].logsumexp(dim=1) - logits[:, degraded].logsumexp(dim=1)


def _in_precision(model: DaCLIP, precision: Precision) -> DaCLIP:
    if precision == "float32":
        return model
    lowered = copy.copy(model)
    lowered._modules = dict(model._modules)  # or the caller's model would change with its copy
    lowered.visual_control = copy.deepcopy(model.visual_control).bfloat16()
    return lowered


def _fingerprint(model: DaCLIP, rule: Rule, views: Views, precision: Precision) -> str:
    digest = hashlib.sha256()
    said = [_VERSION, views.model_dump(), rule.model_dump(mode="json", exclude={"views"}), precision]
    digest.update(json.dumps(said).encode())
    for key, tensor in sorted(model.scoring_state().items()):
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def choose_words(rule: Rule, words: str) -> Rule:
    """The rule with other words counted as degraded.

    Args:
        rule: what the model was taught.
        words: ``rain-like`` (rainy, raindrop, snowy, hazy), ``degraded`` (all but clean), or words of the
            rule with commas between them: ``rainy``, ``rainy,snowy``.

    Raises:
        ScorerError: a word that the rule has not (the nearest one is given), or the model was not taught
            what a clean image is and ``degraded`` asks for it.
    """
    if words == "degraded":
        if "clean" not in rule.words:
            raise ScorerError(
                "words=degraded weighs 'clean' against all other words, and this DA-CLIP was not taught it: "
                "write words=rainy or words=rain-like"
            )
        return rule.model_copy(update={"degraded": tuple(word for word in rule.words if word != "clean")})
    chosen = _RAIN_LIKE if words == "rain-like" else tuple(words.split(","))
    for word in chosen:
        if word not in rule.words:
            raise ScorerError(
                f"words={words}: this DA-CLIP does not know '{word}', {nearest(word, rule.words)}"
            )
    return Rule(words=rule.words, degraded=chosen, views=rule.views)


def open_daclip(
    weights: str | Path = LITE_WEIGHTS,
    views: str | None = None,
    *,
    tiles: int = TILES,
    words: str | None = None,
    precision: Precision = "float32",
    name: str = "daclip",
    device: str | None = None,
) -> DaclipScorer:
    """DACLIP-IQA on the DA-CLIP in a file.

    Args:
        weights: a path, or ``hf://OWNER/REPOSITORY/FILE``; see ``load_daclip`` in ``daclip.py``.
        views: ``centre`` or ``tiles``; as its rule says when left out.
        tiles: how many there are at most.
        words: which count as degraded, see :func:`choose_words`; as its rule says when left out.
        precision: of the image tower.
        name: of the scorer.
        device: where it runs; a GPU if there is one when left out.

    Raises:
        ScorerError: the weights cannot be read, or the views, words, precision or device do not exist.
    """
    rule = load_rule(weights)
    if words is not None:
        rule = choose_words(rule, words)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = load_daclip(weights).to(device)
    except (RuntimeError, AssertionError) as error:
        if isinstance(error, ScorerError):
            raise
        raise ScorerError(f"device '{device}' cannot be used ({error}): choose cpu or cuda") from error
    return DaclipScorer(model, rule, views or rule.views, name, tiles=tiles, precision=precision)

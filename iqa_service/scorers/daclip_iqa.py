"""DACLIP-IQA: a DA-CLIP classifies the degradation in each view of an image.

Its reward is the probability that the image is not degraded; candidates are compared by the log-odds of that,
because the probability itself saturates.
"""

from __future__ import annotations

import copy
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import expit

from iqa_service.errors import ScorerError
from iqa_service.scorers.base import ScoreBackend
from iqa_service.scorers.daclip import DaCLIP, Rule
from iqa_service.scorers.daclip_files import load_daclip, load_rule
from iqa_service.scorers.views import TILES, Views
from rgsud_core.errors import first_line, nearest
from rgsud_core.images import Image

LITE_WEIGHTS = Path(__file__).parents[1] / "weights" / "daclip-lite.safetensors"
_HUB = "hf://weblzw/daclip-uir-ViT-B-32-irsde"
_VERSION = 2
"""Increase when the same weights, words, views and precision score differently."""
_VIEWS_AT_ONCE = 64
_RAIN_LIKE = ("rainy", "raindrop", "snowy", "hazy")

Kind = Literal["centre", "tiles"]
Precision = Literal["float32", "bfloat16"]
"""Precision of the image tower's forward pass; text, logits and log-odds are always float32. Not int8: with
dynamic quantisation a view's score moved by 0.1 with what else was in its batch, and bfloat16 was faster."""


class DaclipScorer(ScoreBackend):
    """DACLIP-IQA on a DA-CLIP.

    The log-odds of a view are logsumexp(logits of the other words) - logsumexp(logits of ``rule.degraded``);
    those of an image are the mean over its views. An image's score moves by less than 1e-3 with what else is
    in its batch (0.1 in bfloat16).

    Args:
        model: gives degradation features.
        rule: the words, and which of them count as degraded.
        views: ``centre`` (the image shrunk to the model's size, its middle) or ``tiles`` (native resolution).
        name: in tables and reports.
        tiles: largest number of tiles.
        precision: precision of the image tower.

    Raises:
        ScorerError: there are no such views.
    """

    def __init__(
        self,
        model: DaCLIP,
        rule: Rule,
        views: Kind,
        name: str,
        *,
        tiles: int = TILES,
        precision: Precision = "float32",
    ) -> None:
        if views not in ("centre", "tiles"):
            raise ScorerError(f"unknown views '{views}': choose centre or tiles")
        self.name = name
        self.views: Views = Views(kind=views, size=model.image_size, tiles=tiles)
        self.words, self.degraded = rule.words, rule.degraded
        self.unit, self.lower_better = "probability of degradation", True
        self.fingerprint = _fingerprint(model, rule, self.views, precision)
        with torch.inference_mode():
            self._text = model.text_directions(rule.words)
        self._is_degraded = torch.tensor([word in rule.degraded for word in rule.words])
        self._precision = precision
        self._model = _in_precision(model.eval(), precision)

    def score_views(self, views: Image) -> NDArray[np.float32]:
        """See :meth:`ScoreBackend.score_views`."""
        size = self.views.size
        if views.dtype != np.uint8 or views.shape[1:] != (size, size, 3):
            raise ScorerError(
                f"{self.name} got views of {views.dtype} {views.shape}, not uint8 (M, {size}, {size}, 3): "
                "cut them with this scorer's views.cut()"
            )
        if len(views) == 0:
            return np.zeros(0, np.float32)
        try:
            with torch.inference_mode():
                chunks = torch.split(torch.from_numpy(np.ascontiguousarray(views)), _VIEWS_AT_ONCE)
                scores = torch.cat([self._log_odds(chunk) for chunk in chunks])
        except RuntimeError as problem:  # out of memory, for example
            raise ScorerError(
                f"{self.name} failed ({first_line(problem)}): take device=cpu or fewer tiles"
            ) from problem
        if not scores.isfinite().all():
            raise ScorerError(f"{self.name} gave NaN: its weights are damaged, fetch or train them again")
        return scores.numpy().astype(np.float32)

    def in_unit(self, log_odds: float) -> float:
        """The probability that the image is degraded, as DACLIP-IQA is reported."""
        return float(expit(-log_odds))

    def _log_odds(self, views: torch.Tensor) -> torch.Tensor:
        pixels = self._model.normalise(views.to(self._text.device).permute(0, 3, 1, 2))
        if self._precision == "bfloat16":
            pixels = pixels.bfloat16()
        features = self._model.encode_degradation(pixels).float()
        return log_odds(self._model.degradation_logits(features, self._text).cpu(), self._is_degraded)


def log_odds(logits: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """Log-odds of "not degraded", float32 N, from logits N,W over words; which are degraded is bool W."""
    logits = logits.float()
    return logits[:, ~degraded].logsumexp(dim=1) - logits[:, degraded].logsumexp(dim=1)


def _in_precision(model: DaCLIP, precision: Precision) -> DaCLIP:
    if precision == "float32":
        return model
    lowered = copy.copy(model)
    lowered._modules = dict(model._modules)  # so that the caller's model stays as it is
    lowered.visual_control = copy.deepcopy(model.visual_control).bfloat16()
    return lowered


def _fingerprint(model: DaCLIP, rule: Rule, views: Views, precision: Precision) -> str:
    digest = hashlib.sha256()
    settings = [_VERSION, views.model_dump(), rule.model_dump(mode="json", exclude={"views"}), precision]
    digest.update(json.dumps(settings).encode())
    for key, tensor in sorted(model.scoring_state().items()):
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def choose_words(rule: Rule, words: str) -> Rule:
    """The rule with other words counted as degraded.

    Args:
        rule: the words that the model was trained on.
        words: ``rain-like`` (rainy, raindrop, snowy, hazy), ``degraded`` (all but clean), or words of the
            rule with commas between them: ``rainy``, ``rainy,snowy``.

    Raises:
        ScorerError: the rule has no such word (the nearest one is given), or ``degraded`` is chosen for a
            model that has no word "clean".
    """
    if words == "degraded":
        if "clean" not in rule.words:
            raise ScorerError(
                "words=degraded weighs 'clean' against all other words, which this DA-CLIP does not have: "
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
    name: str,
    /,
    weights: str | Path = LITE_WEIGHTS,
    views: Kind | None = None,
    tiles: Annotated[int, Field(ge=1)] = TILES,
    words: str | None = None,
    precision: Precision = "float32",
    device: str | None = None,
) -> DaclipScorer:
    """DACLIP-IQA on the DA-CLIP in a file.

    Args:
        name: of the scorer.
        weights: a path, or ``hf://OWNER/REPOSITORY[@REVISION]/FILE[#SHA256]``, see ``find_weights``.
        views: ``centre`` or ``tiles``. Default: as the rule in the file says.
        tiles: largest number of tiles.
        words: which count as degraded, see :func:`choose_words`. Default: as the rule in the file says.
        precision: precision of the image tower.
        device: ``cpu`` or ``cuda``. Default: a GPU if there is one.

    Raises:
        ScorerError: the weights cannot be read, or the words or the device do not exist.
    """
    rule = load_rule(weights)
    if words is not None:
        rule = choose_words(rule, words)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_daclip(weights)
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ScorerError(f"device '{device}' cannot be used ({error}): choose cpu or cuda") from error
    return DaclipScorer(model, rule, views or rule.views, name, tiles=tiles, precision=precision)


open_released = partial(open_daclip, "daclip", weights=f"{_HUB}/daclip_ViT-B-32.pt")
"""DACLIP-IQA on a DA-CLIP, by default the released one; see :func:`open_daclip`."""
open_mix = partial(open_daclip, "daclip-mix", weights=f"{_HUB}/daclip_ViT-B-32_mix.pt")
"""DACLIP-IQA on the released DA-CLIP that was also trained on mixed degradations."""
open_lite = partial(open_daclip, "daclip-lite")
"""DACLIP-IQA on the weights of this package."""

"""Published no-reference metrics by name, through pyiqa: musiq, clipiqa, nima, qalign, niqe, ...

pyiqa states for each metric whether lower is better and the range of its scores; :func:`to_log_odds` turns
them into log-odds. Each metric is given the whole image at native resolution, one at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import math
import pickle
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
import yaml
from numpy.typing import NDArray

from iqa_service.errors import ScorerError
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.views import check_image
from rgsud_core.errors import first_line, nearest
from rgsud_core.settings import read_yaml
from rgsud_core.weights import WeightsError, read_torch

_VERSION = 1
"""Increase when the same metric scores differently."""
_EDGE = 1e-2
"""Share of the range at either end in which log-odds continue as a straight line."""
_OF_SETS = {"FID", "InceptionScore", "CLIPScore"}
"""Architectures that compare sets of images, or an image with a caption."""


@dataclass(frozen=True)
class Scale:
    """Range and direction of a metric's scores."""

    low: float | None
    """Lower bound, strict or rough; None if pyiqa states none."""
    high: float | None
    lower_better: bool


def to_log_odds(score: float, scale: Scale) -> float:
    """The log-odds of a metric's score: higher is better, strictly monotone, finite for every finite score.

    Between two bounds: logit(p), p being the share of the range from its bad end up. Bounds are often rough,
    so in the outer hundredths and beyond, logit goes on as its tangent. Without both bounds: the score
    itself, with its sign turned where lower is better.
    """
    if scale.low is None or scale.high is None:
        return -score if scale.lower_better else score
    above, below = score - scale.low, scale.high - score
    good, bad = (below, above) if scale.lower_better else (above, below)
    width = scale.high - scale.low
    if min(good, bad) >= _EDGE * width:
        return math.log(good / bad)
    side, share = (-1, good / width) if good < bad else (1, bad / width)
    return side * (math.log((1 - _EDGE) / _EDGE) + (_EDGE - share) / (_EDGE * (1 - _EDGE)))


def from_log_odds(log_odds: float, scale: Scale) -> float:
    """The metric's score of these log-odds: the inverse of :func:`to_log_odds`."""
    if scale.low is None or scale.high is None:
        return -log_odds if scale.lower_better else log_odds
    odds = abs(log_odds)
    limit = math.log((1 - _EDGE) / _EDGE)
    share = 1 / (1 + math.exp(odds)) if odds <= limit else _EDGE - (odds - limit) * _EDGE * (1 - _EDGE)
    good = share if log_odds < 0 else 1 - share
    width = scale.high - scale.low
    return scale.high - good * width if scale.lower_better else scale.low + good * width


class MetricBackend(ScoreBackend):
    """A metric of pyiqa in this process.

    The same image always gets the same score: metrics that sample random crops draw the same ones.

    Args:
        name: name of the metric in pyiqa.
        device: ``cpu`` or ``cuda``. Default: a GPU if there is one.
        weights: a local file in place of the weights that pyiqa downloads: a state dict (.pth, .pt), or the
            pristine model of niqe (.mat, or .npz as BasicSR has it).
        options: options of the metric's architecture in pyiqa, such as ``pretrained``.

    Raises:
        ScorerError: pyiqa is not installed, knows no such metric, or cannot open it.
    """

    def __init__(self, name: str, device: str | None, weights: Path | None, options: dict[str, Any]) -> None:
        import pyiqa
        from pyiqa.version import __version__

        self.name = name
        state = None
        with tempfile.TemporaryDirectory() as scratch, _reproducible(), _errors_of(name):
            if weights is not None:
                if not weights.is_file():
                    raise ScorerError(f"no weights at '{weights}': give the path of a file")
                if weights.suffix in (".mat", ".npz"):
                    options["pretrained_model_path"] = str(_as_mat(weights, Path(scratch)))
                else:
                    state = _read_state(weights)
                    options.setdefault("pretrained", None)
            self._metric: Any = pyiqa.create_metric(
                name, device=torch.device(device) if device else None, **options
            )
            if state is not None:
                self._metric.net.load_state_dict(state)
        self.scale = _scale(self._metric.score_range, bool(self._metric.lower_better))
        self.unit, self.lower_better = name, self.scale.lower_better
        options.pop("pretrained_model_path", None)
        self.fingerprint = _fingerprint(
            self._metric.net, [_VERSION, __version__, name, sorted(options.items())]
        )

    def in_unit(self, log_odds: float) -> float:
        """The metric's own score of an image."""
        return from_log_odds(log_odds, self.scale)

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """See :meth:`iqa_service.scorers.base.ScoreBackend.score`."""
        return np.array([self._score(candidate) for candidate in candidates], np.float32)

    def _score(self, candidate: Candidate) -> float:
        who = f"candidate '{candidate.id}'"
        check_image(candidate.image, who)
        pixels = torch.from_numpy(candidate.image.astype(np.float32) / 255).permute(2, 0, 1)[None]
        try:
            with _reproducible(), contextlib.redirect_stdout(sys.stderr):
                value = float(self._metric(pixels))
        except Exception as error:  # each metric fails in its own way, mostly where an image is too small
            height, width = candidate.image.shape[:2]
            raise ScorerError(
                f"{self.name} cannot score {who}, {width} x {height} pixels ({first_line(error)})"
            ) from error
        if not math.isfinite(value):
            raise ScorerError(
                f"{self.name} gave {value} for {who}: leave the image out or take another scorer"
            )
        return to_log_odds(value, self.scale)


def open_metric(
    name: str, known: Sequence[str], /, weights: Path | None = None, device: str | None = None, **options: str
) -> MetricBackend:
    """The metric that pyiqa has under this name; ``device``, ``weights`` and its own options as text (YAML).

    Raises:
        ScorerError: see :class:`MetricBackend`; a metric that needs more than the image is refused too.
    """
    if importlib.util.find_spec("pyiqa") is None:
        raise ScorerError(
            f"unknown scorer 'local:{name}': {nearest(f'local:{name}', known)} "
            "The metrics of pyiqa come with pip install 'rgsud[metrics]'"
        )
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    fit = [
        metric
        for metric, config in DEFAULT_CONFIGS.items()
        if config["metric_mode"] == "NR" and config["metric_opts"]["type"] not in _OF_SETS
    ]
    if name in DEFAULT_CONFIGS and name not in fit:
        raise ScorerError(
            f"'{name}' needs more than the one image that is scored: take a no-reference metric"
        )
    if name not in fit:
        known = [*known, *(f"local:{metric}" for metric in fit)]
        raise ScorerError(f"unknown scorer 'local:{name}': {nearest(f'local:{name}', known)}")
    try:
        return MetricBackend(name, device, weights, {key: read_yaml(value) for key, value in options.items()})
    except yaml.YAMLError as error:
        raise ScorerError(f"the options of 'local:{name}' are not valid ({first_line(error)})") from error


def _scale(stated: str | None, lower_better: bool) -> Scale:
    bounds = [part.strip().lstrip("~") for part in (stated or ",").split(",")]
    low, high = (float(bound) if bound else None for bound in bounds)
    return Scale(low, high, lower_better)


def _as_mat(path: Path, folder: Path) -> Path:
    if path.suffix == ".mat":
        return path
    with np.load(path) as pristine:
        content = {"mu_prisparam": pristine["mu_pris_param"], "cov_prisparam": pristine["cov_pris_param"]}
    scipy.io.savemat(folder / "pristine.mat", content)
    return folder / "pristine.mat"


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    state: Any = read_torch(path)
    for key in ("params", "state_dict"):
        state = state.get(key, state)
    return {key.removeprefix("module."): value for key, value in state.items()}


def _fingerprint(net: torch.nn.Module, options: list[Any]) -> str:
    digest = hashlib.sha256(json.dumps(options, default=str).encode())
    # Some metrics hold their statistics as plain attributes, which no state dict lists.
    for name, module in net.named_modules():
        plain = {key: value for key, value in vars(module).items() if isinstance(value, torch.Tensor)}
        for key, tensor in sorted({**plain, **module.state_dict()}.items() if not name else plain.items()):
            digest.update(f"{name} {key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Turns every error of opening a metric into a ScorerError; its prints go to standard error."""
    logging.getLogger("pyiqa").setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except ScorerError:
        raise
    except WeightsError as error:
        raise ScorerError(str(error)) from error
    except pickle.UnpicklingError as error:
        raise ScorerError(
            f"the weights given to 'local:{name}' are not plain tensors: give a state dict"
        ) from error
    except Exception as error:  # pyiqa and the packages below it have no error class of their own
        raise ScorerError(
            f"cannot open 'local:{name}' ({first_line(error)}): its weights are downloaded "
            f"unless given, local:{name}?weights=PATH, and its other options are those of pyiqa"
        ) from error


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    before = np.random.get_state()  # noqa: NPY002 - the generator that pyiqa draws from
    with torch.random.fork_rng():
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002

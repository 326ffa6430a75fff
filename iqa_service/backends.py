"""Where scores come from: a scorer in this process, or a control, behind one string."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from iqa_service.consistency import inconsistency
from iqa_service.controls import LatestBackend, OracleBackend, RandomBackend
from iqa_service.errors import ScorerError
from iqa_service.scorer import LITE_WEIGHTS, Candidate, Scorer, open_daclip
from iqa_service.views import Image, check_image


class ScoreBackend(Protocol):
    """Scores candidates, wherever that happens."""

    name: str
    fingerprint: str
    """Scores with different fingerprints must never be compared."""

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """Log-odds of "not degraded" of N candidates, higher is better, float32 N.

        Raises:
            ScorerError: a candidate is no uint8 H,W,3 image, or the scorer fails on it.
        """
        ...

    def close(self) -> None:
        """Let go of whatever the backend holds."""
        ...


class LocalBackend:
    """A scorer in this process; candidates of one size are scored in one batch.

    Args:
        scorer: sees the derained image alone.
        consistency: log-odds taken off for each level of :func:`inconsistency` with the rainy image, which
            candidates must then bring; 0 leaves the scorer's own log-odds.
    """

    def __init__(self, scorer: Scorer, consistency: float = 0.0) -> None:
        self.name = scorer.name
        self.fingerprint = scorer.fingerprint + (f"-consistency-{consistency:g}" if consistency else "")
        self._scorer = scorer
        self._consistency = consistency

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """See :meth:`ScoreBackend.score`."""
        by_count: dict[int, list[tuple[int, Image]]] = {}
        for index, candidate in enumerate(candidates):
            check_image(candidate.image, f"candidate '{candidate.id}'")
            views = self._scorer.views(candidate.image)
            by_count.setdefault(len(views), []).append((index, views))
        scores = np.array([-self._penalty(candidate) for candidate in candidates], np.float32)
        for group in by_count.values():
            scores[[index for index, _ in group]] += self._scorer.score(
                np.stack([views for _, views in group])
            )
        return scores

    def _penalty(self, candidate: Candidate) -> float:
        if not self._consistency:
            return 0.0
        if candidate.rainy is None:
            raise ScorerError(
                f"candidate '{candidate.id}' lacks its rainy image, which consistency={self._consistency:g} "
                "compares with: give it, or leave the option out"
            )
        return self._consistency * inconsistency(candidate.image, candidate.rainy)

    def close(self) -> None:
        """Nothing to let go of."""


def _lite(device: str | None = None, consistency: str = "0") -> ScoreBackend:
    scorer = open_daclip(LITE_WEIGHTS, name="daclip-lite", device=device)
    return LocalBackend(scorer, _weight("consistency", consistency))


def _daclip(
    weights: str, views: str | None = None, device: str | None = None, consistency: str = "0"
) -> ScoreBackend:
    return LocalBackend(open_daclip(weights, views, device=device), _weight("consistency", consistency))


def _weight(option: str, value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise ScorerError(f"option '{option}' is '{value}', not a number from 0 up: write {option}=0.25")
    return weight


_OPENERS: dict[str, Callable[..., ScoreBackend]] = {
    "local:daclip-lite": _lite,
    "local:daclip": _daclip,
    "local:oracle": OracleBackend,
    "local:latest": LatestBackend,
    "local:random": RandomBackend,
}


def open_scorer(spec: str) -> ScoreBackend:
    """The backend that a string names.

    ``local:daclip-lite`` (the weights of this package), ``local:daclip?weights=PATH&views=centre|tiles`` (any
    DA-CLIP; PATH may be ``hf://OWNER/REPOSITORY/FILE``), with ``device=cpu|cuda`` and ``consistency=0.25``
    (see :class:`LocalBackend`; off when left out); and the controls
    ``local:oracle?truth=FOLDER``, ``local:latest?start=0``, ``local:random?seed=0``.

    Raises:
        ScorerError: the string names no backend (the nearest known one is given), has an unknown, missing or
            malformed option, or the backend cannot be opened.
    """
    name, _, query = spec.partition("?")
    if name not in _OPENERS:
        raise ScorerError(f"unknown scorer '{name}': {_nearest(name, _OPENERS)}")
    opener = _OPENERS[name]
    options: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    known = inspect.signature(opener).parameters
    for option in options:
        if option not in known:
            raise ScorerError(f"unknown option '{option}' of '{name}': {_nearest(option, known)}")
    for option, parameter in known.items():
        if option not in options and parameter.default is inspect.Parameter.empty:
            raise ScorerError(f"'{name}' needs the option '{option}': write {name}?{option}=...")
    return opener(**options)


def _nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known) or 'none'}"

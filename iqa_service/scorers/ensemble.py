"""An ensemble: several scorers combined by the rank that each assigns to an image within a reference set.

Ranks among the candidates of a batch would not be comparable over time, so each member's score is looked up
in a fixed distribution: the quantiles of its scores on reference images, kept in a file. The ensemble's score
is the log-odds of the mean rank.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.special import logsumexp

from iqa_service.errors import ScorerError
from iqa_service.scorers.base import Candidate, ScoreBackend
from rgsud_core.addresses import split_outside_brackets

_VERSION = 1
"""Increase when the same members and reference score differently."""
_QUANTILES = 64
_FEWEST = 8
"""Smallest number of reference images; the fewer there are, the coarser the ranks."""
Floats = NDArray[np.float64]
Open = Callable[[str], ScoreBackend]
"""Opens the scorer of an address, as :func:`iqa_service.registry.open_scorer` does."""


class MemberReference(BaseModel):
    """Distribution of one member's scores over the reference images."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    spec: str
    fingerprint: str
    scores: tuple[float, ...]
    """Log-odds at ``ranks``, strictly rising."""
    ranks: tuple[float, ...]
    """Fraction of the reference images below each score, in (0, 1), strictly rising."""


class Reference(BaseModel):
    """The file that ``rgsud scorer reference`` writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int
    members: tuple[MemberReference, ...]


class EnsembleBackend(ScoreBackend):
    """The log-odds of the mean of its members' ranks.

    A member's rank of an image is sigmoid(z), z being linear in its log-odds between the reference's
    quantiles, and beyond the outermost as steep as from the lowest to the highest, so that no two scores
    have the same rank.

    Args:
        open_scorer: opens a member.
        of: members with commas between them, options in brackets: ``daclip-lite(views=centre),niqe``. One
            without a scheme is ``local:``.
        reference: path of the file with their distributions.

    Raises:
        ScorerError: a member cannot be opened, or the file cannot be read or is of other members.
    """

    name = "ensemble"

    def __init__(self, open_scorer: Open, /, of: str, reference: Path) -> None:
        specs = member_specs(of)
        try:
            content = reference.read_bytes()
            parsed = Reference.model_validate_json(content)
        except OSError as error:
            raise ScorerError(
                f"no reference '{reference}' ({error.strerror}): write one with "
                f"rgsud scorer reference '{of}' IMAGE... --output FILE"
            ) from error
        except ValidationError as error:
            raise ScorerError(
                f"'{reference}' is no reference of an ensemble ({error.errors()[0]['msg']}): write it anew"
            ) from error
        self._members = [open_scorer(spec) for spec in specs]
        self._references = parsed.members
        made_for = [member.fingerprint for member in parsed.members]
        if made_for != [member.fingerprint for member in self._members]:
            raise ScorerError(
                f"'{reference}' was made for {', '.join(member.spec for member in parsed.members)}, which "
                f"do not score as {', '.join(specs)} do: write it anew with rgsud scorer reference"
            )
        version = json.dumps([_VERSION, made_for]).encode()
        self.fingerprint = "ensemble-" + hashlib.sha256(version + content).hexdigest()[:23]

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """See :meth:`ScoreBackend.score`."""
        logits = [
            _rank(member.score(candidates).astype(np.float64), reference)
            for member, reference in zip(self._members, self._references, strict=True)
        ]
        # log(mean rank) - log(mean of 1 - rank), all in logarithms, or ranks near 1 would run together.
        odds: Floats = logsumexp(-np.logaddexp(0, -np.array(logits)), axis=0)
        odds -= logsumexp(-np.logaddexp(0, np.array(logits)), axis=0)
        return odds.astype(np.float32)

    def close(self) -> None:
        """Close the members."""
        for member in self._members:
            member.close()


def member_specs(of: str) -> list[str]:
    """The specs that an ensemble's option ``of`` holds.

    Raises:
        ScorerError: a bracket has no counterpart, or there are fewer than two members.
    """
    specs = []
    for part in split_outside_brackets(of, ",", ScorerError):
        name, bracket, options = part.strip().partition("(")
        full = name if ":" in name else f"local:{name}"
        specs.append(full + ("?" + options.removesuffix(")") if bracket else ""))
    if len(specs) < 2:
        raise ScorerError(f"an ensemble of '{of}' has one member: name two or more with commas between them")
    return specs


def write_reference(open_scorer: Open, of: str, candidates: Sequence[Candidate], path: Path) -> Reference:
    """Score reference images with each member and keep the quantiles.

    Args:
        open_scorer: opens a member.
        of: members, see :class:`EnsembleBackend`.
        candidates: at least 8 images like those to be ranked: derained ones, good and bad.
        path: path of the file.

    Raises:
        ScorerError: too few images, or a member gives all of them the same score.
    """
    if len(candidates) < _FEWEST:
        raise ScorerError(f"a reference of {len(candidates)} images ranks nothing: give at least {_FEWEST}")
    members = []
    for spec in member_specs(of):
        backend = open_scorer(spec)
        members.append(_reference(spec, backend, candidates))
        backend.close()
    reference = Reference(images=len(candidates), members=tuple(members))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(reference.model_dump_json(indent=1) + "\n")
    return reference


def _reference(spec: str, backend: ScoreBackend, candidates: Sequence[Candidate]) -> MemberReference:
    scores = backend.score(candidates).astype(np.float64)
    ranks = (np.arange(1, min(_QUANTILES, len(scores)) + 1) - 0.5) / min(_QUANTILES, len(scores))
    values = np.quantile(scores, ranks)
    # Scores that several reference images share get the mean of their ranks.
    unique, place = np.unique(values, return_inverse=True)
    if len(unique) < 2:
        raise ScorerError(f"'{spec}' gives all {len(scores)} reference images one score: leave it out")
    middle = np.bincount(place, ranks) / np.bincount(place)
    return MemberReference(
        spec=spec,
        fingerprint=backend.fingerprint,
        scores=tuple(unique.tolist()),
        ranks=tuple(middle.tolist()),
    )


def _rank(scores: Floats, reference: MemberReference) -> Floats:
    """Logits of the ranks of N scores, strictly rising with them."""
    x, p = np.array(reference.scores), np.array(reference.ranks)
    z = np.log(p) - np.log1p(-p)
    slope = (z[-1] - z[0]) / (x[-1] - x[0])
    beyond = np.maximum(scores - x[-1], 0) + np.minimum(scores - x[0], 0)
    ranked: Floats = np.interp(scores, x, z) + slope * beyond
    return ranked

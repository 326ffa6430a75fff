"""Scorers heard together, by the ranks that they give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from iqa_service.errors import ScorerError
from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate
from iqa_service.scorers.ensemble import EnsembleBackend, member_specs, write_reference

OF = "random(seed=1),local:random(seed=2)"
IMAGE = np.zeros((4, 4, 3), np.uint8)


def candidates(count: int, name: str = "x") -> list[Candidate]:
    return [Candidate(f"{name}{number}", IMAGE) for number in range(count)]


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    write_reference(open_scorer, OF, candidates(400), tmp_path / "made/reference.json")
    return tmp_path / "made/reference.json"


def test_members_may_have_options_and_members_of_their_own() -> None:
    assert member_specs("daclip-lite(views=centre&tiles=4), niqe,http://h:1/s(timeout_s=3)") == [
        "local:daclip-lite?views=centre&tiles=4",
        "local:niqe",
        "http://h:1/s?timeout_s=3",
    ]
    assert member_specs("a,ensemble(of=b(c=d),e&reference=f)")[1] == "local:ensemble?of=b(c=d),e&reference=f"


def test_the_score_is_the_log_odds_of_the_mean_rank(reference: Path) -> None:
    ensemble = open_scorer(f"local:ensemble?of={OF}&reference={reference}")
    seen = candidates(400)
    ranks = []
    for seed in (1, 2):
        scores = open_scorer(f"local:random?seed={seed}").score(seen)
        ranks.append((scores.argsort().argsort() + 0.5) / 400)
    expected = np.mean(ranks, axis=0)
    got = 1 / (1 + np.exp(-ensemble.score(seen)))
    assert got == pytest.approx(expected, abs=0.02)
    assert ensemble.score(seen).dtype == np.float32


def test_a_score_depends_on_no_other_candidate(reference: Path) -> None:
    ensemble = open_scorer(f"local:ensemble?of={OF}&reference={reference}")
    many = candidates(20, "new")
    together = ensemble.score(many)
    assert together == pytest.approx([float(ensemble.score([one])[0]) for one in many], abs=1e-6)
    assert len(set(together.tolist())) == 20


def test_beyond_the_reference_better_is_still_better(tmp_path: Path) -> None:
    write_reference(open_scorer, "latest,latest(start=50)", candidates(100), tmp_path / "r.json")
    high, low = (
        open_scorer(f"local:ensemble?of=latest,latest(start=50)&reference={tmp_path / 'r.json'}")
        for _ in range(2)
    )
    rising = high.score(candidates(3000))
    assert np.isfinite(rising).all()
    assert (np.diff(rising) > 0).all()
    assert low.fingerprint == high.fingerprint


def test_the_fingerprint_is_of_members_and_reference(reference: Path, tmp_path: Path) -> None:
    first = EnsembleBackend(open_scorer, OF, reference).fingerprint
    write_reference(open_scorer, OF, candidates(300), tmp_path / "other.json")
    assert EnsembleBackend(open_scorer, OF, tmp_path / "other.json").fingerprint != first
    with pytest.raises(ScorerError, match=r"was made for local:random\?seed=1, .* do not score as"):
        EnsembleBackend(open_scorer, "random(seed=1),random(seed=3)", reference)


def test_bad_input_is_named(reference: Path, tmp_path: Path) -> None:
    for of, path, message in (
        (OF, tmp_path / "absent.json", "no reference '.*absent.json'.*rgsud scorer reference"),
        ("random", reference, "has one member"),
        ("random(seed=1,random", reference, "no counterpart"),
        ("random,radnom", reference, "did you mean 'local:random'"),
    ):
        with pytest.raises(ScorerError, match=message):
            EnsembleBackend(open_scorer, of, path)
    content = json.loads(reference.read_text())
    content["extra"] = 1
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(ScorerError, match="is no reference of an ensemble"):
        EnsembleBackend(open_scorer, OF, tmp_path / "bad.json")
    with pytest.raises(ScorerError, match="a reference of 3 images"):
        write_reference(open_scorer, OF, candidates(3), tmp_path / "few.json")
    same = [Candidate("x", IMAGE)] * 9
    with pytest.raises(ScorerError, match=r"'local:random\?seed=1' gives all 9 reference images one score"):
        write_reference(open_scorer, OF, same, tmp_path / "same.json")

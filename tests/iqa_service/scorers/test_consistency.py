"""What the rainy image says about a derained one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from iqa_service.errors import ScorerError
from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.consistency import SHIFTED, TAKEN, ConsistentBackend, consistency
from iqa_service.scorers.views import Views
from rgsud_core.degradation.rendered import add_rain, random_look
from rgsud_core.images import Image


class Indifferent(ScoreBackend):
    """A scorer to which all images are equally good."""

    name = fingerprint = "indifferent"
    views = Views(kind="centre", size=8)

    def score_views(self, views: Image) -> np.ndarray:
        return np.full(len(views), 2, np.float32)


@pytest.fixture
def pair() -> tuple[Image, Image]:
    rng = np.random.default_rng(3)
    rows = np.linspace(40, 180, 96, dtype=np.float32)[:, None, None]
    clean = np.rint(np.clip(rows + rng.normal(0, 8, (96, 96, 3)), 0, 255)).astype(np.uint8)
    return clean, add_rain(clean, random_look(rng), rng)


def test_the_more_rain_is_gone_the_better(pair: tuple[Image, Image]) -> None:
    clean, rainy = pair
    half = (rainy - (rainy - clean) // 2).astype(np.uint8)
    assert consistency(clean, rainy) > consistency(half, rainy) > consistency(rainy, rainy) == 0


def test_a_cast_added_light_and_blur_are_worse(pair: tuple[Image, Image]) -> None:
    clean, rainy = pair
    spotted = clean.copy()
    spotted[20:40, 20:40] += 60
    blurred = ndimage.uniform_filter(clean, (5, 5, 1))
    cast = clean.copy()
    cast[..., 0] += 12
    for worse in (spotted, blurred, cast):
        assert consistency(worse, rainy) < consistency(clean, rainy) - 1


def test_a_shift_counts_though_it_takes_light(pair: tuple[Image, Image]) -> None:
    clean, _ = pair
    darker = clean - np.uint8(12)
    assert consistency(darker, clean) == pytest.approx((TAKEN * 219 / 255 - SHIFTED) * 12, rel=1e-3)


def test_a_backend_adds_it_to_the_log_odds(pair: tuple[Image, Image]) -> None:
    clean, rainy = pair
    candidates = [Candidate("a", clean, rainy), Candidate("a", clean - np.uint8(12), rainy)]
    plain, strict = Indifferent(), ConsistentBackend(Indifferent(), 0.5)
    expected = [2 + 0.5 * consistency(c.image, rainy) for c in candidates]
    np.testing.assert_array_equal(plain.score(candidates), [2, 2])
    np.testing.assert_allclose(strict.score(candidates), expected, rtol=1e-5)
    gentle = ConsistentBackend(plain, 0.25)
    assert len({b.fingerprint for b in (plain, strict, gentle)}) == 3


def test_bad_input_is_named(pair: tuple[Image, Image]) -> None:
    clean, rainy = pair
    with pytest.raises(ScorerError, match=r"candidate 'street' lacks its rainy image"):
        ConsistentBackend(Indifferent(), 0.5).score([Candidate("street", clean)])
    with pytest.raises(ScorerError, match=r"\(96, 96, 3\) and its rainy image \(96, 95, 3\)"):
        consistency(clean, rainy[:, :95])
    for value in ("much", "-1", "nan", "inf"):
        with pytest.raises(
            ScorerError, match=f"'consistency' of 'local:random' is '{value}': input should be"
        ):
            open_scorer(f"local:random?consistency={value}")


def test_every_scorer_can_be_held_to_it(pair: tuple[Image, Image]) -> None:
    clean, rainy = pair
    candidate = Candidate("a", clean - np.uint8(12), rainy)
    for spec in ("local:latest?start=3", "local:random", "local:daclip-lite"):
        option = "&" if "?" in spec else "?"
        held = open_scorer(f"{spec}{option}consistency=0.5").score([candidate])
        expected = open_scorer(spec).score([candidate]) + 0.5 * consistency(candidate.image, rainy)
        np.testing.assert_allclose(held, expected, rtol=1e-5)

import math

import numpy as np
import pytest
import scipy.ndimage

from rgsud_core.degradation.rendered import RainLayer, RainLook, render_rain
from rgsud_core.images import Image
from trainer.errors import TrainerError
from trainer.restore.judge import UnpairedEvaluation, judge

SKY = np.full((160, 200), 0.3) + np.linspace(0, 0.1, 160)[:, None]
STREAKS = RainLook((RainLayer(length=30, width=1.6, angle=8, density=16, blur=0.4, brightness=0.4),))
RAIN = render_rain(160, 200, STREAKS, np.random.default_rng(1))
NOISE = 0.008 * np.random.default_rng(2).standard_normal((160, 200))


def image(plane: np.ndarray) -> Image:
    return np.rint(255 * plane.clip(0, 1))[..., None].repeat(3, axis=2).astype(np.uint8)


def measured(derained: np.ndarray, rainy: np.ndarray = SKY + RAIN):
    after = image(derained)
    return judge("sky", image(rainy), after, after[:, ::-1])


def test_what_does_nothing_leaves_everything():
    scores = measured(SKY + RAIN)
    assert scores.area > 10_000
    assert scores.left == pytest.approx(1, abs=0.02)
    assert scores.pattern == pytest.approx(1, abs=0.02)
    assert scores.taken == pytest.approx(0, abs=0.01)
    assert scores.mirrored == math.inf


def test_the_truth_leaves_nothing_and_takes_nothing():
    scores = measured(SKY)
    assert scores.left < 0.02
    assert scores.taken < 0.02
    assert scores.brightness == pytest.approx(-255 * RAIN.mean(), abs=0.5)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_left_is_a_share_of_the_energy(share: float):
    assert measured(SKY + share * RAIN).left == pytest.approx(share**2, abs=0.05)


def test_darkening_takes_the_scene():
    assert measured(0.7 * (SKY + RAIN)).taken > 1
    assert measured(SKY - RAIN).taken == pytest.approx(1, abs=0.1)


def test_a_denoiser_wins_by_energy_but_not_by_pattern():
    noisy = SKY + 0.3 * RAIN + 1.5 * NOISE
    along = scipy.ndimage.gaussian_filter1d(noisy, 2, axis=0)  # smooths the grain, keeps upright streaks
    scores = measured(along, noisy)
    assert scores.left < 0.8
    assert scores.pattern > scores.left + 0.05


@pytest.mark.parametrize("angle", [70, 90])
def test_what_lies_on_its_side_is_no_rain(angle: float):
    look = RainLook((RainLayer(length=30, width=1.6, angle=angle, density=16, blur=0.4, brightness=0.4),))
    street = SKY + render_rain(160, 200, look, np.random.default_rng(1))
    assert measured(street, street).area == 0


def test_grain_is_no_rain():
    scores = measured(SKY + NOISE, SKY + NOISE)
    assert scores.area == 0
    assert math.isnan(scores.left)


def test_sizes_must_be_equal():
    with pytest.raises(TrainerError, match=r"'sky' is .*: sizes must be equal"):
        judge("sky", image(SKY), image(SKY[:80]), image(SKY))


def test_means_are_over_the_photographs_that_have_the_measure():
    rows = [measured(SKY + 0.5 * RAIN), measured(SKY + NOISE, SKY + NOISE)]
    both = UnpairedEvaluation(rows=rows)
    assert both.mean("left") == rows[0].left
    assert len(both.judged) == 1

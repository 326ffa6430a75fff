import dataclasses

import numpy as np
import pytest

from rgsud_core.degradation.rendered import RainLayer, RainLook, add_rain, random_look, render_rain

STREAKS = RainLayer(length=40, width=1.5, angle=0, density=8, blur=0.3, brightness=0.6)


def rendered(layer: RainLayer, seed: int = 0, height: int = 200, width: int = 300) -> np.ndarray:
    return render_rain(height, width, RainLook((layer,)), np.random.default_rng(seed))


def orientation(rain: np.ndarray) -> float:
    """Lean from the vertical in degrees, by the structure tensor; positive towards the lower left."""
    gy, gx = np.gradient(rain.astype(float))
    across = 0.5 * np.arctan2(2 * (gx * gy).sum(), (gx * gx - gy * gy).sum())
    return float(np.degrees(across))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


def test_rain_is_a_map_in_the_unit_range_that_the_seed_decides():
    rain = rendered(STREAKS)
    assert rain.shape == (200, 300)
    assert rain.dtype == np.float32
    assert 0 <= rain.min() <= rain.max() <= 1
    assert rain.max() > 0.4
    assert np.array_equal(rain, rendered(STREAKS))
    assert not np.array_equal(rain, rendered(STREAKS, seed=1))


@pytest.mark.parametrize("angle", [-30, 0, 20])
def test_streaks_lean_as_told(angle):
    # Thick, soft streaks: on thin ones a central difference leans towards the diagonals.
    soft = dataclasses.replace(STREAKS, angle=angle, width=4, blur=1.5)
    assert orientation(rendered(soft)) == pytest.approx(angle, abs=4)


def test_length_density_brightness_and_blur_each_do_their_own_thing():
    base = rendered(STREAKS)

    def changed(**what: float) -> np.ndarray:
        return rendered(dataclasses.replace(STREAKS, **what))

    assert changed(length=80).mean() > 1.5 * base.mean()
    assert changed(density=16).mean() > 1.5 * base.mean()
    assert changed(brightness=0.3).max() < 0.7 * base.max()
    assert changed(blur=2).max() < 0.7 * base.max()
    assert changed(blur=2).mean() == pytest.approx(base.mean(), rel=0.3)
    assert changed(density=0).max() < 1e-6


def test_rain_covers_the_image_to_its_borders():
    coverage = np.mean([rendered(STREAKS, seed) for seed in range(12)], axis=0)
    border = np.concatenate([coverage[:10].ravel(), coverage[-10:].ravel(), coverage[:, :10].ravel()])
    assert border.mean() == pytest.approx(coverage.mean(), rel=0.25)


def test_rain_brightens_and_is_nearly_grey():
    image = np.full((120, 160, 3), (60, 90, 120), np.uint8)
    rng = np.random.default_rng(3)
    wet = add_rain(image, random_look(rng), rng)
    assert wet.dtype == np.uint8
    assert wet.shape == image.shape
    gain = wet.astype(int) - image
    assert gain.min() >= 0
    assert gain.max() > 30
    assert np.abs(gain[..., 0] * (1 - 45 / 255) - gain[..., 2] * (1 - 30 / 255)).max() < 20


def test_an_image_smaller_than_a_streak_gets_rain_too():
    rng = np.random.default_rng(0)
    assert add_rain(np.zeros((7, 5, 3), np.uint8), RainLook((STREAKS,)), rng).shape == (7, 5, 3)


def test_random_looks_cost_what_rain100l_costs_and_strength_costs_more():
    image = np.tile(np.linspace(20, 220, 240).astype(np.uint8)[:, None, None], (1, 360, 3))

    def middle(strength: float) -> float:
        generators = [np.random.default_rng(seed) for seed in range(15)]
        return float(
            np.median([psnr(image, add_rain(image, random_look(r, strength), r)) for r in generators])
        )

    assert 24 < middle(1.0) < 28
    assert middle(0.5) > middle(1.0) > middle(2.0)

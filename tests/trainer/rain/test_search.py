import numpy as np
import PIL.Image
import pytest
import torch

from rgsud_core.degradation.rain import RainModel
from trainer.data.crops import UnpairedBatches
from trainer.data.folders import ImageFolder
from trainer.errors import TrainerError
from trainer.methods.sources import Flat, FlatSettings
from trainer.rain.bank import RainBank
from trainer.rain.radiance import find_radiance
from trainer.rain.search import RainSearchSettings, find_rain

SETTINGS = RainSearchSettings()


def streaks(height: int = 128, width: int = 160) -> np.ndarray:
    """Light of vertical streaks, H,W in [0,1], with gaps between them."""
    rng = np.random.default_rng(1)
    light = np.zeros((height, width), np.float32)
    for _ in range(60):
        top, left = rng.integers(-20, height), rng.integers(width)
        light[max(top, 0) : top + 24, left] += rng.uniform(0.05, 0.3)
    return light


def sky(height: int = 128, width: int = 160) -> np.ndarray:
    """A bluish gradient, H,W,3 in [0,1]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([0.25 + y / 800, 0.30 + y / 800, 0.40 + y / 900 + x / 4000], -1)


def image(scene: np.ndarray, light: np.ndarray | float = 0.0) -> np.ndarray:
    added = scene + (light[..., None] if isinstance(light, np.ndarray) else light)
    return np.rint(255 * added.clip(0, 1)).astype(np.uint8)


def test_rain_before_a_gradient_is_found_as_it_is():
    light = streaks()
    rain = find_rain(image(sky(), light), SETTINGS)
    assert rain.light.shape == rain.found.shape == light.shape
    inside = rain.found == 1
    assert inside.mean() > 0.8
    error = (rain.light - light)[inside]
    assert np.sqrt(np.square(error).mean()) < 0.1 * light.std()
    assert rain.light.min() >= 0


def test_of_rain_that_is_blended_in_the_opacity_is_found_where_the_scene_is_darker():
    opacity, scene = streaks(), sky()
    scene[:, 96:] += 0.4
    rain = find_rain(
        image((1 - opacity[..., None]) * scene + opacity[..., None] * 0.6), SETTINGS, RainModel(0.6)
    )
    inside = rain.found[:, :80] == 1
    assert inside.mean() > 0.5
    error = (rain.light - opacity)[:, :80][inside]
    assert np.sqrt(np.square(error).mean()) < 0.2 * opacity.std()
    assert not rain.found[:, 112:].any()


@pytest.mark.parametrize("blended", [True, False])
def test_whether_rain_is_blended_in_shows_in_front_of_bright_scenes(tmp_path, blended):
    opacity = 0.5 * streaks()[..., None]
    for number in range(8):
        scene = sky() + 0.07 * number
        rainy = (1 - opacity) * scene + opacity * 0.6 if blended else scene + 0.5 * opacity
        PIL.Image.fromarray(image(rainy)).save(tmp_path / f"{number}.png")
    found = find_radiance(ImageFolder(tmp_path), SETTINGS, seed=0)
    assert found == (pytest.approx(0.6, abs=0.03) if blended else None)


@pytest.mark.parametrize("kind", ["coloured texture", "grey texture", "bright"])
def test_what_is_no_rain_or_hides_it_is_not_found(kind):
    rng = np.random.default_rng(0)
    scene = sky()
    if kind == "coloured texture":
        scene = scene + rng.normal(0, 0.05, scene.shape)
    elif kind == "grey texture":
        scene = scene + rng.normal(0, 0.05, (*scene.shape[:2], 1))
    else:
        scene = scene + 0.5
    rain = find_rain(image(scene, streaks()), SETTINGS)
    assert not rain.found.any()
    assert not rain.light.any()


def test_rain_ends_where_the_scene_is_no_longer_flat():
    scene = sky()
    scene[:, 96:] += np.random.default_rng(0).normal(0, 0.1, (128, 64, 3))
    rain = find_rain(image(scene, streaks()), SETTINGS)
    assert rain.found[:, 16:80].mean() > 0.9
    assert rain.light[:, 112:].max() == 0


def flakes(height: int = 128, width: int = 160) -> np.ndarray:
    """Light of round snowflakes, H,W in [0,1]."""
    rng = np.random.default_rng(2)
    light = np.zeros((height + 8, width + 8), np.float32)
    y, x = np.mgrid[-4:5, -4:5]
    for _ in range(160):
        top, left = rng.integers(height), rng.integers(width)
        light[top : top + 9, left : left + 9] += rng.uniform(0.1, 0.2) * np.exp(-(x**2 + y**2) / 4)
    return light[4:-4, 4:-4]


def test_snow_which_has_no_direction_is_found_too():
    rain = find_rain(image(sky(), flakes()), SETTINGS)
    assert rain.found[16:-16, 16:-16].mean() > 0.8


@pytest.mark.parametrize("stray", ["wire", "post"])
def test_what_is_not_like_the_rain_around_it_is_not_found(stray):
    light, scene = 0.5 * streaks(), sky()
    without = find_rain(image(scene, light), SETTINGS)
    place = np.s_[62:65, 40:] if stray == "wire" else np.s_[56:, 72:75]
    assert without.light[place].mean() > 0
    scene[place] += 0.3
    rain = find_rain(image(scene, light), SETTINGS)
    assert rain.found[place].mean() < 0.05
    assert rain.found[:24].mean() > 0.8
    assert np.allclose(rain.light[:24], without.light[:24], atol=1e-6)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rainy").mkdir()
    for number in range(3):
        light = np.roll(streaks(), 7 * number, axis=1)
        PIL.Image.fromarray(image(sky(), light)).save(tmp_path / "rainy" / f"{number}.png")
    noise = np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "rainy" / "noise.png")
    PIL.Image.fromarray(noise[:40, :40]).save(tmp_path / "rainy" / "small.png")
    return ImageFolder(tmp_path / "rainy")


class TestBank:
    def test_it_draws_the_rain_of_the_images_that_have_any(self, folder):
        bank = RainBank(folder, SETTINGS, crop=64, seed=0)
        assert len(bank) == 3
        rain = bank.draw(0, 5)
        assert (rain.shape, rain.dtype) == ((5, 1, 64, 64), torch.uint8)
        assert all(crop.max() > 10 for crop in rain)

    def test_a_draw_depends_on_its_number_and_the_seed_alone(self, folder):
        bank, again, other = (RainBank(folder, SETTINGS, crop=64, seed=seed) for seed in (0, 0, 1))
        ahead = [bank.draw(number, 2) for number in range(6)]
        for number in (5, 0, 3, 3):
            assert torch.equal(again.draw(number, 2), ahead[number])
        assert not torch.equal(other.draw(0, 2), ahead[0])
        assert not torch.equal(ahead[0], ahead[1])

    def test_examples_show_what_was_found_where(self, folder):
        examples = RainBank(folder, SETTINGS, crop=64, seed=0).examples(2)
        assert len(examples) == 2
        for id, shown, light in examples:
            assert np.array_equal(shown, folder.load_id(id))
            assert light.shape == shown.shape
            assert np.corrcoef(light[32:96, 32:128, 0].ravel(), shown[32:96, 32:128, 0].ravel())[0, 1] > 0.8

    def test_no_more_images_are_searched_than_are_wanted(self, folder):
        assert len(RainBank(folder, RainSearchSettings(images=2), crop=64, seed=0)) <= 2

    def test_where_nothing_is_flat_the_error_says_what_to_change(self, folder):
        with pytest.raises(
            TrainerError, match=r"no flat place of 64x64 pixels.*5 images.*give `flat` larger below"
        ):
            RainBank(folder, RainSearchSettings(chroma=1e-6), crop=64, seed=0)

    def test_batches_of_different_workers_have_different_rain(self, folder):
        flat = Flat(FlatSettings(name="flat", **SETTINGS.model_dump()))
        assert len(list(flat.prepare(folder, 32, 0, RainModel()))) == 2
        made = [
            UnpairedBatches(folder, folder, crop=32, batch=2, seed=0, rank=rank, world=2, sources=[flat])
            for rank in (0, 1)
        ]
        rain = [batches.batch(number).rain["flat"] for number in range(3) for batches in made]
        assert all(layers.shape == (2, 1, 32, 32) for layers in rain)
        assert len({layers.numpy().tobytes() for layers in rain}) == 6
        assert torch.equal(made[1].batch(2).rain["flat"], rain[5])

import numpy as np
import pytest

from iqa_service.pretraining.artefacts import ARTEFACTS, imitate
from iqa_service.pretraining.degradations import DEGRADATIONS, rainy
from iqa_service.scorers.daclip import WORDS
from rgsud_core.quality import psnr


@pytest.mark.parametrize("word", DEGRADATIONS)
def test_each_degradation_renders_and_its_generator_decides(word, china):
    before = china.copy()
    degrade = DEGRADATIONS[word]
    for seed in range(6):
        image = degrade(china, np.random.default_rng(seed))
        assert (image.dtype, image.shape) == (np.uint8, china.shape)
        assert psnr(image, china) < 45
        assert np.array_equal(image, degrade(china, np.random.default_rng(seed)))
    assert len({degrade(china, np.random.default_rng(seed)).tobytes() for seed in range(4)}) > 1
    assert np.array_equal(china, before)


def test_the_words_are_those_of_daclip():
    assert tuple(DEGRADATIONS) == WORDS


def detail(image):
    return np.abs(np.diff(image.astype(float), axis=1)).mean()


@pytest.mark.parametrize("seed", range(5))
def test_degradations_do_what_their_words_say(seed, china):
    def render(word):
        return DEGRADATIONS[word](china, np.random.default_rng(seed)).astype(float)

    assert detail(render("motion-blurry")) < detail(china)
    assert render("hazy").std() < china.std()
    assert render("low-light").mean() < 0.6 * china.mean()
    assert detail(render("noisy")) > detail(china)
    assert (render("rainy") >= china).all()
    assert (render("shadowed") <= china).all()
    assert (render("snowy") >= np.minimum(china, 219)).all()
    assert detail(render("jpeg-compressed")) != detail(china)


@pytest.mark.parametrize("fault", ARTEFACTS)
def test_a_fault_grows_with_its_strength(fault, china):
    wet = rainy(china, np.random.default_rng(0))
    clean, rain = china.astype(np.float32), wet.astype(np.float32) - china
    mask = np.clip(rain.max(axis=2, keepdims=True) / 16, 0, 1)

    def size(strength):
        added = ARTEFACTS[fault](clean, rain, mask, strength, np.random.default_rng(1))
        assert np.broadcast_shapes(added.shape, clean.shape) == clean.shape
        return np.abs(added).mean()

    assert 0 < size(0.3) < size(1.0)


def test_imitations_spread_over_the_range_of_derainers(china):
    wet = rainy(china, np.random.default_rng(0))
    quality = [psnr(imitate(china, wet, np.random.default_rng(seed)), china) for seed in range(40)]
    assert 15 < min(quality) < 27
    assert 33 < max(quality) < 100
    assert imitate(china, wet, np.random.default_rng(3)).dtype == np.uint8

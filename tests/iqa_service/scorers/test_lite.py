"""The weights of this package, on photographs that they were not trained on."""

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets

from iqa_service.pretraining.degradations import gaussian, to_uint8
from iqa_service.pretraining.train import LITE_RULE
from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate
from iqa_service.scorers.daclip_files import load_rule
from iqa_service.scorers.daclip_iqa import LITE_WEIGHTS
from rgsud_core.degradation.rendered import add_rain, random_look


@pytest.fixture(scope="module")
def lite():
    return open_scorer("local:daclip-lite")


@pytest.fixture(scope="module")
def scene():
    """Held out from the training by its name."""
    image = PIL.Image.fromarray(sklearn.datasets.load_sample_image("flower.jpg"))
    return np.asarray(image.resize((320, 213), PIL.Image.Resampling.BICUBIC))


def scores(lite, *images):
    return lite.score([Candidate("scene", image) for image in images])


@pytest.mark.parametrize("seed", range(3))
def test_rain_costs_and_more_rain_costs_more(lite, scene, seed):
    def wet(strength):
        return add_rain(
            scene, random_look(np.random.default_rng(seed), strength), np.random.default_rng(seed)
        )

    clean, light, heavy = scores(lite, scene, wet(0.4), wet(1.5))
    assert clean > light > heavy


def test_less_rain_left_over_is_better(lite, scene):
    rng = np.random.default_rng(0)
    rain = add_rain(scene, random_look(rng, 1.2), rng).astype(np.float32) - scene
    ordered = scores(lite, *(to_uint8(scene + share * rain) for share in (0, 0.25, 0.5, 0.75, 1)))
    assert (np.diff(ordered) < 0).all()


def test_smearing_does_not_pay(lite, scene):
    sharp, soft, blurred = scores(lite, *(to_uint8(gaussian(scene.astype(float), s)) for s in (0.01, 1.5, 3)))
    assert sharp > soft > blurred


def test_the_package_holds_the_weights_with_their_rule():
    assert load_rule(LITE_WEIGHTS) == LITE_RULE
    assert LITE_WEIGHTS.stat().st_size < 8e6
    assert LITE_WEIGHTS.with_suffix(".md").exists()

import numpy as np
import pytest
import torch

from iqa_service.errors import ScorerError
from iqa_service.scorers.base import Candidate
from iqa_service.scorers.daclip import WORDS, Rule
from iqa_service.scorers.daclip_iqa import DaclipScorer, choose_words, log_odds, open_daclip

RULE = Rule(words=WORDS, degraded=("rainy",))


def test_log_odds_are_those_of_the_softmax():
    logits = torch.tensor([[1.0, 2.0, 0.5], [-3.0, 4.0, 0.0]])
    p = logits.softmax(dim=1)[:, 1]
    odds = log_odds(logits, torch.tensor([False, True, False]))
    torch.testing.assert_close(odds, ((1 - p) / p).log())


def test_log_odds_do_not_saturate():
    assert log_odds(torch.tensor([[300.0, 0.0]]), torch.tensor([False, True])) == 300


def test_an_image_scores_the_mean_over_its_views(daclip, china):
    scorer = DaclipScorer(daclip, RULE, "tiles", "test")
    each = scorer.score_views(scorer.views.cut(china))
    assert scorer.score([Candidate("x", china)]) == pytest.approx(each.mean(), abs=1e-3)
    assert each.dtype == np.float32
    assert scorer.lower_better
    assert scorer.in_unit(-np.log(3)) == pytest.approx(0.75)


def test_the_score_of_released_words_is_the_odds_against_rainy(daclip, china):
    scorer = DaclipScorer(daclip, RULE, "centre", "test")
    image = torch.tensor(china).permute(2, 0, 1)[None]
    p = daclip.degradation_probabilities(image)[0, WORDS.index("rainy")].double()
    assert scorer.score_views(scorer.views.cut(china))[0] == pytest.approx(
        float(((1 - p) / p).log()), abs=1e-3
    )


def test_a_score_does_not_depend_on_the_rest_of_the_batch(daclip, china, flower):
    scorer = DaclipScorer(daclip, RULE, "tiles", "test")
    batch = [Candidate("x", image) for image in (flower, china, flower[::-1].copy())]
    assert scorer.score(batch)[1] == pytest.approx(scorer.score(batch[1:2])[0], abs=1e-3)
    assert np.array_equal(scorer.score(batch), scorer.score(batch))


def test_no_images_no_scores(daclip):
    scorer = DaclipScorer(daclip, RULE, "tiles", "test")
    assert scorer.score_views(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0,)
    assert scorer.score([]).shape == (0,)
    assert scorer.score([]).dtype == np.float32


def test_the_fingerprint_tells_weights_words_and_views_apart(daclip, full_daclip):
    def fingerprint(model=daclip, rule=RULE, views="tiles"):
        return DaclipScorer(model, rule, views, "test").fingerprint

    base = fingerprint()
    assert fingerprint() == base
    assert fingerprint(views="centre") != base
    assert fingerprint(rule=Rule(words=WORDS, degraded=("rainy", "snowy"))) != base
    assert fingerprint(rule=Rule(words=WORDS[3:], degraded=("rainy",))) != base
    with torch.no_grad():
        daclip.visual_control.proj[0, 0] += 1e-3
    assert fingerprint() != base
    # Tensors that no score depends on do not make another scorer.
    full = fingerprint(full_daclip)
    with torch.no_grad():
        full_daclip.visual.proj[0, 0] += 1
    assert fingerprint(full_daclip) == full


def test_wrong_views_and_damaged_weights_are_named(daclip):
    scorer = DaclipScorer(daclip, RULE, "tiles", "test")
    for views in (
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 16, 16, 3), np.uint8),
    ):
        with pytest.raises(ScorerError, match=r"cut them with this scorer's views.cut\(\)"):
            scorer.score_views(views)
    with torch.no_grad():
        daclip.visual_control.proj[0, 0] = torch.nan
    with pytest.raises(ScorerError, match="gave NaN"):
        scorer.score_views(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(ScorerError, match="unknown views 'tyles': choose centre or tiles"):
        DaclipScorer(daclip, RULE, "tyles", "test")


def test_memory_that_is_short_is_told_as_the_scorers_trouble(daclip, monkeypatch):
    scorer = DaclipScorer(daclip, RULE, "tiles", "test")

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory\nmore")

    monkeypatch.setattr(daclip, "encode_degradation", full)
    with pytest.raises(ScorerError, match=r"test failed \(CUDA out of memory\): take"):
        scorer.score_views(np.zeros((1, 32, 32, 3), np.uint8))


def test_an_unknown_device_is_named(full_daclip, tmp_path):
    torch.save(full_daclip.state_dict(), tmp_path / "daclip.pt")
    with pytest.raises(ScorerError, match="device 'gpu0' cannot be used"):
        open_daclip("test", tmp_path / "daclip.pt", device="gpu0")


def test_bfloat16_scores_nearly_alike_whatever_else_is_in_the_batch(daclip, china, flower):
    exact = DaclipScorer(daclip, RULE, "tiles", "test", tiles=6)
    half = DaclipScorer(daclip, RULE, "tiles", "test", tiles=6, precision="bfloat16")
    batch = [Candidate("x", image) for image in (flower, china, flower[::-1].copy())]
    assert half.score(batch) == pytest.approx(exact.score(batch), abs=0.3)
    assert half.score(batch) != pytest.approx(exact.score(batch), abs=1e-6)
    assert half.score(batch)[1] == pytest.approx(half.score(batch[1:2])[0], abs=0.1)
    assert daclip.visual_control.proj.dtype == torch.float32


def test_the_fingerprint_tells_precision_and_number_of_tiles_apart(daclip):
    prints = {
        DaclipScorer(daclip, RULE, "tiles", "test", **options).fingerprint
        for options in ({}, {"tiles": 8}, {"precision": "bfloat16"})
    }
    assert len(prints) == 3


def test_few_tiles_of_a_large_image_are_scored(daclip, china):
    scorer = DaclipScorer(daclip, RULE, "tiles", "test", tiles=4)
    assert scorer.views.cut(china).shape == (4, 32, 32, 3)


def test_the_words_that_count_are_a_setting(daclip):
    taught = Rule(words=(*WORDS, "clean"), degraded=WORDS, views="tiles")
    assert choose_words(taught, "rainy").degraded == ("rainy",)
    assert choose_words(taught, "rain-like").degraded == ("rainy", "raindrop", "snowy", "hazy")
    assert choose_words(taught, "degraded") == taught
    assert choose_words(taught, "rainy,snowy").degraded == ("rainy", "snowy")
    assert choose_words(taught, "rainy").views == "tiles"
    with pytest.raises(ScorerError, match="does not know 'reiny', did you mean 'rainy'"):
        choose_words(taught, "reiny")
    with pytest.raises(ScorerError, match="does not have: write words=rainy"):
        choose_words(RULE, "degraded")

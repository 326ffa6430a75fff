from typing import ClassVar

import numpy as np
import PIL.Image
import pytest
import torch

from iqa_service.errors import ScorerError
from iqa_service.registry import open_scorer
from iqa_service.scorers import daclip_files as module
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.daclip import WORDS, Rule
from iqa_service.scorers.daclip_iqa import DaclipScorer
from iqa_service.scorers.views import Views, tiles
from rgsud_core.quality import luma, psnr


@pytest.fixture
def truth(tmp_path, china, flower):
    (tmp_path / "truth/city").mkdir(parents=True)
    PIL.Image.fromarray(china).save(tmp_path / "truth/city/china.png")
    PIL.Image.fromarray(flower).save(tmp_path / "truth/flower.png")
    return tmp_path / "truth"


def spoilt(image, amount):
    return np.clip(image.astype(int) + amount, 0, 255).astype(np.uint8)


def test_candidates_of_several_sizes_keep_their_order(daclip, china, flower):
    backend = DaclipScorer(daclip, Rule(words=WORDS), "tiles", "test")
    images = [china, flower[:100, :90].copy(), china[::-1].copy(), flower[:40].copy()]
    together = backend.score([Candidate(str(n), image) for n, image in enumerate(images)])
    alone = [backend.score([Candidate("x", image)])[0] for image in images]
    assert together == pytest.approx(alone, abs=1e-3)
    assert together.dtype == np.float32
    assert len(set(together.tolist())) == 4


def test_any_daclip_opens_by_its_path(full_daclip, tmp_path, china):
    torch.save(full_daclip.state_dict(), tmp_path / "daclip.pt")
    centre = open_scorer(f"local:daclip?weights={tmp_path / 'daclip.pt'}")
    tiles = open_scorer(f"local:daclip?weights={tmp_path / 'daclip.pt'}&views=tiles&device=cpu")
    candidate = Candidate("a", china)
    by_hand = DaclipScorer(full_daclip, Rule(), "tiles", "x")
    assert tiles.fingerprint == by_hand.fingerprint != centre.fingerprint
    assert tiles.score([candidate]) == pytest.approx(by_hand.score([candidate]), abs=1e-3)
    assert centre.score([candidate]) != pytest.approx(tiles.score([candidate]), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "file"), [("daclip", "daclip_ViT-B-32.pt"), ("daclip-mix", "daclip_ViT-B-32_mix.pt")]
)
def test_the_released_weights_come_from_the_hub(name, file, full_daclip, tmp_path, monkeypatch, china):
    torch.save(full_daclip.state_dict(), tmp_path / "released.pt")
    asked = []

    def download(repository, file, revision):
        asked.append((repository, file))
        return str(tmp_path / "released.pt")

    monkeypatch.setattr(module.huggingface_hub, "hf_hub_download", download)
    scorer = open_scorer(f"local:{name}?views=tiles&words=rain-like")
    assert set(asked) == {("weblzw/daclip-uir-ViT-B-32-irsde", file)}
    assert scorer.name == name
    rule = Rule(words=WORDS, degraded=("rainy", "raindrop", "snowy", "hazy"))
    by_hand = DaclipScorer(full_daclip, rule, "tiles", name)
    assert scorer.fingerprint == by_hand.fingerprint
    assert scorer.score([Candidate("a", china)]) == pytest.approx(
        by_hand.score([Candidate("a", china)]), abs=1e-3
    )


def test_views_of_all_candidates_share_batches_of_bounded_size(china, flower):
    class Counting(ScoreBackend):
        name = fingerprint = "counting"
        views = Views(kind="tiles", size=32)
        batches: ClassVar[list[int]] = []

        def score_views(self, views):
            self.batches.append(len(views))
            return views.mean((1, 2, 3)).astype(np.float32)

    images = [china, flower[:100, :90].copy(), *[flower[:64, :64].copy()] * 100]
    for image in images:
        image.setflags(write=False)
    scores = Counting().score([Candidate(str(n), image) for n, image in enumerate(images)])
    assert scores == pytest.approx([tiles(image, 32).mean() for image in images], rel=1e-5)
    assert sum(Counting.batches) == sum(len(tiles(image, 32)) for image in images)
    assert len(Counting.batches) == 2
    assert max(Counting.batches) < 350


def test_the_oracle_scores_by_the_truth(truth, china, flower):
    oracle = open_scorer(f"local:oracle?truth={truth}")
    candidates = [
        Candidate("city/china", spoilt(china, 9)),
        Candidate("flower", flower),
        Candidate("city/china", spoilt(china, 3)),
    ]
    worse, perfect, better = oracle.score(candidates)
    assert worse < better < perfect == 70
    assert worse == pytest.approx(psnr(luma(spoilt(china, 9)), luma(china)) - 30, abs=1e-4)


def test_the_oracle_names_what_it_does_not_know(truth, china, tmp_path):
    oracle = open_scorer(f"local:oracle?truth={truth}")
    with pytest.raises(ScorerError, match="no truth for 'village'"):
        oracle.score([Candidate("village", china)])
    with pytest.raises(ScorerError, match=r"'flower' has the shape \(10, 320, 3\)"):
        oracle.score([Candidate("flower", china[:10])])
    with pytest.raises(ScorerError, match="absent does not exist"):
        open_scorer(f"local:oracle?truth={tmp_path / 'absent'}")


def test_another_truth_is_another_scorer(truth):
    before = open_scorer(f"local:oracle?truth={truth}").fingerprint
    (truth / "flower.png").unlink()
    assert open_scorer(f"local:oracle?truth={truth}").fingerprint != before


def test_latest_always_wins(china):
    latest = open_scorer("local:latest?start=5")
    scores = [
        *latest.score([Candidate("a", china), Candidate("b", china)]),
        *latest.score([Candidate("a", china)]),
    ]
    assert scores == [5, 6, 7]


def test_random_is_decided_by_seed_id_and_pixels(china, flower):
    def score(id, image, seed=0):
        return open_scorer(f"local:random?seed={seed}").score([Candidate(id, image)])[0]

    assert score("a", china) == score("a", china)
    assert len({score("a", china), score("b", china), score("a", flower), score("a", china, seed=1)}) == 4
    many = [score(str(n), china[:4]) for n in range(300)]
    assert abs(np.mean(many)) < 0.2
    assert np.std(many) == pytest.approx(1, abs=0.15)


def test_a_candidate_that_is_no_image_is_named(daclip, truth):
    for backend in (
        DaclipScorer(daclip, Rule(words=WORDS), "tiles", "test"),
        open_scorer(f"local:oracle?truth={truth}"),
    ):
        with pytest.raises(ScorerError, match="candidate 'flower' is float64, not uint8"):
            backend.score([Candidate("flower", np.full((9, 9, 3), np.nan))])

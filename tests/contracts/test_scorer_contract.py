"""What every scorer keeps to; RGSUD_CONTRACT_SCORER='mypackage.myfile:MyScorer?model=w.st' names yours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets

from iqa_service.errors import ScorerError
from iqa_service.registry import absolute, open_scorer
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.ensemble import write_reference
from iqa_service.scorers.remote import connect
from iqa_service.serving.batching import ScoringService
from rgsud_core.degradation.rendered import add_rain, random_look
from rgsud_core.images import Image

EXAMPLES = Path(__file__).parent / "examples"
OWN = {
    "daclip-lite": "local:daclip-lite",
    "daclip-lite, centre": "local:daclip-lite?views=centre",
    "daclip-lite, consistency": "local:daclip-lite?tiles=16&consistency=1",
    "ensemble": "local:ensemble?of=daclip-lite,daclip-lite(views=centre)&reference={folder}/reference.json",
    "oracle": "local:oracle?truth={folder}/truth",
    "random": "local:random",
    "a stranger's": "sharpness_scorer:Sharpness?weights={folder}/slope.txt",
}
OPTIONS = {
    "daclip-lite": ["views=centre", "tiles=4", "words=rainy", "precision=bfloat16", "consistency=1"],
    "random": ["seed=4", "consistency=1"],
    "a stranger's": ["size=16"],
}
"""Options that change scores."""
BLIND = ("random", "daclip-lite, centre")
"""Scorers that see no rain: not at all, or not in an image that is shrunk to 64 pixels."""
TOLERANCE = 2e-3
"""By how much log-odds may move with what else is in the batch."""


def _cases() -> dict[str, str]:
    yours = os.environ.get("RGSUD_CONTRACT_SCORER")
    return {"yours": absolute(yours)} if yours else OWN


@pytest.fixture(scope="module")
def scene() -> Image:
    """A photograph without rain, uint8 160,224,3."""
    image = PIL.Image.fromarray(sklearn.datasets.load_sample_image("flower.jpg"))
    return np.asarray(image.resize((224, 160), PIL.Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def rainy(scene: Image) -> Image:
    rng = np.random.default_rng(1)
    return add_rain(scene, random_look(rng, 1.5), rng)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, scene: Image) -> Path:
    """What the scorers of this repository need, and their working directory's place on sys.path."""
    folder = tmp_path_factory.mktemp("scorers")
    (folder / "truth").mkdir()
    PIL.Image.fromarray(scene).save(folder / "truth/scene.png")
    (folder / "slope.txt").write_text("0.4")
    rng = np.random.default_rng(0)
    made = [Candidate(str(n), add_rain(scene, random_look(rng, 0.2 * n + 0.1), rng)) for n in range(8)]
    write_reference(open_scorer, "daclip-lite,daclip-lite(views=centre)", made, folder / "reference.json")
    return folder


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield


@pytest.fixture(scope="module", params=list(_cases()))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def spec(name: str, folder: Path) -> str:
    return _cases()[name].replace("{folder}", str(folder))


@pytest.fixture(scope="module")
def scorer(spec: str) -> Iterator[ScoreBackend]:
    with closing(open_scorer(spec)) as opened:
        yield opened


@pytest.fixture
def candidates(name: str, scene: Image, rainy: Image) -> list[Candidate]:
    """The scene without rain, half derained and not derained; as the oracle needs it, of one size."""
    half = (scene // 2 + rainy // 2).astype(np.uint8)
    return [Candidate("scene", image, rainy) for image in (scene, half, rainy)]


def test_it_has_a_name_and_a_fingerprint_that_fits_an_address(scorer: ScoreBackend) -> None:
    assert scorer.name
    assert 0 < len(scorer.fingerprint) <= 128
    assert scorer.fingerprint.isascii()
    assert scorer.fingerprint.isprintable()


def test_scores_are_float32_one_for_each_and_finite(
    scorer: ScoreBackend, candidates: list[Candidate]
) -> None:
    scores = scorer.score(candidates)
    assert scores.dtype == np.float32
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()
    assert scorer.score([]).shape == (0,)


def test_its_own_unit_orders_images_as_log_odds_do(scorer: ScoreBackend) -> None:
    assert scorer.unit
    values = [scorer.in_unit(odds) for odds in (-6.0, -0.5, 0.0, 0.5, 6.0)]
    assert np.isfinite(values).all()
    assert (np.diff(values) * (-1 if scorer.lower_better else 1) > 0).all()


def test_a_score_does_not_depend_on_the_rest_of_the_batch(
    scorer: ScoreBackend, candidates: list[Candidate]
) -> None:
    alone = [float(scorer.score([candidate])[0]) for candidate in candidates]
    assert scorer.score(candidates) == pytest.approx(alone, abs=TOLERANCE)
    assert scorer.score(candidates[::-1]) == pytest.approx(alone[::-1], abs=TOLERANCE)
    assert np.array_equal(scorer.score(candidates), scorer.score(candidates))


def test_another_process_would_score_and_sign_alike(
    scorer: ScoreBackend, spec: str, candidates: list[Candidate]
) -> None:
    with closing(open_scorer(spec)) as again:
        assert (again.name, again.fingerprint) == (scorer.name, scorer.fingerprint)
        assert np.array_equal(again.score(candidates), scorer.score(candidates))


def test_images_are_only_read(scorer: ScoreBackend, candidates: list[Candidate]) -> None:
    first = candidates[0]
    image = first.image.copy()
    image.flags.writeable = False
    before = image.copy()
    scored = scorer.score([Candidate(first.id, image, first.rainy)])
    assert scored == pytest.approx(scorer.score([first]), abs=TOLERANCE)
    assert np.array_equal(image, before)


def test_less_rain_scores_higher(scorer: ScoreBackend, name: str, candidates: list[Candidate]) -> None:
    if name in BLIND:
        pytest.skip("it sees no rain")
    clean, half, wet = scorer.score(candidates)
    assert clean > half > wet


def test_the_score_is_the_mean_over_the_views(scorer: ScoreBackend, candidates: list[Candidate]) -> None:
    if scorer.views is None:
        with pytest.raises(ScorerError, match="looks at whole images"):
            scorer.score_views(np.zeros((1, 8, 8, 3), np.uint8))
        return
    views = scorer.views.cut(candidates[1].image)
    each = scorer.score_views(views)
    assert (each.dtype, each.shape) == (np.float32, (len(views),))
    with_rainy = scorer.score(candidates[1:2])[0]
    if not scorer.consistency:
        assert with_rainy == pytest.approx(each.mean(), abs=TOLERANCE)
    reverse = scorer.score_views(views[::-1].copy())
    assert reverse == pytest.approx(each[::-1].tolist(), abs=TOLERANCE)


def test_what_is_no_image_is_named(scorer: ScoreBackend, name: str, candidates: list[Candidate]) -> None:
    if name == "random":
        pytest.skip("it takes anything")
    with pytest.raises(ScorerError, match="candidate 'scene'"):
        scorer.score([Candidate("scene", candidates[0].image.astype(float), candidates[0].rainy)])


def test_served_it_scores_and_signs_alike(scorer: ScoreBackend, candidates: list[Candidate]) -> None:
    service = ScoringService(scorer, views_at_once=5)
    remote = connect(service, service.info())
    assert (remote.name, remote.fingerprint) == (scorer.name, scorer.fingerprint)
    assert remote.score(candidates) == pytest.approx(scorer.score(candidates), abs=TOLERANCE)


def test_every_option_that_changes_scores_changes_the_fingerprint(
    scorer: ScoreBackend, name: str, spec: str
) -> None:
    prints = {scorer.fingerprint}
    for option in OPTIONS.get(name, []):
        with closing(open_scorer(f"{spec}{'&' if '?' in spec else '?'}{option}")) as other:
            prints.add(other.fingerprint)
    assert len(prints) == 1 + len(OPTIONS.get(name, []))


def test_other_weights_are_another_scorer(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "slope.txt").write_text("0.5")
    specs = [OWN["a stranger's"].replace("{folder}", str(place)) for place in (folder, tmp_path)]
    assert len({open_scorer(spec).fingerprint for spec in specs}) == 2

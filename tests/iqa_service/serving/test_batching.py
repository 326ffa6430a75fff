"""The service without Ray: what it refuses, and that callers do not touch each other."""

from __future__ import annotations

import numpy as np
import pytest

from iqa_service.errors import ScorerError
from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.consistency import ConsistentBackend
from iqa_service.scorers.daclip import Rule
from iqa_service.scorers.daclip_iqa import DaclipScorer
from iqa_service.scorers.remote import ScorerInfo, ViewCall, connect
from iqa_service.serving.batching import ScoringService
from iqa_service.serving.settings import ServiceSettings


@pytest.fixture
def backend(daclip) -> DaclipScorer:
    return DaclipScorer(daclip, Rule(), "tiles", "test")


def connected(service: ScoringService) -> ScoreBackend:
    return connect(service, service.info())


def views_like(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_calls_in_one_batch_are_answered_each_by_itself(backend):
    service = ScoringService(backend)
    calls = [ViewCall(views_like(seed, count)) for seed, count in enumerate((1, 5, 2))]
    together = service.score_calls(calls)
    assert [len(answer.log_odds) for answer in together] == [1, 5, 2]
    for call, answer in zip(calls, together, strict=True):
        assert answer.fingerprint == backend.fingerprint
        assert answer.log_odds == pytest.approx(service.score_views(call).log_odds, abs=1e-3)
        assert answer.log_odds == pytest.approx(backend.score_views(call.views), abs=1e-3)


@pytest.mark.filterwarnings("error")
def test_read_only_views_are_scored_and_left_as_they_are(backend):
    views = views_like(0, 3)
    before = views.copy()
    views.flags.writeable = False
    answer = ScoringService(backend).score_views(ViewCall(views))
    assert np.isfinite(answer.log_odds).all()
    assert np.array_equal(views, before)


@pytest.mark.parametrize(
    ("views", "fingerprint", "reason"),
    [
        (np.zeros((1, 16, 16, 3), np.uint8), None, r"\(1, 16, 16, 3\)"),
        (np.zeros((1, 32, 32, 3), np.float32), None, "float32"),
        (np.zeros((32, 32, 3), np.uint8), None, r"\(32, 32, 3\)"),
        (np.zeros((0, 32, 32, 3), np.uint8), None, "0 views in one call: send 1 to 4"),
        (np.zeros((5, 32, 32, 3), np.uint8), None, "5 views in one call: send 1 to 4"),
        (b"views", None, "views of bytes"),
        (np.zeros((1, 32, 32, 3), np.uint8), "another", "cannot be compared"),
    ],
)
def test_a_bad_call_says_why_and_its_neighbours_are_scored(backend, views, fingerprint, reason):
    service = ScoringService(backend, views_at_once=4)
    good = ViewCall(views_like(1, 2), backend.fingerprint)
    first, bad, last = service.score_calls([good, ViewCall(views, fingerprint), good])
    assert bad.log_odds is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(bad.problem)
    assert first.log_odds == pytest.approx(service.score_views(good).log_odds, abs=1e-3)
    assert last.log_odds == pytest.approx(first.log_odds, abs=1e-3)


def test_a_scorer_that_fails_on_one_call_answers_the_others(backend):
    class Particular(ScoreBackend):
        """Fails on whatever is black."""

        name, fingerprint, views = backend.name, backend.fingerprint, backend.views

        def score_views(self, views):
            if (views.reshape(len(views), -1).max(axis=1) == 0).any():
                raise ScorerError("there is nothing to see: switch the light on")
            return backend.score_views(views)

    service = ScoringService(Particular())
    black = ViewCall(np.zeros((1, 32, 32, 3), np.uint8))
    good = ViewCall(views_like(2, 3))
    answers = service.score_calls([good, black, good])
    assert answers[1].problem == "there is nothing to see: switch the light on"
    assert answers[0].log_odds == pytest.approx(backend.score_views(good.views), abs=1e-3)
    assert answers[2].log_odds == pytest.approx(answers[0].log_odds, abs=1e-3)


def test_the_description_says_what_the_scorer_looks_at_and_for(daclip):
    rule = Rule(words=("rainy", "clean"), degraded=("rainy",))
    backend = ConsistentBackend(DaclipScorer(daclip, rule, "centre", "test"), 0.25)
    info = ScoringService(backend).info()
    assert (info.name, info.fingerprint) == ("test", backend.fingerprint)
    assert (info.words, info.degraded, info.consistency) == (("rainy", "clean"), ("rainy",), 0.25)
    assert (info.views.kind, info.views.size) == ("centre", 32)
    assert ScorerInfo.model_validate_json(info.model_dump_json()) == info


@pytest.mark.parametrize("consistency", [0, 0.25])
@pytest.mark.parametrize("kind", ["centre", "tiles"])
def test_views_cut_by_the_caller_score_as_in_process(daclip, china, flower, kind, consistency):
    local = DaclipScorer(daclip, Rule(), kind, "test")
    backend = ConsistentBackend(local, consistency) if consistency else local
    remote = connected(ScoringService(backend, views_at_once=7))
    candidates = [
        Candidate("china", china, china // 2 + 90),
        Candidate("small", flower[:20, :50].copy(), flower[:20, :50].copy()),
        Candidate("flower", flower, flower[::-1].copy()),
    ]
    assert remote.fingerprint == backend.fingerprint
    assert remote.score(candidates) == pytest.approx(backend.score(candidates), abs=1e-3)
    assert remote.score(candidates).dtype == np.float32
    assert len(remote.score([])) == 0
    remote.close()


def test_a_scorer_of_whole_images_gets_them(china, flower):
    backend = open_scorer("local:random?seed=3")
    service = ScoringService(backend)
    remote = connected(service)
    candidates = [Candidate("a", china), Candidate("b", flower)]
    assert remote.fingerprint == backend.fingerprint
    assert remote.score(candidates).tolist() == backend.score(candidates).tolist()
    assert "looks at whole images" in service.score_views(ViewCall(views_like(0, 1))).problem
    remote.close()


def test_a_bad_candidate_is_named_as_in_process(backend, china):
    remote = connected(ScoringService(ConsistentBackend(backend, 0.5)))
    with pytest.raises(ScorerError, match="candidate 'street' lacks its rainy image"):
        remote.score([Candidate("street", china)])
    with pytest.raises(ScorerError, match="candidate 'street' is float64, not uint8"):
        remote.score([Candidate("street", china.astype(float), china)])
    remote.close()


@pytest.mark.parametrize(
    ("settings", "spec"),
    [
        ({"scorer": "local:daclip-lite"}, "local:daclip-lite"),
        (
            {"scorer": "local:daclip-lite?views=tiles", "precision": "bfloat16"},
            "local:daclip-lite?views=tiles&precision=bfloat16",
        ),
        ({"device": "cpu", "precision": "float32"}, "local:daclip-lite?device=cpu&precision=float32"),
    ],
)
def test_device_and_precision_become_options_of_the_scorer(settings, spec):
    assert ServiceSettings(**settings).spec == spec


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"replica": 2}, "unknown setting 'replica': did you mean 'replicas'?"),
        ({"replicas": 0}, "greater than or equal to 1"),
        ({"replicas": 3, "max_replicas": 2}, "max_replicas 2 is below replicas 3"),
        ({"token": ""}, "the write token is not 16"),
        ({"token": "a b"}, "the write token is not 16"),
    ],
)
def test_wrong_settings_are_put_right(settings, reason):
    with pytest.raises(ValueError, match=reason.replace("?", r"\?")):
        ServiceSettings(**settings)

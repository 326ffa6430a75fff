"""The pool against a plain model of it, over random sequences of everything that a client can do."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pool_store.client import Pool
from pool_store.schemas import LARGEST, Offer

IDS = ("a", "b")
IMAGES = 5
SCORES = st.sampled_from([-1.0, 0.0, -0.0, 0.5, 2.0]) | st.floats(-LARGEST, LARGEST)


class Model:
    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.kept: dict[str, list[tuple[float, str]]] = {}
        self.answers: dict[str, dict[tuple[str, float], str]] = {}
        self.offers = self.replacements = self.stale = 0
        self.scores: list[float] = []

    def offer(self, id: str, log_odds: float, digest: str) -> str:
        self.scores.append(log_odds)
        kept, answers = self.kept.get(id, []), self.answers.get(id, {})
        key = (digest, log_odds)
        if (log_odds, digest) in kept:
            return "replaced"
        if key in answers:
            return answers[key]
        if any(held == digest and score >= log_odds for score, held in kept):
            ranked = kept
        else:
            others = [candidate for candidate in kept if candidate[1] != digest]
            ranked = sorted([*others, (log_odds, digest)], key=lambda candidate: -candidate[0])[: self.keep]
        status = "kept" if ranked == kept else "replaced"
        self.kept[id] = ranked
        self.answers[id] = {**answers, key: status}
        self.offers += 1
        self.replacements += status == "replaced"
        return status


def machine(pool: Pool, blank: Any, make_offer: Callable[..., Offer]) -> type[RuleBasedStateMachine]:
    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            pool.restore(blank)
            self.model = Model(pool.keep)
            self.saved = blank, copy.deepcopy(self.model)

        @rule(
            id=st.sampled_from(IDS), log_odds=SCORES, number=st.integers(1, IMAGES), times=st.integers(1, 2)
        )
        def offer(self, id: str, log_odds: float, number: int, times: int) -> None:
            offer = make_offer(pool, id, log_odds, number)
            for _ in range(times):
                decision = pool.offer(offer)
                assert decision.status == self.model.offer(id, log_odds, offer.digest)
                assert decision.log_odds == self.model.kept[id][0][0]

        @rule(id=st.sampled_from(IDS), log_odds=SCORES)
        def offer_of_another_scorer(self, id: str, log_odds: float) -> None:
            assert pool.offer(make_offer(pool, id, log_odds, 1, fingerprint="other")).status == "stale"
            self.model.stale += 1

        @rule()
        def sweep(self) -> None:
            pool.sweep(3600)

        @rule()
        def save(self) -> None:
            self.saved = json.loads(json.dumps(pool.dump())), copy.deepcopy(self.model)

        @rule()
        def restore(self) -> None:
            pool.restore(self.saved[0])
            self.model = copy.deepcopy(self.saved[1])
            # Who offers again what was offered before the pool was put back wants it decided anew.
            self.model.answers.clear()

        @invariant()
        def agrees(self) -> None:
            model = self.model
            entries = {entry.id: entry for entry in pool.scan()}
            assert entries == pool.entries(IDS)
            assert {
                id: [(candidate.log_odds, candidate.digest) for candidate in entry.candidates]
                for id, entry in entries.items()
            } == model.kept
            stats = pool.stats()
            assert (stats.entries, stats.offers, stats.replacements, stats.stale) == (
                len(model.kept),
                model.offers,
                model.replacements,
                model.stale,
            )
            best = [kept[0][0] for kept in model.kept.values()]
            if best:
                error = 1e-15 * max(map(abs, model.scores))
                assert stats.mean_log_odds == pytest.approx(math.fsum(best) / len(best), rel=0, abs=error)
            assert sum(stats.histogram.counts) == len(best)
            assert sum(entry.replacements for entry in entries.values()) == model.replacements
            for entry in entries.values():
                pool.image(entry.best.digest)

    return Machine


@pytest.mark.parametrize("keep", [1, 3])
def test_the_pool_is_its_model(embedded: Any, make_offer: Callable[..., Offer], keep: int) -> None:
    pool = embedded.open(keep=keep, spec=f"{embedded.spec}?fsync=everysec")
    run_state_machine_as_test(
        machine(pool, pool.dump(), make_offer),
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],  # to explain a failure takes as long as all the rest
            suppress_health_check=list(HealthCheck),
        ),
    )

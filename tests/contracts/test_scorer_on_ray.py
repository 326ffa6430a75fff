"""A stranger's scorer on Ray: its module is found by replicas and workers, and so are its files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import ray
from ray import serve

from iqa_service.registry import absolute, open_scorer
from iqa_service.scorers.base import Candidate
from iqa_service.serving import clusters
from iqa_service.serving.ray_app import deploy_scorer
from iqa_service.serving.settings import ServiceSettings
from rgsud_core.plugins import search_path

EXAMPLES = Path(__file__).parent / "examples"


@pytest.mark.slow
def test_a_strangers_scorer_is_served_and_opened_by_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(address: str, candidates: list[Candidate]) -> np.ndarray:
        with closing(open_scorer(address)) as scorer:
            return scorer.score(candidates)

    # Its folder is on this process's path only, and its option is relative to the working directory.
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slope.txt").write_text("0.4")
    address = absolute("sharpness_scorer:Sharpness?weights=slope.txt")
    rng = np.random.default_rng(0)
    candidates = [Candidate(str(n), rng.integers(0, 256, (40, 50, 3), np.uint8)) for n in range(3)]
    clusters.join("local", num_cpus=2, include_dashboard=False)
    try:
        serve.start(proxy_location="Disabled")
        name = deploy_scorer(ServiceSettings(scorer=address, cpus=0.1, http=False), "strange")
        with closing(open_scorer(address)) as here, closing(open_scorer(name)) as served:
            expected = here.score(candidates)
            assert served.fingerprint == here.fingerprint
            assert served.score(candidates) == pytest.approx(expected)
        worker = ray.remote(score).options(runtime_env={"env_vars": {"PYTHONPATH": search_path()}})
        assert ray.get(worker.remote(f"local:{address}", candidates)) == pytest.approx(expected)
    finally:
        clusters.leave()

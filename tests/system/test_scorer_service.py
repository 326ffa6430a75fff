"""The scorer on Ray Serve: the same scores by handle and by HTTP, a copy that dies, a queue that is full."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch
from ray import serve
from ray.serve.exceptions import BackPressureError

from iqa_service.errors import ScorerAway, ScorerBusy, ScorerError
from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.daclip import DaCLIP
from iqa_service.scorers.remote import ViewCall
from iqa_service.serving import clusters
from iqa_service.serving.ray_app import deploy_scorer
from iqa_service.serving.settings import ServiceSettings
from tests.patience import PATIENCE, wait_until

pytestmark = pytest.mark.slow

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small DA-CLIP with random weights, held to the rainy image."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "daclip.pt"
    torch.save(DaCLIP(CONFIG).state_dict(), path)
    return f"local:daclip?weights={path}&views=tiles&consistency=0.25"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve in a Ray of this module's own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    clusters.join("local", num_cpus=2, include_dashboard=False)
    with contextlib.suppress(TimeoutError):  # Serve waits a minute for the proxy, which goes on starting
        serve.start(proxy_location="HeadOnly", http_options={"port": port})
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(url), "the proxy does not start")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    yield url
    clusters.leave()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return bool(httpx.get(url).status_code)
    return False


@pytest.fixture(scope="module")
def two_copies(url: str, spec: str) -> str:
    return deploy_scorer(ServiceSettings(scorer=spec, replicas=2, cpus=0.5, threads=1))


@pytest.fixture(scope="module")
def local(spec: str) -> ScoreBackend:
    return open_scorer(spec)


def candidates(seed: int, count: int = 3) -> list[Candidate]:
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        shape = (*random.integers(40, 120, 2), 3)
        image, rainy = (random.integers(0, 256, shape, dtype=np.uint8) for _ in range(2))
        made.append(Candidate(f"{seed}/{number}", image, rainy))
    return made


def copies(app: str = "iqa") -> list[psutil.Process]:
    """The processes of the scorer's copies, of this module's Ray alone."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if f"ServeReplica:{app}:Scorer" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_scores_and_fingerprint_are_those_in_process(url: str, two_copies: str, local: ScoreBackend) -> None:
    sent = candidates(0, 12)
    expected = local.score(sent)
    for remote in (open_scorer(two_copies), open_scorer(url)):
        assert (remote.name, remote.fingerprint) == (local.name, local.fingerprint)
        assert remote.score(sent) == pytest.approx(expected, abs=1e-3)
        with pytest.raises(ScorerError, match="lacks its rainy image"):
            remote.score([Candidate("street", sent[0].image)])
        remote.close()


def test_an_application_that_is_not_there_is_named(two_copies: str) -> None:
    with pytest.raises(ScorerError, match="no scorer runs as 'another'"):
        open_scorer("serve:another")


def test_whole_images_travel_by_handle_where_they_must(two_copies: str) -> None:
    settings = ServiceSettings(scorer="local:random?seed=2", cpus=0.1, http=False)
    remote = open_scorer(deploy_scorer(settings, "whole"))
    sent = candidates(1)
    assert remote.score(sent).tolist() == open_scorer("local:random?seed=2").score(sent).tolist()
    remote.close()
    serve.delete("whole")


def test_a_copy_that_dies_costs_no_answer_and_makes_none_wrong(
    url: str, two_copies: str, local: ScoreBackend
) -> None:
    calls, callers = 40, 6
    lines = [open_scorer(two_copies), open_scorer(url)]
    sent = [candidates(100 + number) for number in range(calls)]
    expected = [local.score(each) for each in sent]
    answered: list[int] = []

    def ask(number: int) -> np.ndarray | ScorerError:
        try:
            scores = lines[number % 2].score(sent[number])
        except (ScorerAway, ScorerBusy) as refusal:
            return refusal
        answered.append(number)
        if len(answered) == calls // 4:
            victim = copies()[0]
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait(PATIENCE)
        return scores

    before = {process.pid for process in copies()}
    assert len(before) == 2
    with ThreadPoolExecutor(callers) as threads:
        results = list(threads.map(ask, range(calls)))
    scored = [number for number, result in enumerate(results) if not isinstance(result, ScorerError)]
    assert sorted(answered) == scored
    assert len(scored) >= calls - callers
    for number in scored:
        assert results[number] == pytest.approx(expected[number], abs=1e-3)
    for result in results:
        if isinstance(result, ScorerError):
            assert str(result)
    wait_until(
        lambda: len(copies()) == 2 and {process.pid for process in copies()} != before, "no copy replaces it"
    )
    for line in lines:
        assert line.score(sent[0]) == pytest.approx(expected[0], abs=1e-3)
        line.close()


def test_a_full_queue_refuses_and_says_when_to_come_back(url: str, two_copies: str, spec: str) -> None:
    narrow = ServiceSettings(
        scorer=spec,
        cpus=0.5,
        threads=1,
        max_ongoing_requests=2,
        max_queued_requests=2,
        retry_after_seconds=3,
    )
    handle = serve.get_deployment_handle("Scorer", deploy_scorer(narrow).partition(":")[2])
    wait_until(lambda: len(copies()) == 1, "the second copy stays")
    remote = open_scorer(url)
    views = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    expected = handle.score_views.remote(ViewCall(views)).result(timeout_s=PATIENCE).log_odds
    (copy,) = copies()

    def by_handle(_: int) -> str:
        try:
            answer = handle.score_views.remote(ViewCall(views)).result(timeout_s=PATIENCE)
        except BackPressureError as refusal:
            return "refused" if refusal.retry_after_s == 3 else "refused without a time"
        assert answer.log_odds == pytest.approx(expected, abs=1e-3)
        return "scored"

    def by_http(_: int) -> str:
        response = client.post("/v1/views", content=views.tobytes())
        if response.status_code == 503:
            assert response.headers["retry-after"] == "3"
            return "refused"
        assert response.json()["log_odds"] == pytest.approx(expected.tolist(), abs=1e-3)
        return "scored"

    def rush(ask: Callable[[int], str], calls: int) -> Sequence[str]:
        with ThreadPoolExecutor(32) as threads:
            return list(threads.map(ask, range(calls)))

    rush(by_handle, 100)
    before = copy.memory_info().rss
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        for ask, calls in ((by_handle, 1500), (by_http, 200)):
            results = rush(ask, calls)
            assert results.count("scored") + results.count("refused") == calls
            assert results.count("scored") > 0
            assert results.count("refused") > 0
    # 1,700 calls of 0.2 MB: had they waited in the copy, they would show.
    assert copy.memory_info().rss - before < 100 * MEGABYTE
    assert np.isfinite(remote.score(candidates(7))).all()
    remote.close()


def test_a_scorer_that_cannot_be_opened_says_why(url: str, tmp_path: Path) -> None:
    broken = ServiceSettings(scorer=f"local:daclip?weights={tmp_path / 'absent.pt'}", cpus=0.1, http=False)
    with pytest.raises(ScorerError, match=r"^no DA-CLIP weights at"):
        deploy_scorer(broken, "broken")
    serve.delete("broken")


def test_the_command_serves_until_it_is_told_to_end(spec: str) -> None:
    command = [sys.executable, "-c", "from rgsud.cli import main; main()", "scorer", "serve", "--port", "0"]
    environment = os.environ | {"RGSUD_SCORER_TOKEN": "sesame-open-open", "COLUMNS": "200"}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [*command, "--scorer", spec], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+", said)
        assert httpx.get(f"{url}/readyz", timeout=PATIENCE).json() == {"status": "ok"}
        assert httpx.get(f"{url}/v1/scorer", timeout=PATIENCE).status_code == 401
        headers = {"authorization": "Bearer sesame-open-open"}
        assert (
            httpx.get(f"{url}/v1/scorer", headers=headers, timeout=PATIENCE).json()["views"]["kind"]
            == "tiles"
        )
        process.send_signal(signal.SIGTERM)
        _, more = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, more) == (0, "")

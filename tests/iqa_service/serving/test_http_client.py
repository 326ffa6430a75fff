"""The client of ``http://HOST:PORT`` against the interface on a real socket."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import uvicorn

from iqa_service.errors import ScorerAway, ScorerBusy, ScorerError
from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate
from iqa_service.scorers.consistency import ConsistentBackend
from iqa_service.scorers.daclip import Rule
from iqa_service.scorers.daclip_iqa import DaclipScorer
from iqa_service.serving.batching import ScoringService
from iqa_service.serving.http_api import make_api
from iqa_service.serving.settings import TOKEN_VARIABLE, ServiceSettings
from tests.patience import PATIENCE, wait_until


class Served(uvicorn.Server):
    """An application on a free port of this machine."""

    def __init__(self, api) -> None:
        super().__init__(uvicorn.Config(api, log_level="critical"))
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.run, args=([self.socket],), daemon=True)
        self.thread.start()
        wait_until(lambda: self.started, "the service does not start")

    def stop(self) -> None:
        self.should_exit = True
        self.thread.join(PATIENCE)


@pytest.fixture
def serve() -> Iterator:
    running = []

    def start(line, **settings) -> Served:
        running.append(Served(make_api(line, ServiceSettings(**settings))))
        return running[-1]

    yield start
    for server in running:
        server.stop()


class Line(ScoringService):
    """A service that may be in trouble when it scores."""

    trouble: Exception | None = None
    seconds = 0.0

    def score_views(self, call):
        time.sleep(self.seconds)
        if self.trouble is not None:
            raise self.trouble
        return super().score_views(call)


@pytest.fixture
def line(daclip) -> Line:
    return Line(DaclipScorer(daclip, Rule(), "centre", "test"), views_at_once=2)


@pytest.mark.parametrize("consistency", [0, 0.25])
@pytest.mark.parametrize("kind", ["centre", "tiles"])
def test_scores_and_fingerprint_are_those_in_process(serve, daclip, china, flower, kind, consistency):
    local = DaclipScorer(daclip, Rule(), kind, "test")
    backend = ConsistentBackend(local, consistency) if consistency else local
    remote = open_scorer(serve(ScoringService(backend)).url)
    candidates = [
        Candidate("a", china, china // 2),
        Candidate("b", flower[:90].copy(), flower[:90] // 3),
        Candidate("c", flower, flower // 2),
    ]
    assert (remote.name, remote.fingerprint) == (backend.name, backend.fingerprint)
    assert remote.score(candidates) == pytest.approx(backend.score(candidates), abs=1e-3)
    remote.close()


def test_whole_images_arrive_as_they_were(serve, china, flower):
    backend = open_scorer("local:random?seed=1")
    remote = open_scorer(serve(ScoringService(backend)).url)
    candidates = [Candidate("city/a", china), Candidate("b", flower)]
    assert remote.score(candidates).tolist() == backend.score(candidates).tolist()
    remote.close()


def test_consistency_may_be_asked_for_by_the_caller(serve, line, daclip, china):
    remote = open_scorer(f"{serve(line).url}?consistency=0.5")
    local = ConsistentBackend(DaclipScorer(daclip, Rule(), "centre", "test"), 0.5)
    candidate = Candidate("a", china, np.minimum(china, 200))
    assert remote.fingerprint == local.fingerprint
    assert remote.score([candidate]) == pytest.approx(local.score([candidate]), abs=1e-3)
    remote.close()


def test_a_service_without_room_says_when_to_come_back(serve, line, china):
    remote = open_scorer(serve(line).url)
    line.trouble = ScorerBusy("it", 7)
    with pytest.raises(ScorerBusy, match="has no room: come back in 7 s") as refused:
        remote.score([Candidate("a", china)])
    assert refused.value.retry_after == 7
    line.trouble = None
    assert np.isfinite(remote.score([Candidate("a", china)])).all()
    remote.close()


def test_a_service_that_hangs_is_not_waited_for(serve, line, china):
    remote = open_scorer(f"{serve(line).url}?timeout=0.2")
    line.seconds = 1.0
    with pytest.raises(ScorerAway, match=r"did not answer in 0.2 s"):
        remote.score([Candidate("a", china)])
    remote.close()


def test_another_scorer_at_the_old_address_is_noticed(serve, line, china, full_daclip):
    remote = open_scorer(serve(line).url)
    other = DaclipScorer(full_daclip, Rule(), "tiles", "other")
    line.__init__(other, 2)
    with pytest.raises(ScorerError, match="cannot be compared"):
        remote.score([Candidate("a", china)])
    remote.close()


def test_another_scorer_of_whole_images_is_noticed_too(serve, china):
    service = ScoringService(open_scorer("local:random?seed=1"))
    remote = open_scorer(serve(service).url)
    service.__init__(open_scorer("local:random?seed=2"))
    with pytest.raises(ScorerError, match="the scorer here is random random-2, not random-1"):
        remote.score([Candidate("a", china)])
    remote.close()


def test_a_token_loses_its_line_end_and_is_never_told(serve, line, china, monkeypatch):
    url = serve(line, token="sesame-open-open").url
    monkeypatch.setenv(TOKEN_VARIABLE, "sesame-open-open\n")
    open_scorer(url).close()
    monkeypatch.setenv(TOKEN_VARIABLE, "open sesame")
    with pytest.raises(ScorerError, match=f"{TOKEN_VARIABLE} must be printable ASCII") as refused:
        open_scorer(url)
    assert "sesame" not in str(refused.value)


def test_the_token_is_taken_from_the_environment(serve, line, china, monkeypatch):
    url = serve(line, token="sesame-open-open").url
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(ScorerError, match=f"refuses the token: set {TOKEN_VARIABLE}"):
        open_scorer(url)
    monkeypatch.setenv(TOKEN_VARIABLE, "sesame-open-open")
    remote = open_scorer(url)
    assert np.isfinite(remote.score([Candidate("a", china)])).all()
    remote.close()


def test_an_address_without_a_scorer_is_told_apart(serve, line, china):
    server = serve(line)
    remote = open_scorer(server.url)
    with pytest.raises(ScorerError, match=r"answered 404: there is nothing at /elsewhere"):
        open_scorer(f"{server.url}/elsewhere")
    server.stop()
    with pytest.raises(ScorerAway, match="start it with `rgsud scorer serve`"):
        remote.score([Candidate("a", china)])
    with pytest.raises(ScorerAway, match="no scorer answers at"):
        open_scorer(server.url)
    remote.close()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("http://127.0.0.1:1?timeout=0", "option 'timeout'"),
        ("http://127.0.0.1:1?time=3", "did you mean 'timeout'?"),
        ("https://", "put the address right"),
        ("http://host:80a0", "is no address"),
    ],
)
def test_a_bad_address_is_put_right(spec, reason):
    with pytest.raises(ScorerError) as error:
        open_scorer(spec)
    assert reason in str(error.value)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense"])
def test_a_service_is_called_itself_whatever_proxy_is_set(serve, line, china, monkeypatch, variable, proxy):
    monkeypatch.setenv(variable, proxy)
    remote = open_scorer(serve(line).url)
    assert len(remote.score([Candidate("a", china)])) == 1
    remote.close()

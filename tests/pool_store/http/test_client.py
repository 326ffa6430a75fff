"""The HTTP client where a service misbehaves; the contract of pools is tested in test_contract.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from pool_store.client import open_pool
from pool_store.engine.images import digest_of, encode
from pool_store.errors import PoolConflict, PoolError, PoolFull, PoolMissing, PoolUnavailable
from pool_store.http import client as http_client
from pool_store.http.client import HttpPool
from pool_store.schemas import Lineage, Offer, PoolSettings
from rgsud_core.images import Image

SETTINGS = PoolSettings(fingerprint="f")
INFO = {"name": "demo", "fingerprint": "f", "keep": 1, "history": 8, "size": None}
DECISION = {"decisions": [{"status": "replaced", "log_odds": 1.0}]}
LINEAGE = Lineage(run="run", step=1, stage=1, time=0.0)
OFFER = Offer(id="a", log_odds=1.0, fingerprint="f", digest="0" * 64, lineage=LINEAGE)


class Service:
    """Stands in for the network: answers in turn, the last answer again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[Any] = []
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []
        self.made_with: dict[str, Any] = {}
        transport = httpx.MockTransport(self._answer)
        monkeypatch.setattr(httpx.Client, "_init_transport", lambda *_, **__: transport)
        monkeypatch.setattr("time.sleep", self.pauses.append)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PUT" and request.url.path == "/v1/pools/demo":
            self.made_with = json.loads(request.read())
            return httpx.Response(200, json=INFO)
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx.Response)
        return answer


def entry(id: str) -> dict[str, Any]:
    candidate = {"digest": OFFER.digest, "log_odds": 1.0, "lineage": OFFER.lineage.model_dump()}
    return {"id": id, "candidates": [candidate], "replacements": 1}


def problem(status: int, detail: str, **headers: str) -> httpx.Response:
    body = json.dumps({"type": "about:blank", "title": "t", "status": status, "detail": detail})
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(
        status, content=body, headers={"content-type": "application/problem+json", **headers}
    )


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    return Service(monkeypatch)


@pytest.fixture
def pool(service: Service) -> Iterator[HttpPool]:
    pool = HttpPool("http://pool.example:8080/demo", settings=SETTINGS)
    yield pool
    pool.close()


def test_tries_again_what_failed_in_passing(service: Service, pool: HttpPool) -> None:
    service.answers = [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        problem(503, "starting", retry_after="1"),
        problem(429, "busy", retry_after="2"),
        httpx.Response(200, json=DECISION),
    ]
    assert pool.offer(OFFER).status == "replaced"
    assert len({request.content for request in service.requests}) == 1
    assert len(service.requests) == 5
    assert service.pauses[0] < service.pauses[1] < 1
    assert service.pauses[2:] == [1, 2]


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (
            httpx.ConnectError("Connection refused"),
            PoolUnavailable,
            r"pool\.example:8080 does not answer \(Conn",
        ),
        (problem(503, "redis is away", retry_after="1"), PoolUnavailable, "redis is away"),
        (problem(503, "maintenance", retry_after="3600"), PoolUnavailable, "maintenance"),
    ],
)
def test_gives_up_in_the_end(
    service: Service,
    pool: HttpPool,
    answer: Any,
    kind: type[PoolError],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now + sum(service.pauses))
    service.answers = [answer]
    with pytest.raises(kind, match=said):
        pool.entries(["a"])
    assert sum(service.pauses) <= http_client.RETRY_SECONDS


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (problem(401, "that token is unknown"), PoolError, r"refuses \(that token .*: set RGSUD_POOL_TOKEN"),
        (problem(403, "that token may only read"), PoolError, r"refuses .*set RGSUD_POOL_TOKEN"),
        (problem(404, "there is no pool 'demo'"), PoolMissing, "there is no pool 'demo'"),
        (problem(409, "another scorer's"), PoolConflict, "another scorer's"),
        (problem(413, "the body is larger"), PoolError, "the body is larger"),
        (problem(422, "that is wrong"), PoolError, "that is wrong"),
        (problem(507, "the disk is full"), PoolFull, "the disk is full"),
        (httpx.Response(200, text="<html>"), PoolError, "answers otherwise than this version expects"),
        (httpx.Response(200, json={"other": 1}), PoolError, "answers otherwise than this version expects"),
        (httpx.Response(404, text="nginx"), PoolUnavailable, "see that it is a reward pool's service"),
        (httpx.Response(302, headers={"location": "http://elsewhere"}), PoolUnavailable, "HTTP 302"),
    ],
)
def test_says_in_a_sentence_what_is_wrong(
    service: Service, pool: HttpPool, answer: httpx.Response, kind: type[PoolError], said: str
) -> None:
    service.answers = [answer]
    with pytest.raises(PoolError, match=said) as caught:
        pool.entries(["a"])
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert service.pauses == []


def test_does_not_repeat_what_is_not_idempotent(service: Service, pool: HttpPool) -> None:
    service.answers = [httpx.ReadError("cut")]
    for call in (pool.drop, pool.verify, lambda: pool.sweep(0)):
        with pytest.raises(PoolUnavailable):
            call()
    assert len(service.requests) == 3


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@host:1/demo",
        "http://secret@host/demo",
        "http://host/demo?token=secret",
        "http://host/demo#secret",
        "http://host/a/b",
        "http://",
        "http:///demo",
        "http://host:port/demo",
        "http://[::1/demo",
    ],
)
def test_takes_no_token_and_nothing_else_from_the_address(url: str) -> None:
    with pytest.raises(PoolError, match="RGSUD_POOL_TOKEN") as caught:
        HttpPool(url, settings=SETTINGS)
    assert "secret" not in str(caught.value)


def test_sends_the_token_of_the_environment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.answers = [httpx.Response(200, json={"entries": []})]
    monkeypatch.setenv("RGSUD_POOL_TOKEN", "t" * 32)
    pool = HttpPool("https://[::1]:8080/demo", settings=SETTINGS)
    pool.entries(["a"])
    assert service.requests[0].headers["authorization"] == f"Bearer {'t' * 32}"
    assert str(service.requests[0].url) == "https://[::1]:8080/v1/pools/demo/entries"
    monkeypatch.setenv("RGSUD_POOL_TOKEN", "nö\n")
    with pytest.raises(PoolError, match="RGSUD_POOL_TOKEN holds no token"):
        HttpPool("http://host/demo", settings=SETTINGS)


def test_an_image_that_is_another_is_refused(
    service: Service, pool: HttpPool, picture: Callable[[int], Image]
) -> None:
    right, wrong = picture(1), encode(picture(2))
    digest = digest_of(right)
    tag = {"etag": f'"{digest}"'}
    for body in (wrong, encode(right)[:30], b""):
        service.answers = [httpx.Response(200, content=body, headers=tag)]
        with pytest.raises(PoolError, match=f"blob {digest}.* corrupt"):
            pool.image(digest)
    service.answers = [httpx.Response(200, content=encode(right), headers=tag)]
    np.testing.assert_array_equal(pool.image(digest), right)


def test_large_questions_go_in_pages(
    service: Service, pool: HttpPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "IDS_A_REQUEST", 2)
    service.answers = [
        httpx.Response(200, json={"entries": [entry(id) for id in ids]}) for ids in ("ab", "cd", "e")
    ]
    assert list(pool.entries("abcde")) == list("abcde")
    assert [json.loads(request.content)["ids"] for request in service.requests] == [
        ["a", "b"],
        ["c", "d"],
        ["e"],
    ]
    monkeypatch.setattr(http_client, "OFFERS_A_REQUEST", 1)
    service.answers = [httpx.Response(200, json=DECISION)]
    assert len(pool.offer_many([OFFER] * 3)) == 3


def test_no_history_is_asked_for_where_it_is_none_that_is_wanted(service: Service) -> None:
    for history in (0, 3, None):
        open_pool("http://pool/demo", fingerprint="f", history=history).close()
        assert service.made_with.get("history") == history

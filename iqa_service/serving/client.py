"""Scorers that run elsewhere: ``serve:APP`` in the same Ray cluster, ``http://HOST:PORT`` anywhere.

Both learn from the service what its scorer looks at, cut the views here, and send views in batches; a scorer
that needs whole images gets those. Scores and fingerprint are those of the same scorer in this process.
"""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from iqa_service.errors import ScorerAway, ScorerBusy, ScorerError
from iqa_service.scorers.backends import Candidate, LocalBackend, ScoreBackend
from iqa_service.scorers.consistency import ConsistentBackend
from iqa_service.scorers.views import Image
from iqa_service.serving.schemas import (
    SCORER,
    TOKEN_VARIABLE,
    Answer,
    ScorerInfo,
    Scores,
    ViewCall,
    ViewScores,
    other_scorer,
    token_of_environment,
)

if TYPE_CHECKING:
    import httpx
    from ray.serve.handle import DeploymentHandle

_Model = TypeVar("_Model", bound=BaseModel)
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_CALLS_AT_ONCE = 4
"""Of one caller: enough that the scorer always has the next batch, few enough to leave room for others."""
_TRIES = 3
"""Of a call whose connection or copy of the scorer breaks. Scoring leaves no trace: asking again is safe."""


class Line(Protocol):
    """A way to ask a service. Its calls raise ScorerBusy and ScorerError."""

    def info(self) -> ScorerInfo:
        """What is served."""
        ...

    def score_views(self, call: ViewCall) -> Answer:
        """The log-odds of each view."""
        ...

    def score_images(self, candidates: Sequence[Candidate]) -> Answer:
        """The log-odds of whole candidates."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class RemoteScorer:
    """A scorer's views cut here and scored over a line."""

    def __init__(self, line: Line, info: ScorerInfo) -> None:
        assert info.views is not None
        self.name, self.fingerprint, self.geometry = info.name, info.fingerprint, info.views
        self._line = line
        self._views_at_once = info.views_at_once
        self._callers = ThreadPoolExecutor(_CALLS_AT_ONCE, "scorer-call")

    def views(self, image: Image) -> Image:
        """The squares of an image, uint8 H,W,3, that are scored: uint8 V,S,S,3."""
        return self.geometry.cut(image)

    def score(self, views: Image) -> NDArray[np.float32]:
        """Log-odds of "not degraded", float32 N, of N images given as views, uint8 N,V,S,S,3.

        Raises:
            ScorerBusy: the service has no room.
            ScorerError: it does not answer, or refuses.
        """
        flat = views.reshape(-1, *views.shape[2:])
        cuts = range(self._views_at_once, len(flat), self._views_at_once)
        parts = [part for part in np.split(flat, cuts) if len(part)]
        odds = list(self._callers.map(self._call, parts)) if len(parts) > 1 else list(map(self._call, parts))
        each = np.concatenate(odds) if odds else np.zeros(0, np.float32)
        scores: NDArray[np.float32] = each.reshape(views.shape[:2]).mean(axis=1, dtype=np.float32)
        return scores

    def _call(self, views: Image) -> NDArray[np.float32]:
        return _log_odds(self._line.score_views(ViewCall(views, self.fingerprint)), len(views), self)

    def close(self) -> None:
        """Wait for the calls that are under way."""
        self._callers.shutdown()


class RemoteBackend:
    """A scorer behind a line, as a backend."""

    def __init__(self, line: Line) -> None:
        self.info = line.info()
        self.name, self.fingerprint = self.info.name, self.info.fingerprint
        self._line = line
        self._scorer = RemoteScorer(line, self.info) if self.info.views is not None else None
        self._backend: ScoreBackend | None = LocalBackend(self._scorer) if self._scorer else None
        if self._backend is not None and self.info.consistency:
            self._backend = ConsistentBackend(self._backend, self.info.consistency)

    def score(self, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """See :meth:`iqa_service.scorers.backends.ScoreBackend.score`.

        Raises:
            ScorerBusy: the service has no room; it says when to come back.
        """
        if self._backend is not None:
            return self._backend.score(candidates)
        if not candidates:
            return np.zeros(0, np.float32)
        return _log_odds(self._line.score_images(candidates), len(candidates), self)

    def close(self) -> None:
        """Hang up."""
        if self._scorer is not None:
            self._scorer.close()
        self._line.close()


class _Known(Protocol):
    name: str
    fingerprint: str


def _log_odds(answer: Answer, count: int, meant: _Known) -> NDArray[np.float32]:
    if answer.fingerprint != meant.fingerprint:
        raise ScorerError(other_scorer(meant.name, answer.fingerprint, meant.fingerprint))
    if answer.log_odds is None:
        raise ScorerError(answer.problem or "the scorer's service refused and gave no reason: see its log")
    if len(answer.log_odds) != count:
        raise ScorerError(
            f"the scorer's service gave {len(answer.log_odds)} scores for {count}: install its version here"
        )
    return answer.log_odds


class HandleLine:
    """By a Serve handle, within one Ray cluster."""

    def __init__(self, handle: DeploymentHandle[Any], name: str, timeout: float) -> None:
        self._handle, self._name, self._timeout = handle, name, timeout

    def info(self) -> ScorerInfo:
        """See :class:`Line`."""
        info: ScorerInfo = self._ask("info")
        return info

    def score_views(self, call: ViewCall) -> Answer:
        """See :class:`Line`."""
        answer: Answer = self._ask("score_views", call)
        return answer

    def score_images(self, candidates: Sequence[Candidate]) -> Answer:
        """See :class:`Line`."""
        answer: Answer = self._ask("score_images", list(candidates))
        return answer

    def close(self) -> None:
        """Nothing to hang up: handles of one deployment share what they hold."""

    def _ask(self, method: str, *arguments: Any) -> Any:
        from ray.exceptions import RayActorError, RayError
        from ray.serve.exceptions import BackPressureError, RayServeException, ReplicaUnavailableError

        deadline = time.monotonic() + self._timeout
        for attempt in range(1, _TRIES + 1):
            response = self._handle.options(method_name=method).remote(*arguments)
            try:
                return response.result(timeout_s=max(0.0, deadline - time.monotonic()))
            except BackPressureError as busy:
                raise ScorerBusy(self._name, busy.retry_after_s or 1.0) from None
            except TimeoutError:
                response.cancel()  # type: ignore[no-untyped-call]
                raise ScorerAway(
                    f"{self._name} did not answer in {self._timeout:g} s: see `serve status`, "
                    "or allow it more with ?timeout=..."
                ) from None
            except (RayActorError, ReplicaUnavailableError) as dead:
                if attempt == _TRIES or time.monotonic() > deadline:
                    raise ScorerAway(f"{self._name} keeps dying: {dead}") from dead
            except (RayServeException, RayError) as problem:
                first = str(problem).strip().splitlines()[-1]
                raise ScorerError(f"{self._name} failed ({first}): see its log") from problem
        raise AssertionError


def _handle(app: str) -> DeploymentHandle[Any]:
    # Serve's settings for throughput would move the router into an event loop that cannot be waited for.
    os.environ.setdefault("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "1")
    import logging

    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError:
            raise ScorerError(
                f"'serve:{app}' needs a Ray cluster, and none runs here: start one, give an http:// address, "
                "or score in this process with local:..."
            ) from None
    try:
        return serve.get_deployment_handle(SCORER, app)
    except (KeyError, RayServeException):
        raise ScorerError(
            f"no scorer runs as '{app}' in this Ray cluster: deploy it with `serve deploy deploy/serve.yaml`"
        ) from None


class HTTPLine:
    """By HTTP; the token is that of the environment variable RGSUD_SCORER_TOKEN."""

    def __init__(self, url: str, timeout: float) -> None:
        import httpx

        token = token_of_environment()
        self._url = url.rstrip("/")
        try:
            self._client = httpx.Client(
                base_url=self._url,
                timeout=timeout,
                headers={"Authorization": f"Bearer {token.get_secret_value()}"} if token else None,
            )
        except httpx.InvalidURL as problem:
            raise ScorerError(f"'{url}' is no address ({problem}): write http://HOST:PORT") from None

    def info(self) -> ScorerInfo:
        """See :class:`Line`."""
        return self._parsed(ScorerInfo, self._ask("GET", "/v1/scorer"))

    def score_views(self, call: ViewCall) -> Answer:
        """See :class:`Line`."""
        body = self._ask(
            "POST",
            "/v1/views",
            params={"fingerprint": call.fingerprint} if call.fingerprint else None,
            content=call.views.tobytes(),
            headers={"Content-Type": "application/octet-stream"},
        )
        scores = self._parsed(ViewScores, body)
        return Answer(scores.fingerprint, np.array(scores.log_odds, np.float32))

    def score_images(self, candidates: Sequence[Candidate]) -> Answer:
        """See :class:`Line`; one request for each, for photographs are large."""
        odds: list[float] = []
        fingerprint: str | None = None
        for candidate in candidates:
            image = {"id": candidate.id, "image": _png(candidate.image)}
            if candidate.rainy is not None:
                image["rainy"] = _png(candidate.rainy)
            answer = self._parsed(Scores, self._ask("POST", "/v1/score", json={"images": [image]}))
            if fingerprint not in (None, answer.fingerprint):
                return Answer(answer.fingerprint, problem="the scorer was exchanged meanwhile: ask again")
            fingerprint = answer.fingerprint
            (score,) = answer.scores
            if score.log_odds is None:
                return Answer(answer.fingerprint, problem=score.error)
            odds.append(score.log_odds)
        return Answer(answer.fingerprint, np.array(odds, np.float32))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, method: str, path: str, **request: Any) -> bytes:
        import httpx

        for attempt in range(1, _TRIES + 1):
            try:
                response = self._client.request(method, path, **request)
                break
            except httpx.TimeoutException:
                raise ScorerAway(
                    f"the scorer at {self._url} did not answer in {self._client.timeout.read:g} s: look at "
                    f"its /readyz, or allow it more with {self._url}?timeout=..."
                ) from None
            except httpx.TransportError as problem:
                if attempt == _TRIES or not isinstance(problem, httpx.RemoteProtocolError | httpx.ReadError):
                    raise ScorerAway(
                        f"no scorer answers at {self._url} ({problem}): start it with `rgsud scorer serve`, "
                        "or put the address right"
                    ) from None
        return self._checked(response)

    def _checked(self, response: httpx.Response) -> bytes:
        if response.is_success:
            return response.content
        if response.status_code in (429, 503):
            raise ScorerBusy(f"the scorer at {self._url}", _seconds(response.headers))
        if response.status_code == 401:
            raise ScorerError(
                f"the scorer at {self._url} wants another token: set {TOKEN_VARIABLE} to that of the service"
            )
        try:
            detail = response.json()["detail"]
        except (ValueError, LookupError, TypeError):
            detail = "no scorer's service of this version answers there, put the address right"
        raise ScorerError(f"the scorer at {self._url} answered {response.status_code}: {detail}")

    def _parsed(self, model: type[_Model], body: bytes) -> _Model:
        try:
            return model.model_validate_json(body)
        except ValidationError:
            raise ScorerError(
                f"what answers at {self._url} is no scorer's service of this version: put the address right"
            ) from None


def _seconds(headers: Mapping[str, str]) -> float:
    try:
        return max(0.0, float(headers.get("retry-after", "1")))
    except ValueError:  # a date, which proxies may give
        return 1.0


def _png(image: Image) -> str:
    encoded = io.BytesIO()
    PIL.Image.fromarray(image).save(encoded, "png", compress_level=1)
    return base64.b64encode(encoded.getvalue()).decode()


def open_handle(app: str, /, timeout: Seconds = 60.0) -> RemoteBackend:
    """``serve:APP``: an application in this process's Ray cluster, or in one that it can join."""
    return RemoteBackend(HandleLine(_handle(app), f"the scorer 'serve:{app}'", timeout))


def open_http(url: str, /, timeout: Seconds = 60.0) -> RemoteBackend:
    """``http://HOST:PORT`` or ``https://...``: a service anywhere."""
    return RemoteBackend(HTTPLine(url, timeout))

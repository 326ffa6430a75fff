"""``http://HOST:PORT``: a scorer anywhere, by its HTTP interface."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import PIL.Image
from pydantic import BaseModel, ValidationError

from iqa_service.errors import ScorerAway, ScorerBusy, ScorerError
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.remote import Answer, ScorerInfo, ViewCall, connect
from iqa_service.serving.schemas import Scores, ViewScores
from iqa_service.serving.settings import TOKEN_VARIABLE, Seconds, token_of_environment
from rgsud_core.images import Image

if TYPE_CHECKING:
    import httpx

_Model = TypeVar("_Model", bound=BaseModel)
_TRIES = 3
"""Attempts of a call whose connection breaks. Scoring has no side effects, so that a call may be repeated."""


class HttpTransport:
    """Calls by HTTP; the token is that of the environment variable RGSUD_SCORER_TOKEN."""

    def __init__(self, url: str, timeout: float) -> None:
        import httpx

        token = token_of_environment()
        self._url = url.rstrip("/")
        try:
            self._client = httpx.Client(
                base_url=self._url,
                timeout=timeout,
                trust_env=False,  # a proxy does not know the machines here, and one for SOCKS needs more
                headers={"Authorization": f"Bearer {token.get_secret_value()}"} if token else None,
            )
        except httpx.InvalidURL as problem:
            raise ScorerError(f"'{url}' is no address ({problem}): write http://HOST:PORT") from None

    def info(self) -> ScorerInfo:
        """See :class:`~iqa_service.scorers.remote.Transport`."""
        return self._parsed(ScorerInfo, self._request("GET", "/v1/scorer"))

    def score_views(self, call: ViewCall) -> Answer:
        """See :class:`~iqa_service.scorers.remote.Transport`."""
        body = self._request(
            "POST",
            "/v1/views",
            params={"fingerprint": call.fingerprint} if call.fingerprint else None,
            content=call.views.tobytes(),
            headers={"Content-Type": "application/octet-stream"},
        )
        scores = self._parsed(ViewScores, body)
        return Answer(scores.fingerprint, np.array(scores.log_odds, np.float32))

    def score_images(self, candidates: Sequence[Candidate]) -> Answer:
        """See :class:`~iqa_service.scorers.remote.Transport`; one request for each: images are large."""
        odds: list[float] = []
        fingerprint = ""
        for candidate in candidates:
            sides = {"images": candidate.image, "rainy": candidate.rainy}
            files = {name: (candidate.id, _png(side)) for name, side in sides.items() if side is not None}
            answer = self._parsed(Scores, self._request("POST", "/v1/score", files=files))
            if fingerprint not in ("", answer.fingerprint):
                return Answer(answer.fingerprint, problem="the scorer was exchanged meanwhile: try again")
            fingerprint = answer.fingerprint
            (score,) = answer.scores
            if score.log_odds is None:
                return Answer(fingerprint, problem=score.error)
            odds.append(score.log_odds)
        return Answer(fingerprint, np.array(odds, np.float32))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _request(self, method: str, path: str, **request: Any) -> bytes:
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
                f"the scorer at {self._url} refuses the token: set {TOKEN_VARIABLE} to that of the service"
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


def _png(image: Image) -> bytes:
    encoded = io.BytesIO()
    PIL.Image.fromarray(image).save(encoded, "png", compress_level=1)
    return encoded.getvalue()


def open_http(url: str, /, timeout: Seconds = 60.0) -> ScoreBackend:
    """The scorer of a service at ``http://HOST:PORT`` or ``https://...``.

    Raises:
        ScorerError: no scorer of this version answers there.
    """
    transport = HttpTransport(url, timeout)
    return connect(transport, transport.info())

"""The scorer's HTTP interface, as an ASGI application over any line to a scorer."""

from __future__ import annotations

import hmac
import http
import math
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Annotated, Any

import prometheus_client
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as AnyHTTPException

from iqa_service.errors import ScorerAway, ScorerBusy, ScorerError
from iqa_service.scorers.remote import ScorerInfo, Transport
from iqa_service.serving.requests import Metrics, Refused, RequestHandler
from iqa_service.serving.schemas import ImageIn, Problem, Score, Scores, ViewScores
from iqa_service.serving.settings import TOKEN_VARIABLE, ServiceSettings
from iqa_service.serving.uploads import read_body, read_uploads

_PROBLEM = "application/problem+json"
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_IMAGES_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "additionalProperties": False,
                "properties": {
                    "images": {
                        "type": "array",
                        "minItems": 1,
                        "items": ImageIn.model_json_schema(),
                    }
                },
            },
            "example": {"images": [{"id": "street", "image": _PIXEL}]},
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {
                    "images": _FILES | {"description": "Image files; their names come back with the scores."},
                    "rainy": _FILES
                    | {"description": "The rainy image of each, in their order, where the scorer compares."},
                },
            }
        },
    },
}
_VIEWS_BODY = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


def _says(**statuses: str) -> dict[int | str, dict[str, Any]]:
    """What can go wrong, for OpenAPI; the keys are ``on_STATUS``."""
    return {
        int(key.removeprefix("on_")): {
            "description": text,
            "model": Problem,
            "content": {_PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for key, text in statuses.items()
    }


_BEARER = HTTPBearer(auto_error=False, description=f"That of {TOKEN_VARIABLE} at the service, if set.")
_AWAY = "No room, or no scorer at the moment; Retry-After says when to come back."
_REFUSED = "The token lacks or is wrong."


def make_api(transport: Transport, settings: ServiceSettings) -> FastAPI:
    """The application.

    Args:
        transport: connection to the scorer.
        settings: limits, and the token that callers must present, if any.
    """
    api = FastAPI(
        title="RGSUD scorer",
        version=version("rgsud"),
        summary="How far an image is from showing rain.",
        description=(
            'Scores are log-odds of "not degraded": higher is better. Scores with different fingerprints '
            "must never be compared."
        ),
        responses=_says(on_503=_AWAY),
    )
    metrics = Metrics()
    requests = RequestHandler(transport, settings, metrics)
    _tell_problems(api)
    _count_requests(api, metrics)

    def authorised(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        if settings.token is None:
            return
        presented = (given.credentials if given else "").encode()
        if not hmac.compare_digest(presented, settings.token.get_secret_value().encode()):
            raise HTTPException(
                401,
                "this scorer wants a token: send it as 'Authorization: Bearer TOKEN'",
                {"WWW-Authenticate": "Bearer"},
            )

    v1 = APIRouter(prefix="/v1", dependencies=[Depends(authorised)], responses=_says(on_401=_REFUSED))

    @v1.get("/scorer")
    async def scorer() -> ScorerInfo:
        """What scores here."""
        return await requests.in_thread(requests.info)

    @v1.post(
        "/score",
        openapi_extra={"requestBody": _IMAGES_BODY},
        responses=_says(
            on_400="The body cannot be read.",
            on_413="The body, an image, or the number of images exceeds its limit.",
            on_415="Neither JSON nor multipart.",
            on_422="What was sent has not the expected form, or no image could be scored.",
        ),
    )
    async def score(request: Request) -> Scores:
        """Score images: files in multipart, or base64 in JSON. One bad image never fails its neighbours."""
        return await requests.in_thread(requests.score_images, await read_uploads(request, settings))

    @v1.post(
        "/views",
        openapi_extra={"requestBody": _VIEWS_BODY},
        responses=_says(
            on_409="Another scorer answers here than the one that is meant.",
            on_413="The body exceeds its limit.",
            on_422="These are no views of this scorer.",
        ),
    )
    async def views(
        request: Request,
        fingerprint: Annotated[str | None, Query(max_length=128, description="Of the scorer meant.")] = None,
    ) -> ViewScores:
        """Score views, cut as /v1/scorer says: M x size x size x 3 bytes, RGB, row by row."""
        body = await read_body(request, settings.max_body_bytes)
        return await requests.in_thread(requests.score_views, body, fingerprint)

    api.include_router(v1)

    @api.get("/healthz")
    async def healthz() -> dict[str, bool]:
        """This process answers."""
        return {"alive": True}

    @api.get("/readyz")
    async def readyz() -> dict[str, bool]:
        """The scorer answers."""
        await requests.in_thread(requests.info)
        return {"ready": True}

    @api.get("/metrics", include_in_schema=False)
    async def exposition() -> Response:
        body = prometheus_client.generate_latest(metrics.registry)
        return Response(body, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return api


def _problem(
    status: int, detail: str, headers: dict[str, str] | None = None, scores: tuple[Score, ...] | None = None
) -> Response:
    told = Problem(title=http.HTTPStatus(status).phrase, status=status, detail=detail, errors=scores)
    return Response(told.model_dump_json(exclude_none=True), status, headers, _PROBLEM)


def _tell_problems(api: FastAPI) -> None:
    """Every error as application/problem+json."""

    @api.exception_handler(Refused)
    async def refused(request: Request, problem: Refused) -> Response:
        return _problem(problem.status, problem.detail, scores=problem.scores)

    @api.exception_handler(ScorerBusy)
    async def busy(request: Request, problem: ScorerBusy) -> Response:
        return _problem(503, str(problem), {"Retry-After": str(math.ceil(problem.retry_after))})

    @api.exception_handler(ScorerAway)
    async def away(request: Request, problem: ScorerAway) -> Response:
        return _problem(503, str(problem), {"Retry-After": "1"})

    @api.exception_handler(ScorerError)
    async def failed(request: Request, problem: ScorerError) -> Response:
        return _problem(500, str(problem))

    @api.exception_handler(AnyHTTPException)
    async def any_other(request: Request, problem: AnyHTTPException) -> Response:
        return _problem(problem.status_code, str(problem.detail), dict(problem.headers or {}))

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: RequestValidationError) -> Response:
        first = problem.errors()[0]
        return _problem(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    @api.exception_handler(Exception)
    async def unforeseen(request: Request, problem: Exception) -> Response:
        return _problem(500, "the scorer's service failed: its log says why")


def _count_requests(api: FastAPI, metrics: Metrics) -> None:
    @api.middleware("http")
    async def count(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.perf_counter()
        status = 500
        try:
            response = await answer(request)
            status = response.status_code
            return response
        finally:
            # Of the routes that exist only: anything may be asked for.
            path = getattr(request.scope.get("route"), "path", "other")
            metrics.requests.labels(path, status).inc()
            metrics.seconds.labels(path).observe(time.perf_counter() - started)

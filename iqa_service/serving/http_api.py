"""The scorer's HTTP interface, as an ASGI application over any transport to a scorer."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from fastapi import FastAPI, Query, Request

from iqa_service.errors import ScorerAway, ScorerBusy, ScorerError
from iqa_service.scorers.remote import ScorerInfo, Transport
from iqa_service.serving.requests import Metrics, RequestHandler
from iqa_service.serving.schemas import ImageIn, Score, Scores, ViewScores
from iqa_service.serving.settings import ServiceSettings
from iqa_service.serving.uploads import read_uploads
from rgsud_core.http.limits import Limits
from rgsud_core.http.problems import ProblemDetail
from rgsud_core.http.security import Access, Tokens
from rgsud_core.http.service import guarded

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


class ScorerProblem(ProblemDetail):
    """An error, and what is wrong with each image where several were sent."""

    errors: tuple[Score, ...] | None = None


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
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
    )
    metrics = Metrics()
    requests = RequestHandler(transport, settings, metrics)

    @api.get("/v1/scorer")
    async def scorer() -> ScorerInfo:
        """The scorer that answers here."""
        return await requests.in_thread(requests.info)

    @api.post("/v1/score", openapi_extra={"requestBody": _IMAGES_BODY})
    async def score(request: Request) -> Scores:
        """Score images: files in multipart, or base64 in JSON. One bad image never fails its neighbours."""
        body = await request.body()
        return await requests.in_thread(
            lambda: requests.score_images(read_uploads(body, request.headers, settings))
        )

    @api.post("/v1/views", openapi_extra={"requestBody": _VIEWS_BODY})
    async def views(
        request: Request,
        fingerprint: Annotated[
            str | None, Query(max_length=128, description="Fingerprint of the scorer meant.")
        ] = None,
    ) -> ViewScores:
        """Score views, cut as /v1/scorer says: M x size x size x 3 bytes, RGB, row by row."""
        return await requests.in_thread(requests.score_views, await request.body(), fingerprint)

    return guarded(
        api,
        service="scorer",
        tokens=tokens_of(settings),
        limits=limits_of(settings),
        access=Access(),
        errors={ScorerError: 500, ScorerAway: 503, ScorerBusy: 503},
        ready=requests.info,
        registry=metrics.registry,
        problem=ScorerProblem,
    )


def limits_of(settings: ServiceSettings) -> Limits:
    """Limits of the HTTP interface."""
    return Limits(body=settings.max_body_bytes)


def tokens_of(settings: ServiceSettings) -> Tokens:
    """Tokens of the HTTP interface."""
    return Tokens([("write", settings.token.get_secret_value())] if settings.token else ())

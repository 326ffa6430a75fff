"""Errors as `application/problem+json` (RFC 9457): a status, and one sentence that says what to do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi import HTTPException as FastAPIHTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from pool_store.errors import PoolConflict, PoolDamaged, PoolError, PoolFull, PoolMissing, PoolUnavailable

RETRY_SECONDS = 2
"""When to come back after a 503: what a restart of the server takes."""
_STATUS: dict[type[PoolError], int] = {
    PoolMissing: 404,
    PoolConflict: 409,
    PoolDamaged: 500,
    PoolUnavailable: 503,
    PoolFull: 507,
}
_SENTENCES = {
    404: "there is nothing at {path}: GET /openapi.json lists what there is",
    405: "{path} does not take {method}: GET /openapi.json lists what it takes",
}

log = logging.getLogger(__name__)


class ProblemDetail(BaseModel):
    """The body of every answer from 400 on; `detail` is one sentence."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class Problem(FastAPIHTTPException):
    """Ends a request with `status` and one sentence."""


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer with that status and sentence."""
    body = ProblemDetail(title=HTTPStatus(status).phrase, status=status, detail=detail)
    headers = {"cache-control": "no-store", **(headers or {})}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("retry-after", str(RETRY_SECONDS))
    return JSONResponse(body.model_dump(), status, headers, "application/problem+json")


def answer_with_problems(app: FastAPI) -> None:
    """Makes every error of `app` a problem."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(PoolError, _pool)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if not isinstance(error, Problem) and error.status_code in _SENTENCES:
        detail = _SENTENCES[error.status_code].format(path=request.url.path, method=request.method)
    return problem(error.status_code, detail, error.headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first, *others = error.errors()
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "model_attributes_type" and "json" not in request.headers.get("content-type", ""):
        return problem(415, "send the body as JSON, with 'Content-Type: application/json'")
    more = f" (and {len(others)} more problems like it)" if others else ""
    return problem(422, f"{place}: {first['msg']}{more}")


async def _pool(_: Request, error: Exception) -> JSONResponse:
    status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 422)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("%s", error)
    return problem(status, str(error))

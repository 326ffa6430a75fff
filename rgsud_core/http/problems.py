"""Errors as `application/problem+json` (RFC 9457): a status, and one sentence that says what to do."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from fastapi import FastAPI

RETRY_SECONDS = 2.0
"""Retry-After of a 503 whose error names no `retry_after`: the time that a restart of a server takes."""
MEDIA_TYPE = "application/problem+json"
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


class Problem(HTTPException):
    """Ends a request.

    Args:
        status: HTTP status of the answer.
        detail: one sentence that says what to do.
        headers: of the answer.
        more: further members of the body, as JSON values.
    """

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(status, detail, headers)
        self.more = more

    def answer(self) -> JSONResponse:
        """The response with this problem."""
        status = self.status_code
        body = ProblemDetail(title=HTTPStatus(status).phrase, status=status, detail=self.detail)
        headers = {"cache-control": "no-store", **(self.headers or {})}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.setdefault("retry-after", str(math.ceil(RETRY_SECONDS)))
        return JSONResponse(body.model_dump() | self.more, status, headers, MEDIA_TYPE)


def answer_with_problems(app: FastAPI, errors: Mapping[type[Exception], int]) -> None:
    """Answers every error of `app` with a problem.

    Args:
        app: the application.
        errors: statuses of the service's own errors, whose text is the sentence; the nearest class counts. An
            attribute `retry_after` (seconds) becomes the header.
    """

    from fastapi.exceptions import RequestValidationError

    async def known(_: Request, error: Exception) -> JSONResponse:
        status = next(errors[kind] for kind in type(error).__mro__ if kind in errors)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("%s", error)
        retry_after = getattr(error, "retry_after", None)
        headers = {} if retry_after is None else {"retry-after": str(math.ceil(retry_after))}
        return Problem(status, str(error), headers).answer()

    for kind in errors:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return error.answer()


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = _SENTENCES.get(error.status_code, str(error.detail))
    detail = detail.format(path=request.url.path, method=request.method)
    return Problem(error.status_code, detail, error.headers).answer()


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    from fastapi.exceptions import RequestValidationError

    assert isinstance(error, RequestValidationError)
    first, *others = error.errors()
    if first["type"] == "json_invalid":
        return Problem(
            400, f"the body is no JSON: {first.get('ctx', {}).get('error', first['msg'])}"
        ).answer()
    if first["type"] == "model_attributes_type" and "json" not in request.headers.get("content-type", ""):
        return Problem(415, "send the body as JSON, with 'Content-Type: application/json'").answer()
    said = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(others)} more problems like it)" if others else ""
    return Problem(422, f"{'.'.join(map(str, first['loc']))}: {said}{more}").answer()

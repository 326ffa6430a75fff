"""`guarded`: what every request passes before a route sees it, and the routes that every service has."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal

import anyio
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rgsud_core.http.limits import HEAD_BYTES, VALUES, Limits, Load, TokenBucket
from rgsud_core.http.problems import MEDIA_TYPE, Problem, ProblemDetail, answer_with_problems
from rgsud_core.http.security import HEADERS, HEALTH, Access, Tokens, authorise, refuse_other_sites

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_SLICE = 256 << 10
"""Largest part of an answer that is handed on at once, so that unread answers stay with the client."""
_GONE = 499
"""The status counted if the client disconnected before the answer."""
_PARSERS = 2
"""JSON bodies parsed at a time, each in some ten times its size of memory."""
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)
log = logging.getLogger(__name__)
access_log = logging.getLogger("rgsud.access")
"""A line of JSON for every request, if the service has an access log."""


class Health(BaseModel):
    """The service answers."""

    status: Literal["ok"] = "ok"


class JsonRoute(APIRoute):
    """A route whose JSON bodies are parsed in a thread, so that other requests are answered meanwhile.

    Problem 413 before anything is parsed where a body holds more than `VALUES` values, since these take
    many times the memory of their text, and no other thread runs while they are made.
    """

    _parsers = anyio.CapacityLimiter(_PARSERS)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI."""
        handle, parsed = super().get_route_handler(), self._parsed

        class Parsed(Request):
            async def json(self) -> Any:
                return await parsed(await self.body())

        async def handle_parsed(request: Request) -> Response:
            return await handle(Parsed(request.scope, request.receive))

        return handle_parsed

    async def _parsed(self, body: bytes) -> Any:
        return await anyio.to_thread.run_sync(_parse, body, limiter=JsonRoute._parsers)


class BytesRoute(JsonRoute):
    """A route whose body is bytes, which are never parsed, even if they are said to be JSON."""

    async def _parsed(self, body: bytes) -> Any:
        return body


def _parse(body: bytes) -> Any:
    signs = (b",", b"[", b"{")
    if sum(map(body.count, signs)) > VALUES and sum(map(_STRING.sub(b"", body).count, signs)) > VALUES:
        raise Problem(413, f"the body holds more than {VALUES} values: send fewer at a time")
    return json.loads(body)


def guarded(
    app: FastAPI,
    *,
    service: str,
    tokens: Tokens,
    limits: Limits,
    access: Access,
    errors: Mapping[type[Exception], int],
    ready: Callable[[], object],
    registry: CollectorRegistry,
    problem: type[ProblemDetail] = ProblemDetail,
    log_access: bool = False,
) -> FastAPI:
    """Adds to an application what all services have: tokens, limits, problems, health, metrics, access log.

    Args:
        app: the application with its routes.
        service: its name in metrics, as in `rgsud_NAME_http_request_seconds`.
        tokens: those it takes; without any it serves everyone who reaches it by a name of this machine.
        limits: how much it takes.
        access: which requests need which token.
        errors: statuses of the service's own errors.
        ready: raises one of those errors where the service cannot work at the moment; called in a thread.
        registry: of the metrics, which `/metrics` shows.
        problem: the form of problems, for OpenAPI.
        log_access: log a line of JSON for every request.

    Returns:
        The same application.
    """
    answer_with_problems(app, errors)
    seconds = Histogram(
        f"rgsud_{service}_http_request_seconds",
        "Time from a request's head to the end of its answer.",
        ("method", "route", "status"),
        buckets=_SECONDS,
        registry=registry,
    )
    app.add_middleware(
        _Gate, tokens=tokens, limits=limits, access=access, seconds=seconds, log_access=log_access
    )
    # Threads of its own: requests that wait in the others do not make the service look unready.
    probes = anyio.CapacityLimiter(4)

    @app.get("/healthz")
    async def healthy() -> Health:
        """The process answers."""
        return Health()

    @app.get("/readyz")
    async def is_ready() -> Health:
        """Everything the service needs answers; 503 otherwise."""
        await anyio.to_thread.run_sync(ready, limiter=probes)
        return Health()

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    _describe(app, access, problem)
    return app


class _Gate:
    """The middleware around the whole application: nothing of a body is read for who may not send it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens,
        limits: Limits,
        access: Access,
        seconds: Histogram,
        log_access: bool,
    ) -> None:
        self._app, self._tokens, self._limits, self._access = app, tokens, limits, access
        self._seconds, self._log_access = seconds, log_access
        self._buckets, self._load = TokenBucket(limits.rate), Load(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), _GONE

        async def secured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
                await send(message)
                return
            body, more = message.get("body", b""), message.get("more_body", False)
            for start in range(0, max(len(body), 1), _SLICE):
                end = start + _SLICE
                await send({**message, "body": body[start:end], "more_body": more or end < len(body)})

        held = None
        try:
            self._refuse(scope)
            if scope["path"] not in HEALTH:
                held = self._load.begin()
                receive = held.limited(scope, receive, self._limits.of(scope["path"]))
            await self._app(scope, receive, secured)
        except Problem as refused:
            # Raised here or while the body was read; the rest of that body is not waited for.
            answer = refused.answer()
            answer.headers["connection"] = "close"
            await answer(scope, receive, secured)
        except ClientDisconnect:
            pass
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if status != _GONE:
                raise
            said = "the service failed on this request: its log says why, please report it"
            await Problem(500, said).answer()(scope, receive, secured)
        finally:
            if held:
                held.end()
            self._note(scope, status, time.perf_counter() - began)

    def _refuse(self, scope: Scope) -> None:
        """Problem where the request is refused before its body is read."""
        method, path, headers = scope["method"], scope["path"], scope["headers"]
        wait = self._buckets.wait(_client(scope)) if path != HEALTH[0] else 0.0
        if wait:
            raise Problem(
                429,
                f"more than {self._limits.rate:g} requests a second: send larger batches, or wait",
                {"retry-after": str(math.ceil(wait))},
            )
        if sum(len(name) + len(value) for name, value in headers) > HEAD_BYTES:
            raise Problem(431, f"the headers are larger than {HEAD_BYTES} bytes: send fewer")
        needed = self._access.needed(method, path)
        refuse_other_sites(needed, headers, loopback_only=not self._tokens)
        if self._tokens:
            authorise(self._tokens, needed, headers)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        # Methods and paths that do not exist are counted together: clients may invent any number of them.
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", "none")
        self._seconds.labels(method, route, str(status)).observe(seconds)
        if self._log_access:
            line = {
                "time": round(time.time(), 3),
                "client": _client(scope),
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round(1000 * seconds, 2),
            }
            access_log.info(json.dumps(line))


def _client(scope: Scope) -> str:
    return str(scope["client"][0]) if scope.get("client") else ""


def _describe(app: FastAPI, access: Access, problem: type[ProblemDetail]) -> None:
    """Sets `app.openapi`: what FastAPI finds, and what it cannot know, which is problems and tokens."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
            )
            app.openapi_schema = _complete(schema, access, problem)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(schema: dict[str, Any], access: Access, problem: type[ProblemDetail]) -> dict[str, Any]:
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    found = problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= found.pop("$defs", {}) | {"Problem": found}
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    answer = {
        "description": "What went wrong, in a sentence",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = answer
            scope = access.needed(method.upper(), path)
            operation["security"] = [{"token": [scope]}] if scope else []
    return schema

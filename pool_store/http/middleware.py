"""What every request passes before a route sees it: rate, host and origin, token, size."""

from __future__ import annotations

import json
import logging
import math
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pool_store.http.limits import Limits, TokenBucket, limited
from pool_store.http.metrics import Metrics
from pool_store.http.problems import Problem, problem
from pool_store.http.security import HEADERS, Tokens, authorise, needed_scope, refuse_other_sites

_HEAD_BYTES = 32 << 10
_GONE = 499
"""The status counted where the client went before it was answered."""
log = logging.getLogger(__name__)
access = logging.getLogger("pool_store.access")


class Gate:
    """The middleware around the whole application: nothing of a body is read for who may not send it."""

    def __init__(
        self, app: ASGIApp, *, tokens: Tokens, limits: Limits, metrics: Metrics, access_log: bool
    ) -> None:
        self._app = app
        self._tokens, self._limits, self._metrics = tokens, limits, metrics
        self._buckets = TokenBucket(limits.rate)
        self._access_log = access_log

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

        try:
            await self._app(scope, self._admitted(scope, receive), secured)
        except Problem as refused:
            # Raised here or while the body was read; the rest of that body is not waited for.
            headers = {**(refused.headers or {}), "connection": "close"}
            await problem(refused.status_code, refused.detail, headers)(scope, receive, secured)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if status != _GONE:
                raise
            said = "the service failed on this request: its log says why, please report it"
            await problem(500, said)(scope, receive, secured)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.observe(scope["method"], route, status, seconds)
            if self._access_log:
                self._log(scope, status, seconds)

    def _admitted(self, scope: Scope, receive: Receive) -> Receive:
        """What the application may read; Problem where the request is refused."""
        method, path, headers = scope["method"], scope["path"], scope["headers"]
        wait = self._buckets.wait(scope["client"][0] if scope["client"] else "")
        if wait:
            raise Problem(
                429,
                f"more than {self._limits.rate:g} requests a second: send larger batches, or wait",
                {"retry-after": str(math.ceil(wait))},
            )
        if sum(len(name) + len(value) for name, value in headers) > _HEAD_BYTES:
            raise Problem(431, f"the headers are larger than {_HEAD_BYTES} bytes: send fewer")
        refuse_other_sites(method, headers, loopback_only=not self._tokens)
        if self._tokens:
            authorise(self._tokens, needed_scope(method, path), headers)
        restores = method == "PUT" and path.endswith("/dump")
        return limited(scope, receive, self._limits.dump if restores else self._limits.body)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        line = {
            "time": round(time.time(), 3),
            "client": scope["client"][0] if scope["client"] else "",
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1000 * seconds, 2),
        }
        access.info(json.dumps(line))

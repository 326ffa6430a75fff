"""Serves an application from this process until a signal ends it, with limits on connections."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from rgsud_core.errors import ServiceError, first_line
from rgsud_core.http import limits as _limits
from rgsud_core.http.limits import Limits
from rgsud_core.http.security import Tokens, is_loopback
from rgsud_core.http.service import access_log

FINISH_SECONDS = 30
"""Time in which requests in progress are finished when the service ends."""
_BACKLOG = 128
"""Connections accepted in one go, before the limit on their number is applied."""
_MALLOC = {-3: 1 << 20, -8: 2}
"""glibc's M_MMAP_THRESHOLD, bytes from which on freed memory goes back to the system at once, and
M_ARENA_MAX, its heaps: each thread would keep what its largest images took."""


def run(
    opening: AbstractContextManager[FastAPI],
    *,
    host: str,
    port: int,
    tokens: Tokens,
    remedy: str,
    limits: Limits,
    on_ready: Callable[[str], None],
) -> None:
    """Serves an application at `host:port` (any free port where it is 0) until SIGTERM or SIGINT.

    Requests in hand are finished first.

    Args:
        opening: opens what the application needs, once the address is known to be free, and closes it in
            the end.
        host: address to listen on.
        port: TCP port.
        tokens: those that the application takes.
        remedy: how to set one, such as "set RGSUD_POOL_TOKEN".
        limits: `connections` is what counts here.
        on_ready: called with the service's URL once it can be reached.

    Raises:
        ServiceError: there is no token and other machines could reach `host`, or the address cannot be used.
    """
    if not tokens and not is_loopback(host):
        raise ServiceError(
            f"{host} can be reached from other machines, so a token is needed: {remedy}, or use "
            "--host 127.0.0.1"
        )
    with contextlib.suppress(AttributeError, OSError):  # where the C library is glibc
        for parameter, value in _MALLOC.items():
            ctypes.CDLL(None).mallopt(parameter, value)
    access_log.addHandler(logging.StreamHandler())
    access_log.setLevel(logging.INFO)
    access_log.propagate = False
    shown = f"[{host}]" if ":" in host else host
    with _listen(host, port) as listener, contextlib.suppress(KeyboardInterrupt), opening as app:
        # uvicorn hands the signal on when it has ended: here to what lets `opening` close too.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        on_ready(f"http://{shown}:{listener.getsockname()[1]}")
        uvicorn.Server(configured(app, limits)).run(sockets=[listener])


def configured(app: Any, limits: Limits) -> uvicorn.Config:
    """How uvicorn serves an application."""
    return uvicorn.Config(
        app,
        http=_connections(limits),
        ws="none",
        backlog=_BACKLOG,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # or clients would choose the address that their rate is counted for
        server_header=False,
        timeout_graceful_shutdown=FINISH_SECONDS,
    )


def _connections(limits: Limits) -> type[H11Protocol]:
    """The protocol of one server's connections.

    A connection is silent until the head of a request is complete, and again from the end of the answer on.
    It is closed when it has been so for `HEAD_SECONDS`, or when there are too many and no other has been so
    for longer. The number of requests in hand is limited too, so that there is always a silent one to close.
    A client that leaves an answer unread for `STALLED_SECONDS` is closed as well.
    """
    silent: dict[H11Protocol, asyncio.TimerHandle] = {}
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = limits.connections if files == resource.RLIM_INFINITY else min(limits.connections, files // 2)

    class Connection(H11Protocol):
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()
            if len(self.connections) > most:
                next(iter(silent))._close()  # type: ignore[attr-defined]

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._head_is_complete()
            self.resume_writing()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self.loop.call_later(_limits.STALLED_SECONDS, self._close)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._unread is not None:
                self._unread.cancel()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._head_is_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.cycle.response_complete:  # else the next request was there already
                self._await_head()

        def _await_head(self) -> None:
            self._head_is_complete()
            silent[self] = self.loop.call_later(_limits.HEAD_SECONDS, self._close)

        def _head_is_complete(self) -> None:
            if timer := silent.pop(self, None):
                timer.cancel()

        def _close(self) -> None:
            self._head_is_complete()
            self.transport.abort()

    return Connection


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise ServiceError(
            f"cannot listen on {host}:{port} ({first_line(error)}): choose another --host or --port"
        ) from error

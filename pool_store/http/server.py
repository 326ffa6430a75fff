"""Runs the service in this process until it is told to end."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Callable

import uvicorn

from pool_store.engine.pools import open_host
from pool_store.errors import PoolError
from pool_store.http.app import create_app
from pool_store.http.limits import Limits
from pool_store.http.middleware import access
from pool_store.http.security import READ_TOKEN, WRITE_TOKEN, Tokens, is_loopback

FINISH_SECONDS = 30
"""What requests in hand have for their end."""


def serve(
    spec: str,
    *,
    host: str,
    port: int,
    tokens: Tokens,
    limits: Limits,
    access_log: bool,
    on_ready: Callable[[str], None],
) -> None:
    """Serves the pools of `spec` at `host:port` (any free port where it is 0) until SIGTERM or SIGINT.

    Requests in hand are finished first. `on_ready` hears the service's URL once it can be reached.

    Raises:
        PoolError: there is no token and other machines could reach `host`, the address cannot be used, or the
            pools cannot be opened.
    """
    if not tokens and not is_loopback(host):
        raise PoolError(
            f"{host} can be reached from other machines, so a token is needed: set {WRITE_TOKEN} (and "
            f"{READ_TOKEN} for readers), or use --token-file, or --host 127.0.0.1"
        )
    if access_log:
        access.addHandler(logging.StreamHandler())
        access.setLevel(logging.INFO)
        access.propagate = False
    with _listen(host, port) as listener, contextlib.closing(open_host(spec)) as pools:
        config = uvicorn.Config(
            create_app(pools, tokens, limits, access_log=access_log),
            log_level="warning",
            access_log=False,
            proxy_headers=False,  # or clients would choose the address that their rate is counted for
            server_header=False,
            timeout_graceful_shutdown=FINISH_SECONDS,
        )
        shown = f"[{host}]" if ":" in host else host
        with contextlib.suppress(KeyboardInterrupt):
            # uvicorn hands the signal on when it has ended: here to what lets the pools be closed too.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            on_ready(f"http://{shown}:{listener.getsockname()[1]}")
            uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PoolError(
            f"cannot listen on {host}:{port} ({reason}): choose another --host or --port"
        ) from error

"""Serves the pools over HTTP from this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from fastapi import FastAPI

from pool_store.engine.pools import open_host
from pool_store.http.app import TOKEN_VARIABLES, create_app
from pool_store.http.limits import Limits
from rgsud_core.http.runner import run
from rgsud_core.http.security import Tokens


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
    """Serves the pools of `spec` as :func:`rgsud_core.http.runner.run` says.

    Raises:
        ServiceError: see there.
        PoolError: the pools cannot be opened.
    """

    @contextlib.contextmanager
    def opening() -> Iterator[FastAPI]:
        with contextlib.closing(open_host(spec)) as pools:
            yield create_app(pools, tokens, limits, access_log=access_log)

    write, read = TOKEN_VARIABLES["write"], TOKEN_VARIABLES["read"]
    remedy = f"set {write} (and {read} for readers), or use --token-file"
    run(opening(), host=host, port=port, tokens=tokens, remedy=remedy, limits=limits, on_ready=on_ready)

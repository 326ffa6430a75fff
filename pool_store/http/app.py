"""The reward pool as an HTTP service: the API under `/v1`, metrics, probes, and the page that shows it."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from pool_store.engine.pools import PoolHost
from pool_store.errors import PoolConflict, PoolDamaged, PoolError, PoolFull, PoolMissing, PoolUnavailable
from pool_store.http.limits import Limits
from pool_store.http.metrics import PoolCollector
from pool_store.http.routes import pool_routes
from rgsud_core.http.page import OPEN, add_page
from rgsud_core.http.security import Access, Scope, Tokens
from rgsud_core.http.service import guarded

PAGE = Path(__file__).with_name("dashboard")
TOKEN_VARIABLES: dict[Scope, str] = {"write": "RGSUD_POOL_TOKEN", "read": "RGSUD_POOL_READ_TOKEN"}
"""Environment variables of the service; clients send the first."""
ACCESS = Access(open=OPEN, reading_posts=("entries",))
STATUSES: dict[type[Exception], int] = {
    PoolError: 422,
    PoolMissing: 404,
    PoolConflict: 409,
    PoolDamaged: 500,
    PoolUnavailable: 503,
    PoolFull: 507,
}


def create_app(
    host: PoolHost, tokens: Tokens | None = None, limits: Limits | None = None, *, access_log: bool = False
) -> FastAPI:
    """The application over the pools in `host`, which it does not close.

    Without tokens it serves everyone who reaches it by a name of this machine.
    """
    tokens, limits = tokens or Tokens(), limits or Limits()
    app = FastAPI(
        title="RGSUD reward pool",
        version="1",
        description="The best derained image seen so far of every rainy image, by score.",
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    registry = CollectorRegistry()
    registry.register(PoolCollector(lambda: {pool.name: pool.stats() for pool in host.opened()}))
    app.include_router(pool_routes(host, limits, shared=not tokens))

    add_page(app, PAGE)
    return guarded(
        app,
        service="pool",
        tokens=tokens,
        limits=limits,
        access=ACCESS,
        errors=STATUSES,
        ready=lambda: host.ping(),
        registry=registry,
        log_access=access_log,
    )

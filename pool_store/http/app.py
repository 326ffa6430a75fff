"""The reward pool as an HTTP service: the API under `/v1`, metrics, probes, and the page that shows it."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pool_store.engine.pools import PoolHost
from pool_store.http.limits import Limits
from pool_store.http.messages import Health
from pool_store.http.metrics import Metrics
from pool_store.http.middleware import Gate
from pool_store.http.openapi import describe
from pool_store.http.problems import answer_with_problems
from pool_store.http.routes import pool_routes
from pool_store.http.security import Tokens
from pool_store.schemas import Stats

PAGE = Path(__file__).with_name("dashboard")


def create_app(
    host: PoolHost, tokens: Tokens | None = None, limits: Limits | None = None, *, access_log: bool = False
) -> FastAPI:
    """The application over the pools in `host`, which it does not close.

    Without tokens it serves everyone who reaches it by a name of this machine.
    """
    tokens, limits = tokens or Tokens(), limits or Limits()

    def statistics() -> dict[str, Stats]:
        return {pool.name: pool.stats() for pool in host.opened()}

    metrics = Metrics(statistics)
    app = FastAPI(
        title="RGSUD reward pool",
        version="1",
        description="The best derained image seen so far of every rainy image, by score.",
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    answer_with_problems(app)
    app.add_middleware(Gate, tokens=tokens, limits=limits, metrics=metrics, access_log=access_log)
    app.include_router(pool_routes(host, limits, shared=not tokens))

    @app.get("/healthz")
    async def healthy() -> Health:
        """That the service runs."""
        return Health()

    @app.get("/readyz")
    def ready() -> Health:
        """That Redis and the blob store answer; 503 where one does not."""
        host.ping()
        return Health()

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def read_metrics() -> Response:
        """What Prometheus reads."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/assets", _Assets(directory=PAGE), name="assets")
    describe(app)
    return app


class _Assets(StaticFiles):
    def file_response(self, *args: object, **kwargs: object) -> Response:
        """Always asked for anew, and cheaply: the page of a newer service must not meet older scripts."""
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["cache-control"] = "no-cache"
        return response

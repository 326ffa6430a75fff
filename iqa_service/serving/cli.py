"""The command `rgsud scorer serve`."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import ValidationError

from iqa_service.errors import ScorerError
from iqa_service.serving.settings import SCORER, TOKEN_VARIABLE, ServiceSettings, token_of_environment
from rgsud_core.addresses import parse_address
from rgsud_core.console import make_console

if TYPE_CHECKING:
    from fastapi import FastAPI

console = make_console(stderr=True)


def serve(
    scorer: Annotated[str, typer.Option(help="local:daclip-lite, or local:NAME?OPTION=VALUE.")] = (
        "local:daclip-lite"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Copies of the scorer; they share the cores.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs, or a share of one, for each copy.")] = 0.0,
    precision: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Precision of the scorer's image tower.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Views scored at once.")] = 64,
    name: Annotated[
        str, typer.Option(help="Name of the scorer within this machine's Ray: serve:NAME.")
    ] = "iqa",
) -> None:
    """Serve a scorer on this machine, over HTTP and within its Ray; on a cluster, use `serve deploy`.

    RGSUD_SCORER_TOKEN is the token that HTTP callers must present; none is needed where it is not set.
    """
    from iqa_service.serving.http_api import limits_of, tokens_of
    from rgsud_core.http.runner import run

    parse_address(scorer)
    cores = os.cpu_count() or 1
    try:
        settings = ServiceSettings(
            scorer=scorer,
            precision=precision,
            replicas=replicas,
            cpus=max(1, cores // replicas),
            gpus=gpus,
            batch_views=batch,
            http=False,
            token=token_of_environment(),
        )
    except ValidationError as problem:
        raise ScorerError(problem.errors()[0]["msg"]) from None
    run(
        _opened(settings, name, max(cores, replicas)),
        host=host,
        port=port,
        tokens=tokens_of(settings),
        remedy=f"set {TOKEN_VARIABLE}",
        limits=limits_of(settings),
        on_ready=lambda url: console.print(f"The scorer {scorer}: {url}, and serve:{name} (Ctrl-C ends it)"),
    )


@contextlib.contextmanager
def _opened(settings: ServiceSettings, name: str, cores: int) -> Iterator[FastAPI]:
    """The HTTP interface of this process, over a scorer in a Ray of its own."""
    from ray import serve

    from iqa_service.serving import clusters
    from iqa_service.serving.http_api import make_api
    from iqa_service.serving.ray_app import deploy_scorer
    from iqa_service.serving.ray_client import HandleTransport

    try:
        clusters.join("local", num_cpus=cores, include_dashboard=False, logging_level=logging.ERROR)
    except ConnectionError as problem:
        raise ScorerError(f"{problem}: try again later.") from None
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(proxy_location="Disabled")
        deploy_scorer(settings, name)
        handle = serve.get_deployment_handle(SCORER, name)
        yield make_api(HandleTransport(handle, "the scorer", settings.timeout_seconds), settings)
    finally:
        clusters.leave()

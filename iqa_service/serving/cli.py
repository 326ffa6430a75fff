"""The commands `rgsud scorer ...`."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Iterator
from typing import Annotated, Literal

import typer
from pydantic import ValidationError
from rich.console import Console

from iqa_service.errors import ScorerError
from iqa_service.registry import parse_spec
from iqa_service.serving.settings import TOKEN_VARIABLE, ServiceSettings
from rgsud_core.signals import until_interrupted

app = typer.Typer(no_args_is_help=True, help="The scorer as a service.")
console = Console(stderr=True)


@app.command()
def serve(
    scorer: Annotated[str, typer.Option(help="local:daclip-lite, or local:NAME?OPTION=VALUE.")] = (
        "local:daclip-lite"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Copies of the scorer; they share the cores.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs, or a share of one, for each copy.")] = 0.0,
    precision: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Of the scorer's image tower.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Views scored at once.")] = 64,
    name: Annotated[str, typer.Option(help="serve:NAME is the scorer within this machine's Ray.")] = "iqa",
) -> None:
    """Serve a scorer on this machine, by HTTP and to its Ray; on a cluster, use `serve deploy`.

    RGSUD_SCORER_TOKEN is the token that HTTP callers must present; none is asked for where it is not set.
    """
    _refuse_open_doors(host)
    _refuse_taken(host, port)
    parse_spec(scorer)
    cores = os.cpu_count() or 1
    try:
        settings = ServiceSettings(
            scorer=scorer,
            precision=precision,
            replicas=replicas,
            cpus=max(1, cores // replicas),
            gpus=gpus,
            batch_views=batch,
        )
    except ValidationError as problem:
        raise ScorerError(problem.errors()[0]["msg"]) from None
    with until_interrupted() as interrupted, _own_ray(max(cores, replicas)):
        _deploy(settings, name, host, port)
        console.print(
            f"The scorer {scorer}: http://{host}:{port}, and serve:{name} (Ctrl-C ends it)", soft_wrap=True
        )
        interrupted.wait()


def _deploy(settings: ServiceSettings, name: str, host: str, port: int) -> None:
    from ray import serve

    from iqa_service.serving.ray_app import deploy_scorer

    serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
    deploy_scorer(settings, name)


def _refuse_open_doors(host: str) -> None:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not os.environ.get(TOKEN_VARIABLE):
        raise ScorerError(
            f"whoever reaches {host} could use the scorer: set {TOKEN_VARIABLE}, or listen on 127.0.0.1"
        )


def _refuse_taken(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as problem:
        raise ScorerError(f"cannot listen on {host}:{port} ({problem.strerror}): take another") from None


@contextlib.contextmanager
def _own_ray(cores: int) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import serve

    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        yield
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()

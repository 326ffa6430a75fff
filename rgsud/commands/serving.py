"""`rgsud serve`: deraining over HTTP, with a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rgsud_core.console import make_console

console = make_console(stderr=True)


def serve(
    model: Annotated[
        str, typer.Option(help="A run's folder, a .safetensors file, or a model that comes with rgsud.")
    ] = "rgsud-base",
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8100,
    token_file: Annotated[
        Path | None, typer.Option(help="File of more tokens: lines 'read TOKEN' or 'write TOKEN'.")
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(min=0, help="Side of the tiles in pixels, 0 for whole images; as in rgsud derain."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one.")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Photographs derained at a time; one a core, or one on a GPU."),
    ] = None,
    waiting: Annotated[
        int, typer.Option(min=0, help="Photographs that may wait; others are refused for a while.")
    ] = 16,
    body_megabytes: Annotated[int, typer.Option(min=1, help="Largest file, in MB.")] = 64,
    megapixels: Annotated[int, typer.Option(min=1, help="Largest photograph, in megapixels.")] = 50,
    access_log: Annotated[
        bool, typer.Option(help="Print a line of JSON to stderr for every request.")
    ] = False,
) -> None:
    """Derain photographs over HTTP, with a page to drop them on.

    RGSUD_DERAIN_TOKEN holds the token that callers must present; none is needed where it is not set.
    """
    from rgsud.api import Derainer
    from rgsud.serving.app import TOKEN_VARIABLES
    from rgsud.serving.app import serve as run
    from rgsud.serving.work import WorkSettings, limits
    from rgsud_core.http.security import Tokens

    tokens = Tokens.load(TOKEN_VARIABLES, token_file)
    derainer = Derainer.load(model, device=device, tile=tile)
    at_once = {} if workers is None else {"workers": workers}
    if workers is None and derainer.device.type != "cpu":
        at_once = {"workers": 1}
    run(
        derainer,
        Path(model).name,
        WorkSettings(waiting=waiting, pixels=megapixels * 1_000_000, **at_once),
        host=host,
        port=port,
        tokens=tokens,
        limits=limits(body_megabytes),
        access_log=access_log,
        on_ready=lambda url: console.print(f"The page, and {url}/v1/derain: {url} (Ctrl-C ends it)"),
    )

"""`rgsud export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rgsud.commands.images import Network
from rgsud_core.console import make_console
from rgsud_core.errors import RgsudError

console = make_console(stderr=True)


def export(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] OUT.onnx",
            help="The file to write. Before it a run's folder or a .safetensors file, if not the model of "
            "rgsud's own.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="The model, instead of in front of the file.", show_default="rgsud-base"),
    ] = None,
    network: Network = None,
) -> None:
    """Write a derainer as an ONNX file, which runs without torch, on images of any size.

    The file is run by onnxruntime, and its results held against torch's, before it takes its name.
    """
    from rgsud.api import DEFAULT_MODEL, Derainer
    from rgsud.export import TOLERANCE

    if len(paths) == 2 and model is None:
        model, *paths = paths
    if len(paths) != 1:
        raise RgsudError(f"{len(paths)} paths were given: export takes [MODEL] OUT.onnx.")
    derainer = Derainer.load(model or DEFAULT_MODEL, device="cpu", derainer=network)
    difference = derainer.export(paths[0])
    size = Path(paths[0]).stat().st_size / 1e6
    console.print(
        f"{paths[0]} written ({size:.1f} MB): its results differ from torch's by at most {difference:.1g}, "
        f"of values from 0 to 1; {TOLERANCE:g} is allowed."
    )

"""`rgsud derain`, `evaluate` and `scorer pretrain`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

console = Console(stderr=True)
Model = Annotated[str, typer.Argument(help="A run's folder, or a .safetensors file.")]
Network = Annotated[
    str | None,
    typer.Option("--derainer", help="package.module:Class of a network that is not rgsud's own."),
]
Tile = Annotated[int | None, typer.Option(help="Side of the tiles in pixels; whole images by default.")]


def derain(
    model: Model,
    source: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    target: Annotated[Path, typer.Argument(help="Where the result goes: a file or a folder.")],
    network: Network = None,
    tile: Tile = None,
    overlap: Annotated[int, typer.Option(help="Pixels that neighbouring tiles share.")] = 32,
) -> None:
    """Remove the rain from an image or from a folder of images."""
    from rgsud.api import Derainer

    derainer = Derainer.load(model, tile=tile, overlap=overlap, derainer=network)
    with _progress("Deraining") as show:
        count = derainer.write(source, target, show)
    console.print(f"{count} derained: {target}")


def evaluate(
    model: Model,
    rainy: Annotated[
        Path, typer.Argument(help="Folder of rainy images; with --set the folder that holds data sets.")
    ],
    clean: Annotated[
        Path | None, typer.Argument(help="Folder of their ground truth, by the same names.")
    ] = None,
    known: Annotated[
        str | None,
        typer.Option("--set", help="Name of a data set of the literature, measured by its own protocol."),
    ] = None,
    protocol: Annotated[
        Literal["A", "B"] | None,
        typer.Option(help="A: luma rounded to 8 bits, the usual one; B: that of DID-Data and DDN-Data."),
    ] = None,
    sheet: Annotated[Path, typer.Option(help="Where the contact sheet goes.")] = Path("evaluation.png"),
    network: Network = None,
) -> None:
    """Measure a derainer on pairs of images: a table, and a contact sheet."""
    from rgsud.api import Derainer, evaluate

    derainer = model if network is None else Derainer.load(model, derainer=network)
    with _progress("Deraining") as show:
        measured = evaluate(
            derainer, rainy, clean, data_set=known, protocol=protocol, sheet=sheet, progress=show
        )
    Console().print(measured.table())
    console.print(f"Rainy, derained, clean: {sheet}")


def pretrain_scorer(
    photographs: Annotated[Path, typer.Argument(help="Folder of clean photographs.")],
    output: Annotated[Path, typer.Option(help="Where the weights go.")] = Path("daclip-lite.safetensors"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of the weights and the degradations.")] = 0,
) -> None:
    """Train the compact scorer daclip-lite on degradations that it renders itself."""
    from iqa_service.pretraining.train import PretrainSettings, pretrain

    settings = PretrainSettings(photographs=photographs, output=output, steps=steps, seed=seed)
    with _progress("Pretraining") as show:

        def on_step(step: int, losses: dict[str, float]) -> None:
            show(step, steps, "  ".join(f"{name} {value:.3f}" for name, value in losses.items()))

        written = pretrain(settings, on_step)
    console.print(
        f"The scorer: {written}. Use it with recycling.scorer='local:daclip?weights={written.resolve()}'",
        soft_wrap=True,
    )


@contextmanager
def _progress(what: str) -> Iterator[Callable[..., Any]]:
    """A progress bar, moved by calls of (done, total) or (done, total, description)."""
    from rich.progress import Progress

    with Progress(console=console) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, said=what: bar.update(task, completed=done, total=total, description=said)

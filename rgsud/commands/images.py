"""`rgsud derain` and `scorer pretrain`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rgsud.commands.film import derain_film, derain_raw, is_film
from rgsud.commands.piping import piped
from rgsud_core.console import make_console
from rgsud_core.errors import RgsudError
from rgsud_core.files import check_writable

if TYPE_CHECKING:
    from rgsud.api import Derainer

console = make_console(stderr=True)
Network = Annotated[
    str | None,
    typer.Option("--derainer", help="package.module:Class of a network that is not rgsud's own."),
]
Tile = Annotated[
    int | None,
    typer.Option(
        min=0, help="Side of the tiles in pixels, 0 for whole images; by itself above 2 megapixels: 512."
    ),
]


def derain(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] SOURCE TARGET",
            help="An image, a folder of images or a film, and where the result goes; - is standard input "
            "or output. Before them a run's folder or a .safetensors file, if not the model of rgsud's own.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="The model, instead of in front of the paths.", show_default="rgsud-base"),
    ] = None,
    network: Network = None,
    tile: Tile = None,
    overlap: Annotated[int, typer.Option(help="Pixels that neighbouring tiles share.")] = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out images whose results are there.")
    ] = False,
    format: Annotated[
        str | None,
        typer.Option(
            help="Format of the results: png, jpg, tif or another.", show_default="as their sources"
        ),
    ] = None,
    watching: Annotated[
        bool,
        typer.Option(
            "--watch", help="Derain what comes into the folder SOURCE, until Ctrl-C; implies --skip-existing."
        ),
    ] = False,
    frame_by_frame: Annotated[
        bool,
        typer.Option("--frame-by-frame", help="Derain each frame of a film by itself."),
    ] = False,
    raw: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="SOURCE and TARGET are raw frames, rgb24 of this size."),
    ] = None,
) -> None:
    """Remove the rain from an image, from a folder of images, or from a film.

    Results have the names, formats and depths of their sources, and what the files say about them. A film
    keeps its sound, its times and all else but the pictures; the target's suffix names its container.
    """
    from rgsud.api import DEFAULT_MODEL, Derainer
    from trainer.restore.files import suffix_of

    if len(paths) == 3 and model is None:
        model, *paths = paths
    if len(paths) != 2:
        raise RgsudError(f"{len(paths)} paths were given: derain takes [MODEL] SOURCE TARGET.")
    source, target = paths
    if overwrite and skip_existing:
        raise RgsudError("--overwrite and --skip-existing exclude each other: give one of them.")
    suffix = None if format is None else suffix_of(format)
    if watching and "-" in paths:
        raise RgsudError("--watch takes folders, not standard input or output.")
    film = is_film(source, target)
    if (film or raw) and (format or watching):
        raise RgsudError("--format and --watch are for images: TARGET's suffix names a film's container.")
    derainer = Derainer.load(model or DEFAULT_MODEL, tile=tile, overlap=overlap, derainer=network)
    if raw:
        derain_raw(derainer, raw, source, target, frame_by_frame=frame_by_frame)
        return
    if film:
        with progress_bar("Deraining") as show:
            derain_film(
                derainer,
                source,
                target,
                frame_by_frame=frame_by_frame,
                overwrite=overwrite,
                skip_existing=skip_existing,
                progress=show,
            )
        return
    if watching:
        _watch(derainer, Path(source), Path(target), suffix, overwrite)
        return
    if "-" in paths:
        with piped(source, target, suffix, console.print) as (given, result, notice):
            derainer.write(given, result, suffix=suffix, notice=notice)
        return
    finished = 0
    with progress_bar("Deraining") as show:

        def progress(done: int, total: int) -> None:
            nonlocal finished
            finished = done
            show(done, total)

        try:
            count = derainer.write(
                source,
                target,
                progress,
                existing="replace" if overwrite else "skip" if skip_existing else "refuse",
                suffix=suffix,
                notice=console.print,
            )
        except KeyboardInterrupt:
            if finished:
                console.print(f"{finished} derained: {target}; --skip-existing goes on with the others.")
            raise
    console.print(f"{count} derained: {target}")


def _watch(derainer: Derainer, source: Path, target: Path, suffix: str | None, overwrite: bool) -> None:
    from trainer.restore.watching import watch

    done = 0

    def derain_one(image: Path, result: Path) -> None:
        nonlocal done
        derainer.write(image, result, notice=console.print)
        done += 1
        console.print(f"{image} derained: {result}")

    console.print(f"Watching {source}; Ctrl-C ends it.")
    try:
        watch(derain_one, source, target, suffix=suffix, overwrite=overwrite, notice=console.print)
    except KeyboardInterrupt:
        console.print(f"{done} derained: {target}; --watch goes on with what is not.")
        raise


def pretrain_scorer(
    photographs: Annotated[Path, typer.Argument(help="Folder of clean photographs.")],
    output: Annotated[Path, typer.Option(help="Where the weights go.")] = Path("daclip-lite.safetensors"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of the weights and the degradations.")] = 0,
) -> None:
    """Train the compact scorer daclip-lite on degradations that it renders itself."""
    from iqa_service.pretraining.train import PretrainSettings, pretrain

    check_writable(output.parent)
    settings = PretrainSettings(photographs=photographs, output=output, steps=steps, seed=seed)
    with progress_bar("Pretraining") as show:

        def on_step(step: int, losses: dict[str, float]) -> None:
            show(step, steps, "  ".join(f"{name} {value:.3f}" for name, value in losses.items()))

        written = pretrain(settings, on_step)
    console.print(
        f"The scorer: {written}. Use it with recycling.scorer='local:daclip?weights={written.resolve()}'"
    )


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[..., Any]]:
    """A progress bar, moved by calls of (done, total) or (done, total, description)."""
    from rich.progress import Progress

    with Progress(console=console) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, said=what: bar.update(task, completed=done, total=total, description=said)

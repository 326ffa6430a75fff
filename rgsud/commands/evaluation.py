"""`rgsud evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from rgsud.commands.images import Network, console, progress_bar
from rgsud_core.console import make_console
from rgsud_core.errors import RgsudError
from rgsud_core.files import check_writable


def evaluate(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [RAINY [CLEAN] | ROOT]",
            help="A run's folder or a .safetensors file, if not given by --model; a folder of rainy images, "
            "and one of their truth by the same names, without which rain left is judged; with --set the "
            "folder that holds data sets.",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="A model, instead of in front of the paths; several by repeating it."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Name of a data set of the literature, measured by its own protocol; also several."
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="The folder that holds the data sets.")] = None,
    protocol: Annotated[
        Literal["A", "B"] | None,
        typer.Option(help="A: luma rounded to 8 bits, the usual one; B: that of DID-Data and DDN-Data."),
    ] = None,
    scorers: Annotated[
        list[str] | None,
        typer.Option(
            "--scorer",
            help="Scores without ground truth too, in the scorer's own unit: daclip-lite, niqe, musiq or any "
            "other scorer's address; also several.",
        ),
    ] = None,
    outputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--output", help="Where the table goes: .md, .tex, .json, or .csv for each image; also several."
        ),
    ] = None,
    sheet: Annotated[
        Path, typer.Option(help="Where the contact sheet goes; of several sets to NAME-SET each.")
    ] = Path("evaluation.png"),
    network: Network = None,
) -> None:
    """Measure derainers on pairs of images, or on rainy photographs alone: a table, and a contact sheet.

    The table is Markdown: the rainy images, published figures of the data set, the models; then the images
    that came out worst. Without ground truth, rain is judged where the scene behind it is flat: the energy of
    rain that is left, of its pattern (which a mere denoiser leaves), and of scene that was taken, as shares
    of the rain's; how much less other edges follow the rain's direction; changes of brightness and colour,
    levels of 255; and how far the mirror image is derained alike.
    """
    from rgsud.api import DEFAULT_MODEL, Derainer
    from rgsud_core.images import image_format
    from trainer.restore.comparison import ImageSet, compare, find_image_set
    from trainer.restore.tables import check_table, markdown, write_table

    given = list(paths or ())
    chosen = list(dict.fromkeys(models or ()))
    if not chosen:
        chosen = [given.pop(0)] if given else [DEFAULT_MODEL]
    if sets:
        if len(given) + (root is not None) != 1:
            raise RgsudError("with --set, evaluate takes one folder of data sets: --root DIR.")
        where = root or Path(given[0])
        tests = list(
            {test.name: test for test in (find_image_set(one, where, protocol) for one in sets)}.values()
        )
    elif root is not None:
        raise RgsudError("--root is the folder of data sets: say which by --set NAME.")
    elif len(given) not in (1, 2):
        raise RgsudError("evaluate takes [MODEL] RAINY [CLEAN], or --set NAME --root DIR.")
    else:
        clean = Path(given[1]) if len(given) == 2 else None
        tests = [ImageSet(given[0], Path(given[0]), clean, protocol or "A")]
    image_format(sheet)
    for output in outputs or ():
        check_table(output)
    for output in (sheet, *(outputs or ())):
        check_writable(output.parent)
    sheets = {
        test.name: sheet if len(tests) == 1 else sheet.with_stem(f"{sheet.stem}-{test.name}")
        for test in tests
    }
    derainers = {
        name: Derainer.load(model, derainer=network)
        for name, model in zip(_names(chosen), chosen, strict=True)
    }
    with progress_bar("Deraining") as show:
        measured = compare(derainers, tests, scorers=scorers or (), sheets=sheets, progress=show)
    make_console().print(markdown(measured))
    for output in outputs or ():
        write_table(measured, output)
        console.print(f"The table: {output}")
    for test in tests:
        console.print(f"Rainy, derained{'' if test.clean is None else ', clean'}: {sheets[test.name]}")


def _names(models: Sequence[str]) -> list[str]:
    """What tables call models: the last part of their paths, where that tells them apart."""
    short = [Path(model).resolve().name.removesuffix(".safetensors") for model in models]
    return short if len(set(short)) == len(short) else list(models)

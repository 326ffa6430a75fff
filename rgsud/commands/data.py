"""`rgsud data ...`: the data sets of the literature, and a recipe for one's own folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rgsud_core.console import make_console
from rgsud_core.errors import RgsudError
from rgsud_core.files import check_writable, writing

if TYPE_CHECKING:
    from trainer.data.sets import KnownSet

app = typer.Typer(no_args_is_help=True, help="Data sets of the literature, and folders of one's own.")
console = make_console(stderr=True)


@app.command("list")
def list_sets() -> None:
    """List the data sets that are known by name."""
    from rich.table import Table

    from trainer.data.sets import KNOWN_SETS

    table = Table("name", "for training", "for testing", "protocol")
    for known in KNOWN_SETS:
        table.add_row(known.name, _count(known.train), _count(known.test), known.protocol)
    make_console().print(table)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="Name of a data set of the literature; see rgsud data list.")],
    path: Annotated[
        Path | None, typer.Argument(help="The folder that it lies in, to be read; without it, what it is.")
    ] = None,
) -> None:
    """Show what a data set is and where it comes from, and read every image of a copy of it.

    Exit code 2 if images are broken, without partners, or of another size than these.
    """
    from trainer.data.catalogue import find, lookup

    out = make_console()
    known = lookup(name)
    for line in _described(known):
        out.print(line)
    if path is None:
        return
    found = find(name, path)
    parts: list[tuple[str, Path | None, Path | None, int | None]] = [
        ("training", found.train_rainy, found.train_clean, known.train),
        ("testing", *(found.test or (found.photographs, None)), known.test),
    ]
    problems: list[str] = []
    for what, rainy, clean, expected in parts:
        if rainy is None or (what == "testing" and rainy == found.train_rainy):
            continue
        try:
            out.print(_part(what, rainy, clean, expected))
        except RgsudError as problem:
            problems.append(f"For {what}: {problem}")
    if problems:
        raise RgsudError("\n".join(problems))


@app.command()
def recipe(
    rainy: Annotated[Path, typer.Argument(help="Folder of rainy photographs.")],
    clean: Annotated[Path, typer.Argument(help="Folder of clean photographs of other scenes.")],
    output: Annotated[Path, typer.Option(help="Where the recipe goes.")] = Path("recipe.yaml"),
) -> None:
    """Write a recipe to begin with for one's own folders, with what was measured of them."""
    from trainer.config import load_config
    from trainer.starting import starting_recipe

    if output.suffix not in (".yaml", ".yml"):
        raise RgsudError(f"{output} is no name of a recipe: end it in .yaml.")
    if output.exists():
        raise RgsudError(f"{output} is there already: name another file by --output, or remove it.")
    check_writable(output.parent)
    text = starting_recipe(rainy, clean)
    with writing(output) as partial:
        partial.write_text(text)
    load_config(output)
    make_console().print(text, end="")
    console.print(f"The recipe: {output}; `rgsud train {output}` trains by it.")


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number}"


def _described(known: KnownSet) -> list[str]:
    aliases = f" (also {', '.join(known.aliases)})" if known.aliases else ""
    return [
        f"{known.name}{aliases}: {known.paper}",
        f"  rainy images: {_count(known.train)} for training, {_count(known.test)} for testing",
        f"  as downloaded: {known.layout}",
        f"  truth: {known.pairing}",
        f"  protocol: {known.protocol}",
        f"  licence: {known.licence}",
        f"  from: {known.source}",
    ]


def _part(what: str, rainy: Path, clean: Path | None, expected: int | None) -> str:
    from trainer.data.checks import check_images

    report = check_images(rainy, clean)
    of = f" of {expected}" if expected not in (None, 0, report.rainy) else ""
    truths = "no ground truth" if report.clean is None else f"{report.clean} truths in {clean}"
    sizes = " to ".join(dict.fromkeys(f"{w}x{h}" for w, h in (report.smallest, report.largest)))
    return f"For {what}: {report.rainy}{of} rainy images in {rainy}, {truths}, {sizes}: all can be read."

"""`rgsud train`, `demo`, `recipes` and `settings`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rgsud_core.console import make_console
from trainer.errors import TrainerError

console = make_console(stderr=True)
Changes = Annotated[list[str] | None, typer.Argument(help="Settings to change: key.of.setting=value.")]


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or the path of a .yaml file.")],
    settings: Changes = None,
    resume: Annotated[
        bool, typer.Option(help="Continue from the run's newest checkpoint; start where there is none.")
    ] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Start from this checkpoint.")] = None,
) -> None:
    """Train a derainer by a recipe; see `rgsud recipes` and `rgsud settings`."""
    from rgsud.api import train

    with _interruptible("--resume continues it"):
        summary = train(recipe, settings or (), resume=resume, checkpoint=checkpoint, console=console)
    gain = "" if summary.gain_db is None else f" PSNR-Y {summary.psnr_y:.2f} dB ({summary.gain_db:+.2f})."
    console.print(f"Trained for {summary.training_seconds:.0f} s.{gain} The derainer: {summary.folder}/model")


def demo(settings: Changes = None) -> None:
    """Train for a few minutes on photographs that come with the packages, and show the result."""
    from rgsud.api import evaluate
    from trainer.config import load_config
    from trainer.data.demo import write_demo_data
    from trainer.launch.start import run

    config = load_config("demo", settings)
    folder, data = config.folder, write_demo_data(config.runs / "demo-data")
    places = [f"data.{name}={path}" for name, path in vars(data).items()]
    with _interruptible(f"`rgsud derain {folder}` uses it, and `rgsud demo` starts afresh"):
        chosen = load_config("demo", [*places, *(settings or ())])
        summary = run(chosen, fresh=True, console=console)  # every demonstration starts afresh
    measured = evaluate(folder, data.validation_rainy, data.validation_clean, sheet=folder / "demo.png")
    out = make_console()
    out.print(measured.table())
    pool = Table(title="Reward pool")
    for heading in ("rainy images with a reward", "offers accepted", "mean log-odds"):
        pool.add_column(heading, justify="right")
    log_odds = "" if summary.pool_mean_log_odds is None else f"{summary.pool_mean_log_odds:.2f}"
    pool.add_row(str(summary.pool_entries), f"{summary.pool_acceptance or 0:.0%}", log_odds)
    out.print(pool)
    out.print(
        f"{summary.gain_db:+.2f} dB after {summary.training_seconds:.0f} s of training, run '{config.name}'."
    )
    out.print(f"Rainy, derained, clean: {folder}/demo.png")


def recipes() -> None:
    """List the recipes that come with the package."""
    from trainer.config import describe_recipe
    from trainer.config import recipes as names

    table = Table("recipe", "what it is", "what it is for")
    for name in names():
        table.add_row(name, *describe_recipe(name))
    make_console().print(table)


def settings(
    key: Annotated[
        str, typer.Argument(help="A setting (recycling.scorer) or a group of them (method); all by default.")
    ] = "",
    recipe: Annotated[
        str | None,
        typer.Option(help="Name or .yaml file of a recipe whose values are shown instead of the defaults."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Show the settings of a run: their values, types, and what they mean."""
    from rgsud_core.errors import nearest
    from rgsud_core.settings import describe
    from trainer.config import recipe_config

    everything = list(describe(recipe_config(recipe)))
    found = [one for one in everything if f"{one.key}.".startswith(f"{key}." if key else "")]
    if not found:
        raise TrainerError(f"there is no setting '{key}': {nearest(key, [one.key for one in everything])}")
    if as_json:
        print(json.dumps([vars(one) for one in found], indent=2))
        return
    out = make_console()
    for one in found:
        given = "" if one.group else f"={_yaml(one.value)}"
        out.print(Text.assemble((f"{one.key}{given}", "bold"), "  ", (one.type, "dim")))
        out.print(Padding(one.text, (0, 0, 0, 4)), soft_wrap=False)


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).split("\n")[0]


@contextmanager
def _interruptible(remedy: str) -> Iterator[None]:
    """After Ctrl-C, say whether the run has been saved, and end with exit code 130."""
    try:
        yield
    except KeyboardInterrupt as ended:
        saved = f"; {ended}: {remedy}" if ended.args else ""
        console.print(f"rgsud: interrupted{saved}.", style="yellow")
        sys.exit(130)

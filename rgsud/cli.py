"""The command `rgsud`: its verbs, and how it ends."""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console

from iqa_service.cli import app as scorer_commands
from iqa_service.cli import score
from rgsud.commands import images, training
from rgsud.commands.pool import app as pool_commands
from rgsud_core.errors import RgsudError
from trainer.launch.status import status
from trainer.launch.submit import submit

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Learn to remove rain from photographs without paired data.",
)
for verb in (
    *(training.train, training.demo, training.recipes, training.settings),
    *(images.derain, images.evaluate, score, submit, status),
):
    app.command()(verb)
scorer_commands.command("pretrain")(images.pretrain_scorer)
app.add_typer(pool_commands, name="pool")
app.add_typer(scorer_commands, name="scorer")
console = Console(stderr=True)


def main() -> None:
    """Run the command; an error is one sentence and exit code 2, Ctrl-C is exit code 130."""
    # On shared cores, OpenMP threads that spin for each other take the time from the one that works.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        code = app(standalone_mode=False)  # the code of a typer.Exit, which Ctrl-C has become as 130
    except RgsudError as problem:
        console.print(f"[red]rgsud:[/red] {problem}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except typer.TyperException as problem:
        console.print(f"[red]rgsud:[/red] {problem.format_message()}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        console.print("[yellow]rgsud: interrupted.")
    if isinstance(code, int):
        sys.exit(code)

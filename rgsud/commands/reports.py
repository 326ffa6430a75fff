"""`rgsud report` and `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rgsud_core.console import make_console
from rgsud_core.files import check_writable

console = make_console(stderr=True)


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder; the run may be under way.")],
    output: Annotated[
        Path | None, typer.Option(help="Where the page goes; by itself report.html in the run's folder.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the ground truth of the rainy training images, by the same names: the scores of "
            "recorded candidates (recycling.record) are compared with their true PSNR."
        ),
    ] = None,
) -> None:
    """Write one HTML file about a run: curves, rewards, pictures, time, settings; it needs no network."""
    from trainer.reporting.html.page import write_report

    output = output or run / "report.html"
    if output.parent != run:  # which has to be a run's folder, and is not made
        check_writable(output.parent)
    write_report(run, output, truth)
    console.print(f"The report of {run}: {output}", markup=False, emoji=False, soft_wrap=True)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, two at least.")],
    output: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("comparison.html"),
) -> None:
    """Write one HTML file that compares runs: curves on common axes, results, settings that differ."""
    from trainer.reporting.html.page import write_comparison

    check_writable(output.parent)
    write_comparison(runs, output)
    console.print(f"{len(runs)} runs compared: {output}", markup=False, emoji=False, soft_wrap=True)

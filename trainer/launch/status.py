"""`rgsud status`: a running pipeline at a glance."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from rgsud_core.console import make_console
from trainer.launch.submit import Address

if TYPE_CHECKING:
    from trainer.launch.pipeline import Part, PipelineStatus, PoolStatus, RunStatus, ScorerStatus


def status(
    folder: Annotated[
        Path | None, typer.Argument(help="A run's folder; the newest below `runs` by default.")
    ] = None,
    address: Address = "http://127.0.0.1:8265",
    pool: Annotated[str | None, typer.Option(help="The pool, if not that of the run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Show the state of a run, its pool, its scorer and its job, and what cannot be reached."""
    from trainer.launch.pipeline import look  # torch takes a while, and every command reads this file

    found = look(folder or _newest(Path("runs")), address, pool)
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        make_console().print(_table(found))


def _newest(runs: Path) -> Path:
    found = sorted(runs.glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else runs


def _table(found: PipelineStatus) -> Table:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for heading, part in (
        ("run", _run_cell(found.run)),
        ("pool", _pool_cell(found.pool)),
        ("scorer", _scorer_cell(found.scorer)),
        ("job", [f"{found.job.id} {found.job.state}"] if found.job and found.job.id else []),
    ):
        status: Part | None = getattr(found, heading)
        if status is not None:
            problem = [Text(status.problem, "yellow")] if status.problem else []
            lines = (Text(line) if isinstance(line, str) else line for line in (*part, *problem))
            table.add_row(heading, Text("\n").join(lines), end_section=True)
    return table


def _run_cell(run: RunStatus) -> list[str | Text]:
    cell: list[str | Text] = [f"{run.name} in {run.folder}"]
    if run.samples is None:
        return cell
    ago = timedelta(seconds=round(run.silent_seconds or 0))
    cell.append(f"{run.state}, its last line {ago} ago")
    left = "" if run.seconds_left is None else f", {timedelta(seconds=round(run.seconds_left))} left"
    cell.append(f"stage {run.stage}, {run.samples} of {run.samples_planned} samples{left}")
    if run.images_per_second is not None:
        cell.append(
            f"{run.images_per_second:.1f} images/s, {run.step_ms:.0f} ms a step, {run.data_ms:.0f} of them "
            f"for data; candidates dropped {run.candidates_dropped}, lost {run.candidates_lost}"
        )
    if run.psnr_y is not None:
        cell.append(f"PSNR-Y {run.psnr_y:.2f} dB ({run.gain_db:+.2f}) at {run.evaluated_at} samples")
    return cell + [Text(text, "dim") for text in run.notices]


def _pool_cell(pool: PoolStatus | None) -> list[str]:
    if pool is None or pool.entries is None:
        return [] if pool is None else [pool.place]
    covered = "" if pool.coverage is None else f" ({pool.coverage:.0%} of the images)"
    mean = "" if pool.mean_log_odds is None else f", mean log-odds {pool.mean_log_odds:.2f}"
    by = " by the run's last line" if pool.source == "run" else ""
    return [pool.place, f"{pool.entries} rewards{covered}, {pool.acceptance or 0:.0%} accepted{mean}{by}"]


def _scorer_cell(scorer: ScorerStatus | None) -> list[str]:
    if scorer is None or scorer.state is None:
        return [] if scorer is None else [scorer.place]
    replicas = ""
    if scorer.replicas is not None:
        replicas = f", {scorer.replicas} of {scorer.replicas_wanted} replicas run"
    return [scorer.place, f"{scorer.state}{replicas}"]

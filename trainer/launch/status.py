"""`rgsud status`: a running pipeline at a glance."""

from __future__ import annotations

import json
import re
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iqa_service.errors import ScorerError
from pool_store.client import open_pool
from pool_store.errors import PoolError
from trainer.errors import TrainerError
from trainer.launch.submit import Address, connect, dashboard

if TYPE_CHECKING:
    from trainer.config import Config

_TAIL = 1 << 20
"""Bytes at the end of metrics.jsonl that are read."""
_QUIET_SECONDS = 60.0
"""A run that has written nothing for so long, and for ten of its usual intervals, is called silent."""
_PATIENCE_SECONDS = 5.0
_NOTICES = 3

Line = dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    problem: str | None = None
    """Why nothing, or not all, is known."""


class RunStatus(_Part):
    """What a run has written into its folder."""

    name: str
    folder: str
    state: Literal["training", "silent", "finished", "unknown"] = "unknown"
    silent_seconds: float | None = None
    """Since its last line."""
    stage: int | None = None
    samples: int | None = None
    samples_planned: int | None = None
    images_per_second: float | None = None
    step_ms: float | None = None
    data_ms: float | None = None
    """Of each step, spent waiting for images."""
    seconds_left: float | None = None
    psnr_y: float | None = None
    gain_db: float | None = None
    evaluated_at: int | None = None
    """Samples at the last evaluation."""
    candidates_dropped: int | None = None
    candidates_lost: int | None = None
    notices: tuple[str, ...] = ()
    """The last ones."""


class PoolStatus(_Part):
    """The pool's figures, by itself; those that the run wrote last where it cannot be asked."""

    place: str
    source: Literal["pool", "run", "none"] = "none"
    entries: int | None = None
    coverage: float | None = None
    acceptance: float | None = None
    mean_log_odds: float | None = None


class ScorerStatus(_Part):
    """The scorer, by its service."""

    place: str
    state: str | None = None
    """Of the Serve application; ANSWERS by HTTP."""
    replicas: int | None = None
    """Copies that run."""
    replicas_wanted: int | None = None
    fingerprint: str | None = None


class JobStatus(_Part):
    """The newest job of the cluster that trains the run."""

    id: str | None = None
    state: str | None = None


class PipelineStatus(BaseModel):
    """A pipeline at a glance."""

    run: RunStatus
    pool: PoolStatus | None = None
    scorer: ScorerStatus | None = None
    job: JobStatus | None = None


def status(
    folder: Annotated[
        Path | None, typer.Argument(help="A run's folder; the newest below `runs` by default.")
    ] = None,
    address: Address = "http://127.0.0.1:8265",
    pool: Annotated[str | None, typer.Option(help="The pool, if not that of the run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Show the state of a run, its pool, its scorer and its job, and what cannot be reached."""
    found = look(folder or _newest(Path("runs")), address, pool)
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        Console().print(_table(found))


def look(folder: Path, address: str, pool: str | None = None) -> PipelineStatus:
    """Ask everything that the run in ``folder`` names; what does not answer says so in its ``problem``."""
    lines = _lines(folder / "metrics.jsonl")
    config, problem = _config(folder)
    run = _run(folder, config, lines, problem)
    place = pool or (config.recycling.pool.replace("{run}", str(folder)) if config else None)
    scorer = config.recycling.scorer if config else None
    return PipelineStatus(
        run=run,
        pool=None if place is None else _pool(place, lines, run.state),
        scorer=None if scorer is None else _scorer(scorer, address),
        job=_job(run.name, address) if config and config.launch == "ray" else None,
    )


def _newest(runs: Path) -> Path:
    found = sorted(runs.glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else runs


def _config(folder: Path) -> tuple[Config | None, str | None]:
    from trainer.config import read_config

    try:
        return read_config(folder), None
    except FileNotFoundError:
        return None, f"there is no run in {folder}: give a run's folder"
    except (OSError, yaml.YAMLError, ValidationError) as problem:
        return None, f"{folder / 'config.yaml'} cannot be read ({str(problem).splitlines()[0]})"


def _lines(path: Path) -> list[Line]:
    """The newest lines, oldest first; without one that is still being written."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            text = file.read()
    except OSError:
        return []
    found = []
    for line in text.splitlines(keepends=True):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _last(lines: list[Line], kind: str) -> Line:
    return next((line for line in reversed(lines) if line["kind"] == kind), {})


def _run(folder: Path, config: Config | None, lines: list[Line], problem: str | None) -> RunStatus:
    name = config.name if config else folder.name
    if config is None or not lines:
        return RunStatus(
            name=name, folder=str(folder), problem=problem or "it has written nothing yet: see its log"
        )
    newest, step, measured = lines[-1], _last(lines, "step"), _last(lines, "evaluation")
    schedule, samples, rate = config.schedule, newest["samples"], step.get("rate/images_per_second")
    left = None if not rate else (schedule.samples - samples) / rate
    if left is not None and schedule.seconds is not None:
        left = min(left, schedule.seconds - newest["seconds"])
    silent = max(0.0, time.time() - newest["time"])
    usual = config.report.log_every * step.get("rate/step_ms", 0.0) / 1000
    over = _over(folder / "summary.json", config)
    fresh = silent < max(_QUIET_SECONDS, 10 * usual)
    return RunStatus(
        name=name,
        folder=str(folder),
        state="finished" if over else "training" if fresh else "silent",
        silent_seconds=round(silent, 1),
        stage=newest["stage"],
        samples=samples,
        samples_planned=schedule.samples,
        images_per_second=rate,
        step_ms=step.get("rate/step_ms"),
        data_ms=step.get("rate/data_ms"),
        seconds_left=None if left is None else max(0.0, round(left)),
        psnr_y=measured.get("validation/psnr_y"),
        gain_db=measured.get("validation/gain_db"),
        evaluated_at=measured.get("samples"),
        candidates_dropped=step.get("recycled/dropped"),
        candidates_lost=step.get("recycled/lost"),
        notices=tuple(line["text"] for line in lines if line["kind"] == "notice")[-_NOTICES:],
    )


def _over(summary: Path, config: Config) -> bool:
    """Whether a run's summary is that of its end; one of a part that was interrupted stays behind too."""
    try:
        told = json.loads(summary.read_text())
        seconds = config.schedule.seconds
        return bool(
            told["samples"] >= config.schedule.samples
            or (seconds is not None and told["training_seconds"] >= seconds)
        )
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _pool(place: str, lines: list[Line], state: str) -> PoolStatus:
    shown = re.sub(r"//[^@/?]*@", "//", place)  # without a password
    try:
        if place.startswith("embedded:") and state in ("training", "unknown"):
            raise PoolError("the run itself holds it")  # or is about to
        with closing(open_pool(place, fingerprint=None)) as pool:
            stats = pool.stats()
    except PoolError as problem:
        step = _last(lines, "step")
        entries = step.get("pool/entries")
        return PoolStatus(
            problem=str(problem),
            place=shown,
            source="none" if entries is None else "run",
            entries=entries,
            acceptance=step.get("pool/acceptance"),
            mean_log_odds=step.get("pool/mean_log_odds"),
        )
    return PoolStatus(
        place=shown,
        source="pool",
        entries=stats.entries,
        coverage=stats.coverage,
        acceptance=stats.acceptance,
        mean_log_odds=stats.mean_log_odds,
    )


def _scorer(place: str, address: str) -> ScorerStatus:
    kind, _, name = place.partition("?")[0].partition(":")
    try:
        if kind == "serve":
            return _application(place, name, address)
        if kind in ("http", "https"):
            from iqa_service.serving.http_client import HttpTransport

            with closing(HttpTransport(f"{kind}:{name}", _PATIENCE_SECONDS)) as transport:
                info = transport.info()
            return ScorerStatus(place=place, state="ANSWERS", fingerprint=info.fingerprint)
    except (TrainerError, ScorerError) as problem:
        return ScorerStatus(place=place, problem=str(problem))
    return ScorerStatus(place=place, state="in the process that trains")


def _application(place: str, name: str, address: str) -> ScorerStatus:
    from iqa_service.serving.settings import SCORER

    with dashboard(address):
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        applications = ServeSubmissionClient(address).get_serve_details()["applications"]
    found = applications.get(name)
    if found is None:
        why = f"no application '{name}' runs at {address}; that of a run lives as long as the run"
        return ScorerStatus(place=place, problem=why)
    scorer = found["deployments"].get(SCORER, {})
    running = [replica for replica in scorer.get("replicas", []) if replica["state"] == "RUNNING"]
    return ScorerStatus(
        place=place,
        state=found["status"],
        replicas=len(running),
        replicas_wanted=scorer.get("target_num_replicas"),
        problem=found["message"] or None,
    )


def _job(run: str, address: str) -> JobStatus:
    try:
        jobs = [job for job in connect(address).list_jobs() if (job.metadata or {}).get("run") == run]
    except (RuntimeError, OSError) as problem:  # TrainerError is one of them
        return JobStatus(problem=str(problem))
    if not jobs:
        return JobStatus(problem=f"no job of the cluster at {address} was submitted for this run")
    newest = max(jobs, key=lambda job: job.start_time or 0)
    return JobStatus(id=newest.submission_id, state=newest.status.value)


def _table(found: PipelineStatus) -> Table:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for heading, part in (
        ("run", _run_said(found.run)),
        ("pool", _pool_said(found.pool)),
        ("scorer", _scorer_said(found.scorer)),
        ("job", [f"{found.job.id} {found.job.state}"] if found.job and found.job.id else []),
    ):
        status: _Part | None = getattr(found, heading)
        if status is not None:
            problem = [f"[yellow]{escape(status.problem)}[/yellow]"] if status.problem else []
            table.add_row(heading, "\n".join([*part, *problem]), end_section=True)
    return table


def _run_said(run: RunStatus) -> list[str]:
    said = [f"{run.name} in {run.folder}"]
    if run.samples is None:
        return said
    ago = timedelta(seconds=round(run.silent_seconds or 0))
    said.append(f"{run.state}, its last line {ago} ago")
    left = "" if run.seconds_left is None else f", {timedelta(seconds=round(run.seconds_left))} left"
    said.append(f"stage {run.stage}, {run.samples} of {run.samples_planned} samples{left}")
    if run.images_per_second is not None:
        said.append(
            f"{run.images_per_second:.1f} images/s, {run.step_ms:.0f} ms a step, {run.data_ms:.0f} of them "
            f"for data; candidates dropped {run.candidates_dropped}, lost {run.candidates_lost}"
        )
    if run.psnr_y is not None:
        said.append(f"PSNR-Y {run.psnr_y:.2f} dB ({run.gain_db:+.2f}) at {run.evaluated_at} samples")
    return said + [f"[dim]{escape(text)}[/dim]" for text in run.notices]


def _pool_said(pool: PoolStatus | None) -> list[str]:
    if pool is None or pool.entries is None:
        return [] if pool is None else [pool.place]
    covered = "" if pool.coverage is None else f" ({pool.coverage:.0%} of the images)"
    mean = "" if pool.mean_log_odds is None else f", mean log-odds {pool.mean_log_odds:.2f}"
    by = " by the run's last line" if pool.source == "run" else ""
    return [pool.place, f"{pool.entries} rewards{covered}, {pool.acceptance or 0:.0%} accepted{mean}{by}"]


def _scorer_said(scorer: ScorerStatus | None) -> list[str]:
    if scorer is None or scorer.state is None:
        return [] if scorer is None else [scorer.place]
    copies = ""
    if scorer.replicas is not None:
        copies = f", {scorer.replicas} of {scorer.replicas_wanted} copies run"
    return [scorer.place, f"{scorer.state}{copies}"]

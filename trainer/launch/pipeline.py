"""State of a run, from its folder, its pool, its scorer and its cluster."""

from __future__ import annotations

import json
import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict

from iqa_service.errors import ScorerError
from iqa_service.registry import has_place
from iqa_service.serving.http_client import HttpTransport
from pool_store.client import open_pool
from pool_store.errors import PoolError
from rgsud_core.errors import first_line
from trainer.config import Config, read_config
from trainer.errors import TrainerError
from trainer.launch.submit import connect, dashboard
from trainer.reporting.lines import EvaluationLine, Line, NoticeLine, StepLine, parse
from trainer.state.schedule import Progress, finished, seconds_left

_TAIL = 1 << 20
"""Bytes at the end of metrics.jsonl that are read."""
_QUIET_SECONDS = 60.0
"""A run that has written nothing for so long, and for ten of its usual intervals, is called silent."""
_PATIENCE_SECONDS = 5.0
_NOTICES = 3
Kind = TypeVar("Kind", StepLine, EvaluationLine, NoticeLine)


class Part(BaseModel):
    """A part of the pipeline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem: str | None = None
    """Why nothing, or only a part, is known."""


class RunStatus(Part):
    """What a run has written into its folder."""

    name: str
    folder: str
    state: Literal["training", "silent", "finished", "unknown"] = "unknown"
    silent_seconds: float | None = None
    """Seconds since the run's last line."""
    stage: int | None = None
    samples: int | None = None
    samples_planned: int | None = None
    images_per_second: float | None = None
    step_ms: float | None = None
    data_ms: float | None = None
    """Part of each step spent waiting for images."""
    seconds_left: float | None = None
    psnr_y: float | None = None
    gain_db: float | None = None
    evaluated_at: int | None = None
    """Samples at the last evaluation."""
    candidates_dropped: int | None = None
    candidates_lost: int | None = None
    notices: tuple[str, ...] = ()
    """The newest notices, oldest first."""


class PoolStatus(Part):
    """The pool's figures; the last that the run wrote if the pool does not answer."""

    place: str
    source: Literal["pool", "run", "none"] = "none"
    entries: int | None = None
    coverage: float | None = None
    acceptance: float | None = None
    mean_log_odds: float | None = None


class ScorerStatus(Part):
    """The scorer's service."""

    place: str
    state: str | None = None
    """State of the Serve application; ANSWERS for a service by HTTP."""
    replicas: int | None = None
    """Replicas that run."""
    replicas_wanted: int | None = None
    fingerprint: str | None = None


class JobStatus(Part):
    """The newest job of the cluster that trains the run."""

    id: str | None = None
    state: str | None = None


class PipelineStatus(BaseModel):
    """A pipeline at a glance."""

    run: RunStatus
    pool: PoolStatus | None = None
    scorer: ScorerStatus | None = None
    job: JobStatus | None = None


def look(folder: Path, address: str, pool: str | None = None) -> PipelineStatus:
    """The status of the run in ``folder`` and of all that it names.

    Args:
        folder: the run's folder.
        address: the dashboard of the Ray cluster, http://HEAD:8265.
        pool: the address of the pool, if not that of the run.

    What does not answer has a ``problem``; nothing is raised.
    """
    lines = _lines(folder / "metrics.jsonl")
    try:
        config, problem = read_config(folder), None
    except FileNotFoundError:
        config, problem = None, f"there is no run in {folder}: give a run's folder"
    except (OSError, yaml.YAMLError, ValueError) as error:
        config, problem = None, f"{folder / 'config.yaml'} cannot be read ({first_line(error)})"
    run = _run(folder, config, lines, problem)
    place = pool or (config.pool_address(folder) if config else None)
    return PipelineStatus(
        run=run,
        pool=None if place is None else _pool(place, _last(lines, StepLine), run.state),
        scorer=None if config is None else _scorer(_place_of_scorer(config), address),
        job=_job(run.name, address) if config and config.launch == "ray" else None,
    )


def _place_of_scorer(config: Config) -> str:
    """A run on Ray deploys its own scorer where its configuration names none that is served."""
    scorer = config.recycling.scorer
    return f"serve:{config.scorer_app()}" if config.launch == "ray" and not has_place(scorer) else scorer


def _lines(path: Path) -> list[Line]:
    """The newest lines, oldest first; without one that is still being written."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            return [line for text in file if (line := parse(text)) is not None]
    except OSError:
        return []


def _last(lines: list[Line], kind: type[Kind]) -> Kind | None:
    return next((line for line in reversed(lines) if isinstance(line, kind)), None)


def _run(folder: Path, config: Config | None, lines: list[Line], problem: str | None) -> RunStatus:
    if config is None or not lines:
        return RunStatus(
            name=config.name if config else folder.name,
            folder=str(folder),
            problem=problem or "it has written nothing yet: see its log",
        )
    schedule, newest = config.schedule, lines[-1]
    step, measured = _last(lines, StepLine), _last(lines, EvaluationLine)
    silent = max(0.0, time.time() - newest.time)
    usual = config.report.log_every * step.step_ms / 1000 if step else 0.0
    fresh = silent < max(_QUIET_SECONDS, 10 * usual)
    notices = [line.text for line in lines if isinstance(line, NoticeLine)]
    known: dict[str, Any] = {}
    if step is not None:
        known = step.model_dump(include={"images_per_second", "step_ms", "data_ms"})
        known |= {"candidates_dropped": step.dropped, "candidates_lost": step.lost}
        known["seconds_left"] = round(seconds_left(schedule, newest, step.images_per_second))
    if measured is not None:
        known |= {"psnr_y": measured.psnr_y, "gain_db": measured.gain_db, "evaluated_at": measured.samples}
    return RunStatus(
        name=config.name,
        folder=str(folder),
        state="finished" if _over(folder / "summary.json", config) else "training" if fresh else "silent",
        silent_seconds=round(silent, 1),
        stage=newest.stage,
        samples=newest.samples,
        samples_planned=schedule.samples,
        notices=tuple(notices[-_NOTICES:]),
        **known,
    )


def _over(summary: Path, config: Config) -> bool:
    """Whether a run's summary is that of its end: an interrupted run leaves one too."""
    try:
        found = json.loads(summary.read_text())
        end = Progress(samples=found["samples"], seconds=found["training_seconds"])
        return finished(config.schedule, end)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _pool(place: str, step: StepLine | None, state: str) -> PoolStatus:
    shown = re.sub(r"//[^@/?]*@", "//", place)  # without a password
    try:
        if place.startswith("embedded:") and state in ("training", "unknown"):
            raise PoolError("the run itself holds it")  # or is about to
        with closing(open_pool(place, fingerprint=None)) as pool:
            stats = pool.stats()
    except PoolError as problem:
        if step is None or step.pool_entries is None:
            return PoolStatus(problem=str(problem), place=shown)
        return PoolStatus(
            problem=str(problem),
            place=shown,
            source="run",
            entries=step.pool_entries,
            acceptance=step.pool_acceptance,
            mean_log_odds=step.pool_mean_log_odds,
        )
    known = stats.model_dump(include={"entries", "coverage", "acceptance", "mean_log_odds"})
    return PoolStatus(place=shown, source="pool", **known)


def _scorer(place: str, address: str) -> ScorerStatus:
    kind, _, name = place.partition("?")[0].partition(":")
    try:
        if kind == "serve":
            return _application(place, name, address)
        if kind in ("http", "https"):
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

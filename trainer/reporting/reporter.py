"""Output of a run while it trains: lines of metrics and notices, and sample sheets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from pool_store.client import Pool
from trainer.config import Config
from trainer.methods.parallel import workers
from trainer.reporting.lines import EvaluationLine, Line, NoticeLine, StepLine
from trainer.reporting.sinks import View
from trainer.restore.inference import derain_image
from trainer.restore.sheets import Panel, contact_sheet
from trainer.run import Callback, Run, Step
from trainer.state.schedule import Progress

_SHEET_ROWS = 4


class Degradable(Protocol):
    """A component whose failure does not stop training."""

    @property
    def problem(self) -> str | None:
        """The current failure, or None."""


class Reporter(Callback):
    """Makes the lines of a run, and its sample sheets.

    Args:
        config: the run.
        degradable: components whose failures and recoveries are reported, once each; by what they mean.
        views: where the lines go; closed with the reporter.
    """

    def __init__(self, config: Config, degradable: Mapping[str, Degradable], views: Sequence[View]) -> None:
        self._config = config
        self._degradable = degradable
        self._views = views
        self._since = time.perf_counter()
        self._waited = self._recycling = 0.0
        self._failing: set[str] = set()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        for view in self._views:
            view.close()

    def on_begin(self, run: Run) -> None:
        self._restart()

    def on_step(self, run: Run, step: Step) -> None:
        self._waited += step.waited
        self._recycling += step.recycling
        every = self._config.report.log_every
        if step.recycled is not None:
            elapsed, pool = time.perf_counter() - self._since, run.pool.stats()
            figures: dict[str, float | None] = {f"loss/{name}": float(x) for name, x in step.losses.items()}
            if pool is not None:
                figures["pool_entries"], figures["pool_acceptance"] = pool.entries, pool.acceptance
                figures["pool_mean_log_odds"] = pool.mean_log_odds
                figures["pool_replacements"] = pool.replacements
            self._show(
                StepLine,
                run.progress,
                **figures,
                images_per_second=every * self._config.data.batch * workers() / elapsed,
                step_ms=1000 * elapsed / every,
                data_ms=1000 * self._waited / every,
                candidates_ms=1000 * self._recycling / every,
                scored=step.recycled.scored,
                dropped=step.recycled.dropped,
                lost=step.recycled.lost,
            )
            for meaning, component in self._degradable.items():
                self._report_failure(meaning, component.problem, run.progress)
            self._restart()
        if run.progress.steps % self._config.report.sheet_every == 0:
            self._sheet(run)

    def on_stage(self, run: Run) -> None:
        self.notice("Stage 2 begins: rewards stand in for the ground truth.", run.progress)

    def on_evaluate(self, run: Run) -> None:
        if run.measured is not None:
            figures = run.measured.output.model_dump()
            self._show(EvaluationLine, run.progress, **figures, gain_db=run.measured.gain_db)
        self._restart()

    def on_end(self, run: Run) -> None:
        self._sheet(run)

    def on_notice(self, run: Run, text: str) -> None:
        self.notice(text, run.progress)

    def notice(self, text: str, progress: Progress) -> None:
        """Something that a person should know."""
        self._show(NoticeLine, progress, text=text)

    def _sheet(self, run: Run) -> None:
        """The first training images: rainy, derained now, and their rewards."""
        rows = []
        for id in run.rainy.ids[:_SHEET_ROWS]:
            rainy = run.rainy.load_id(id)
            derained = derain_image(run.method.averaged, rainy, tile=self._config.recycling.tile)
            reward = run.pool.ask(lambda pool, id=id: _reward(pool, id), None)  # type: ignore[misc]
            row = [Panel(rainy, f"rainy {id}"), Panel(derained, "derained")]
            rows.append(row if reward is None else [*row, reward])
        contact_sheet(rows, self._config.folder / "samples" / f"step-{run.progress.steps:09d}.png")
        self._restart()

    def _report_failure(self, meaning: str, problem: str | None, progress: Progress) -> None:
        """Report a failure once when it begins, and once when it is over."""
        if problem is not None and meaning not in self._failing:
            self._failing.add(meaning)
            self.notice(f"{meaning}, training goes on: {problem}", progress)
        elif problem is None and meaning in self._failing:
            self._failing.remove(meaning)
            self.notice(f"{meaning}: no longer.", progress)

    def _show(self, kind: type[Line], progress: Progress, **rest: object) -> None:
        line = kind.model_validate(
            {
                "time": round(time.time(), 3),
                "run": self._config.name,
                "step": progress.steps,
                "samples": progress.samples,
                "stage": progress.stage,
                "seconds": round(progress.seconds, 3),
                **rest,
            }
        )
        for view in self._views:
            view.show(line)

    def _restart(self) -> None:
        """Exclude what was done since the last step from the rate."""
        self._since = time.perf_counter()
        self._waited = self._recycling = 0.0


def _reward(pool: Pool, id: str) -> Panel | None:
    entry = pool.entries([id]).get(id)
    if entry is None:
        return None
    best = entry.best
    caption = f"reward of step {best.lineage.step}, log-odds {best.log_odds:.2f}"
    return Panel(pool.image(best.digest), caption)

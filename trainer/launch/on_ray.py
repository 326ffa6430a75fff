"""Runs on Ray: Ray Train workers on this machine or on a cluster.

The driver deploys the scorer on Ray Serve, holds an embedded pool, starts the workers, and shows what worker
0 writes into ``metrics.jsonl``. Workers exchange gradients among themselves; their checkpoints, figures and
the derainer go to the run's folder, which all machines must share. When a worker dies the group restarts
from the newest checkpoint; when the driver dies, the same command with ``--resume`` continues from there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from rich.console import Console

from iqa_service.registry import absolute, has_place, open_scorer
from iqa_service.serving import clusters
from iqa_service.serving.ray_client import join_serving
from iqa_service.serving.settings import ServiceSettings
from pool_store.client import open_pool
from rgsud_core.addresses import absolute_address
from rgsud_core.errors import FileError, last_line
from rgsud_core.files import unwritable
from rgsud_core.plugins import search_path
from rgsud_core.signals import until_interrupted
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.launch.worker import Summary, view_of, work
from trainer.reporting.sinks import RayMetricsView, following
from trainer.run import Callback
from trainer.state.checkpoints import Checkpoints

_STOP = ".stop"
"""Name of a file in the run's folder that makes the workers save and end."""
_REFUSAL = ".refusal"
"""Name of a file that holds an error of the run itself, which would end restarted workers too."""


def run_on_ray(
    config: Config, start: Path | None, console: Console, callbacks: Sequence[Callback] = ()
) -> Summary:
    """Train on Ray, from a checkpoint or from the beginning.

    Raises:
        TrainerError: the cluster cannot hold the workers, or they failed more often than allowed.
        KeyboardInterrupt: the user ended the run; it has been saved.
    """
    # All paths first: in a job, Ray takes the working directory away while this runs.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # a run waits for several of them
    given, config, modules = config, absolute_paths(config), search_path()
    start = None if start is None else start.resolve()
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise unwritable(config.folder, problem) from None
    stop, refusal = config.folder / _STOP, config.folder / _REFUSAL
    stop.unlink(missing_ok=True)
    refusal.unlink(missing_ok=True)
    with ExitStack() as stack:
        own = connect_ray(config, stack)
        _check_pool(config)
        served = None if has_place(config.recycling.scorer) else _scorer_service(config, own)
        scaling, cpus = _scaling(config, served.cpus * served.replicas if served else 0.0)
        scorer = _deploy(served, config.scorer_app(), own, stack) if served else config.recycling.scorer
        config = _recycling(config, scorer=scorer)
        if config.recycling.pool.startswith("embedded:"):
            config = _recycling(config, pool=_embedded(config, stack))
        payload: dict[str, Any] = {
            "config": config.model_dump(mode="json"),
            "given": given.model_dump(mode="json"),
            "start": None if start is None else str(start),
            "threads": cpus,
            "callbacks": list(callbacks),
        }
        trainer = TorchTrainer(
            _worker,
            train_loop_config=payload,
            scaling_config=scaling,
            torch_config=TorchConfig(timeout_s=config.ray.timeout_seconds),
            run_config=RunConfig(
                name=config.name,
                storage_path=str(config.folder / "ray"),
                worker_runtime_env={"env_vars": {"PYTHONPATH": modules}},  # type: ignore[call-arg]
                failure_config=FailureConfig(max_failures=config.ray.max_failures),
            ),
        )
        stack.enter_context(following(config.folder / "metrics.jsonl", [view_of(config, console)]))
        asked = stack.enter_context(until_interrupted(stop.touch))
        # In a thread, since Ray would take Ctrl-C for itself, and abort without saving.
        waiting = stack.enter_context(ThreadPoolExecutor(1))
        try:
            waiting.submit(trainer.fit).result()
        except ray.train.TrainingFailedError as problem:
            if refusal.exists():
                raise TrainerError(refusal.read_text()) from None
            raise TrainerError(
                f"the workers failed: {last_line(problem)}; the run is saved to its last checkpoint, "
                "continue it with --resume."
            ) from None
        finally:
            stop.unlink(missing_ok=True)
    if refusal.exists():
        raise TrainerError(refusal.read_text())
    if asked.is_set():
        raise KeyboardInterrupt(f"the run in {config.folder} has been saved")
    return Summary.model_validate_json((config.folder / "summary.json").read_text())


def _worker(payload: dict[str, Any]) -> None:
    """Body of a Ray Train worker; a restarted one begins at the newest checkpoint."""
    torch.set_num_threads(payload["threads"])
    config = Config.model_validate(payload["config"])
    refusal = config.folder / _REFUSAL
    if refusal.exists():
        return
    checkpoints = Checkpoints(config.folder / "checkpoints", config.report.keep_checkpoints)
    start = checkpoints.newest() if checkpoints.files() else payload["start"]
    stopping = (config.folder / _STOP).exists
    try:
        begin = None if start is None else Path(start)
        given = Config.model_validate(payload["given"])
        work(config, begin, [RayMetricsView()], stopping, payload["callbacks"], given)
    except (TrainerError, FileError) as problem:
        refusal.write_text(str(problem))
        raise


def absolute_paths(config: Config) -> Config:
    """The same run with absolute paths, for workers that have other working directories."""
    data = config.data
    names = ("rainy", "clean", "validation_rainy", "validation_clean")
    places = {name: place.resolve() for name in names if (place := getattr(data, name)) is not None}
    record = config.recycling.record
    pool = config.pool_address(config.folder.resolve())
    recycling = config.recycling.model_copy(
        update={
            "record": None if record is None else record.resolve(),
            "pool": absolute_address(pool, lambda option: option == "blobs"),
            "scorer": absolute(config.recycling.scorer),
        }
    )
    return config.model_copy(
        update={
            "runs": config.runs.resolve(),
            "data": data.model_copy(update=places),
            "recycling": recycling,
        }
    )


def connect_ray(config: Config, stack: ExitStack) -> bool:
    """Join a Ray cluster until the run ends, or start one.

    That of the settings or the environment; else the one that has the scorer, if that is already served; else
    that of `ray start` on this machine. Those that other programs started for themselves end with these.

    Returns:
        Whether Ray was started for this run.

    Raises:
        TrainerError: no cluster is at the address of the settings or of the environment.
        ScorerError: the scorer is said to be served, and no cluster of this machine has it.
    """
    if ray.is_initialized():
        return False
    scheme, _, app = config.recycling.scorer.partition(":")
    address = config.ray.address or clusters.named()
    if address is None and scheme == "serve":
        join_serving(app.partition("?")[0])
        stack.callback(clusters.leave)
        return False
    if address == "auto":
        address = next(iter(clusters.running()), address)
    address = address or clusters.standing()
    try:
        if address is None:
            clusters.join("local", include_dashboard=False)
        else:
            clusters.join(address)
    except ConnectionError as problem:
        if address is None:
            raise TrainerError(f"{problem}: try again, or use launch=inline.") from None
        raise TrainerError(
            f"there is no Ray cluster at {address} ({problem}): start one with `ray start --head`, or "
            "leave out ray.address to use this machine."
        ) from None
    stack.callback(clusters.leave)
    return address is None


def _recycling(config: Config, **changes: str) -> Config:
    return config.model_copy(update={"recycling": config.recycling.model_copy(update=changes)})


def _scorer_service(config: Config, own: bool) -> ServiceSettings:
    chosen = config.ray.scorer
    cpus = (0.0 if own else 1.0) if chosen.cpus is None else chosen.cpus
    tree = chosen.model_dump() | {"cpus": cpus}
    return ServiceSettings(scorer=config.recycling.scorer, http=False, **tree)


def _deploy(settings: ServiceSettings, name: str, own: bool, stack: ExitStack) -> str:
    """Deploy the run's scorer on Ray Serve until the run ends; returns its address."""
    from ray import serve

    from iqa_service.serving.ray_app import deploy_scorer

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if own:
        serve.start(proxy_location="Disabled")  # only this run uses it
    else:
        stack.callback(_undeploy, name)
    return deploy_scorer(settings, name)


def _undeploy(name: str) -> None:
    from ray import serve

    with suppress(TimeoutError):  # after a minute Serve goes on with it alone
        serve.delete(name)


def _check_pool(config: Config) -> None:
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    if config.recycling.pool.startswith("embedded:") and sum(node["Alive"] for node in nodes) > 1:
        raise TrainerError(
            f"the pool {config.recycling.pool} serves one machine, and this cluster has several: give "
            "recycling.pool=redis://... or http://..."
        )


def _embedded(config: Config, stack: ExitStack) -> str:
    """Open the run's pool in the driver; returns its address for the workers of this machine."""
    scorer = open_scorer(config.recycling.scorer)
    stack.callback(scorer.close)
    chosen = config.recycling
    pool = open_pool(chosen.pool, fingerprint=scorer.fingerprint, keep=chosen.keep, history=chosen.history)
    stack.callback(pool.close)
    return pool.address


def _scaling(config: Config, reserved: float) -> tuple[ScalingConfig, int]:
    """Ray Train's scaling, and the cores of each worker; ``reserved`` cores are left to the scorer."""
    settings = config.ray
    least = settings.workers if isinstance(settings.workers, int) else settings.workers[0]
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpu = config.device.startswith("cuda") or (config.device == "auto" and resources.get("GPU", 0) >= least)
    free = ray.available_resources()  # type: ignore[no-untyped-call]
    cpus = settings.cpus or max(1, int(free.get("CPU", 1) - reserved) // least)
    wanted = {"CPU": cpus} | ({"GPU": 1} if gpu else {})
    for kind, each in wanted.items():
        if each * least > resources.get(kind, 0):
            raise TrainerError(
                f"{least} worker(s) need {each * least} {kind}, the cluster has "
                f"{resources.get(kind, 0):.0f}: lower ray.workers or ray.cpus, or add machines."
            )
    scaling = ScalingConfig(
        num_workers=settings.workers,  # type: ignore[arg-type]  # its annotation lacks the elastic pair
        use_gpu=gpu,
        resources_per_worker=wanted,
    )
    return scaling, cpus

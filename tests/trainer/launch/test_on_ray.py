"""Runs on Ray: real workers, on this machine."""

from __future__ import annotations

import functools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
import yaml
from ray._private import services
from rich.console import Console

from iqa_service.serving import clusters
from tests.patience import wait_until
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.launch import on_ray as launch_ray
from trainer.launch import start as launch
from trainer.run import Callback, Run, Step
from trainer.state.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    clusters.join("local", num_cpus=2, include_dashboard=False)
    yield
    clusters.leave()


def on_a_cluster(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.slow(pytest.mark.usefixtures("cluster")(test))


class Notes(Callback):
    """Writes down the last step that it sees."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_step(self, run: Run, step: Step) -> None:
        self._path.write_text(str(run.progress.steps))


def _with(config: Config, **changes: Any) -> Config:
    tree = config.model_dump(mode="json")
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(value, dict) else value
    return Config.model_validate(tree)


def _run(config: Config, **options: Any) -> launch.Summary:
    return launch.run(config, console=Console(quiet=True), **options)


def _weights(config: Config) -> dict[str, torch.Tensor]:
    method = Checkpoints(config.folder / "checkpoints", 3).load()["method"]
    return {
        f"{part}.{key}": value
        for part in ("averaged", "G", "DEM", "D")
        for key, value in method[part].items()
    }


@on_a_cluster
def test_one_worker_gives_the_weights_of_an_inline_run(config: Config) -> None:
    config = _with(config, recycling={"scorer": "daclip-lite"})
    inline, on_ray = _with(config, name="inline"), _with(config, name="ray", launch="ray", ray={"cpus": 1})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = _run(inline)
    finally:
        torch.set_num_threads(threads)
    seen = config.runs.parent / "seen"
    found = _run(on_ray, callbacks=[Notes(seen)])
    differs = {"training_seconds", "folder"}
    assert found.model_dump(exclude=differs) == expected.model_dump(exclude=differs)
    assert seen.read_text() == "12"
    written = yaml.safe_load((on_ray.folder / "config.yaml").read_text())
    assert written == on_ray.model_dump(mode="json")
    ours = _weights(on_ray)
    for key, value in _weights(inline).items():
        assert torch.equal(ours[key], value), key


@on_a_cluster
def test_two_workers_share_the_images_and_survive_the_death_of_one(config: Config) -> None:
    config = _with(
        config,
        name="two",
        launch="ray",
        ray={"workers": 2, "cpus": 1, "timeout_seconds": 120},
        schedule={"samples": 96},
        recycling={"synchronous": False},
    )
    killed = threading.Event()

    def kill_one() -> None:
        checkpoints = Checkpoints(config.folder / "checkpoints", 3)
        wait_until(checkpoints.files, "no checkpoint is written")
        for process in psutil.Process().children(recursive=True):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                process.kill()
                killed.set()
                return

    killer = threading.Thread(target=kill_one)
    killer.start()
    summary = _run(config)
    killer.join()
    assert killed.is_set()
    assert summary.samples == 96
    lines = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    assert steps[-1] == 24
    # Begun again from a checkpoint, not from nothing.
    assert steps.count(2) == 1
    assert summary.pool_entries == 4


@on_a_cluster
def test_workers_that_do_not_fit_are_told(config: Config) -> None:
    with pytest.raises(TrainerError, match=r"64 worker\(s\) need 64 CPU, the cluster has 2"):
        _run(_with(config, name="many", launch="ray", ray={"workers": 64, "cpus": 1}))


def test_paths_of_pool_and_scorer_are_those_of_the_caller(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recycling = {"pool": "redis://host/0?blobs=rewards&pool=a", "scorer": "daclip?weights=w.st&views=tiles"}
    whole = launch_ray.absolute_paths(_with(config, recycling=recycling)).recycling
    assert whole.pool == f"redis://host/0?blobs={tmp_path}/rewards&pool=a"
    assert whole.scorer == f"daclip?weights={tmp_path}/w.st&views=tiles"
    kept = {"pool": "redis://host/0?blobs=s3://bucket/a", "scorer": "daclip-lite"}
    same = launch_ray.absolute_paths(_with(config, recycling=kept)).recycling
    assert same.model_dump().items() >= kept.items()


@pytest.mark.parametrize(
    ("settings", "environment", "standing", "joined"),
    [
        ({}, None, None, "local"),
        ({}, None, "127.0.0.1:1", "127.0.0.1:1"),
        ({}, "127.0.0.1:2", "127.0.0.1:1", "127.0.0.1:2"),
        ({"address": "127.0.0.1:3"}, "127.0.0.1:2", "127.0.0.1:1", "127.0.0.1:3"),
        ({"address": "auto"}, None, None, "127.0.0.1:4"),
    ],
)
def test_which_cluster_a_run_joins(
    settings: dict[str, str],
    environment: str | None,
    standing: str | None,
    joined: str,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(clusters, "join", lambda address, **_: asked.append(address))
    monkeypatch.setattr(clusters, "standing", lambda: standing)
    # Those of other programs, which end with them.
    monkeypatch.setattr(clusters, "running", lambda: ["127.0.0.1:4"])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    with ExitStack() as stack:
        own = launch_ray.connect_ray(_with(config, ray=settings), stack)
    assert asked == [joined]
    assert own == (joined == "local")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost", "auto"])
def test_a_cluster_that_is_not_there_is_an_error_at_once(
    address: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(clusters, "running", list)
    with ExitStack() as stack, pytest.raises(TrainerError, match=f"there is no Ray cluster at {address}"):
        launch_ray.connect_ray(_with(config, ray={"address": address}), stack)


def test_what_ends_or_has_ended_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        gone = f"127.0.0.1:{silent.getsockname()[1]}"
    # As `ray start` leaves it behind after a crash.
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: gone)
    monkeypatch.setattr(services, "_cached_find_gcs_addresses", functools.cache(lambda: frozenset({gone})))
    assert clusters.standing() is None
    assert clusters.running() == []

"""Take away whatever a run depends on, while it trains: it goes on, and loses nothing that was acknowledged.

`RGSUD_FAULT_SECONDS=60` makes every outage as long as that.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import yaml

from pool_store.client import open_pool
from tests.patience import PATIENCE, wait_until
from tests.system.clusters import ENVIRONMENT, PROGRAMS, RayNodes, ray_nodes
from tests.system.conftest import RedisServer, Service
from trainer.state.checkpoints import Checkpoints

pytestmark = pytest.mark.slow
OUTAGE_SECONDS = float(os.environ.get("RGSUD_FAULT_SECONDS", "6"))
REDEPLOY = """
import sys
import ray
from ray import serve
from iqa_service.serving.ray_app import deploy_scorer
from iqa_service.serving.settings import ServiceSettings
ray.init(address=sys.argv[1], log_to_driver=False)
if sys.argv[2] == "delete":
    serve.delete("faults")
else:
    deploy_scorer(ServiceSettings(scorer="local:random", cpus=0, http=False), "faults")
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    with ray_nodes(1) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for side in ("rainy", "clean"):
        (folder / side).mkdir()
        for number in range(6):
            image = rng.integers(0, 200, (48, 64, 3), dtype=np.uint8)
            PIL.Image.fromarray(image).save(folder / side / f"{side}-{number}.png")
    return folder


class Run:
    """`rgsud train` on a cluster, again and again by the same command."""

    def __init__(self, folder: Path, cluster: RayNodes, photographs: Path, **changes: Any) -> None:
        self.folder = folder / "run"
        self._log = folder / "run.log"
        # One thread, as Ray gives a worker of one core; and a death is to be noticed soon.
        self._environment = {
            **ENVIRONMENT,
            "RAY_ADDRESS": cluster.gcs,
            "OMP_NUM_THREADS": "1",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        }
        tree: dict[str, Any] = {
            "runs": str(folder),
            "device": "cpu",
            "data": {"rainy": str(photographs / "rainy"), "clean": str(photographs / "clean")},
            "derainer": {"width": 4, "encoder": [1], "middle": 1, "decoder": [1]},
            "method": {
                "generator": {"width": 8, "blocks": 1, "downscale": 2},
                "dem": {"width": 4, "levels": 1},
                "discriminator": {"width": 8, "layers": 2},
            },
            "schedule": {"samples": 10**8, "stage2_from": 20},
            "recycling": {"scorer": "random", "every": 2},
            "report": {"log_every": 2, "evaluate_every": 10**6, "sheet_every": 10**6, "checkpoint_every": 20},
            "ray": {"cpus": 1, "scorer": {"cpus": 0}, "timeout_seconds": 120},
        }
        tree["data"] |= {"crop": 32, "batch": 2, "workers": 0}
        for part, values in changes.items():
            tree[part] |= values
        self._recipe = folder / "recipe.yaml"
        self._recipe.write_text(yaml.safe_dump(tree))

    def start(self, *settings: str) -> subprocess.Popen[bytes]:
        command = [str(PROGRAMS / "rgsud"), "train", str(self._recipe), *settings, "--resume"]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)

    def finish(self, *settings: str) -> None:
        """Train to the end."""
        assert self.start(*settings).wait(PATIENCE) == 0, self.log()

    def log(self) -> str:
        return self._log.read_text()[-3000:]

    def lines(self, kind: str) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in found if line["kind"] == kind]

    def last(self, figure: str) -> float:
        """A figure of the newest step, 0 before the first."""
        steps = self.lines("step")
        return float(steps[-1][figure] or 0) if steps else 0.0

    def until(self, so: Callable[[], object], what: str) -> None:
        wait_until(so, lambda: f"{what}: {self.log()}")

    def goes_on(self, figure: str) -> None:
        """Returns once a figure has risen."""
        before = self.last(figure)
        self.until(lambda: self.last(figure) > before, f"{figure} does not rise")

    def complaints(self) -> int:
        return sum("training goes on" in line["text"] for line in self.lines("notice"))

    def well(self) -> bool:
        """Nothing is missing any more."""
        return self.complaints() == sum(line["text"].endswith("no longer.") for line in self.lines("notice"))

    def weights(self) -> dict[str, torch.Tensor]:
        method = Checkpoints(self.folder / "checkpoints", 3).load()["method"]
        return {
            f"{part}.{key}": value
            for part in ("averaged", "derainer", "G", "DEM", "D")
            for key, value in method[part].items()
        }


@contextlib.contextmanager
def outage(run: Run) -> Iterator[None]:
    """What is taken away in the block is given back after it: training went on, and says both once."""
    told = run.complaints()
    yield
    run.until(lambda: run.complaints() > told, "nothing is said")
    for _ in range(3):
        run.goes_on("step")


def test_training_outlives_its_services(
    tmp_path: Path, cluster: RayNodes, photographs: Path, redis_server: RedisServer
) -> None:
    spec = f"{redis_server.url}?blobs={tmp_path / 'blobs'}"
    service = Service(spec, tmp_path / "service.log")
    places = {"pool": f"{service.url}/run", "scorer": "serve:faults?timeout=5", "every": 2}
    run = Run(tmp_path, cluster, photographs, recycling=places)
    serve = [str(PROGRAMS / "python"), "-c", REDEPLOY, cluster.gcs]
    subprocess.run([*serve, "deploy"], env=ENVIRONMENT, check=True, capture_output=True)
    driver = run.start()

    def comes_back(what: str) -> None:
        run.until(run.well, f"{what} is not found again")
        run.goes_on("recycled/scored")

    try:
        run.until(lambda: run.last("pool/entries") == 6 and run.last("stage") == 2, "it does not begin")

        cluster.kill("ServeReplica:faults")
        comes_back("the copy of the scorer")

        with outage(run):
            subprocess.run([*serve, "delete"], env=ENVIRONMENT, check=True, capture_output=True)
        subprocess.run([*serve, "deploy"], env=ENVIRONMENT, check=True, capture_output=True)
        comes_back("the scorer")

        with outage(run):
            service.kill()
        service.start()
        comes_back("the pool's service")

        with outage(run):
            redis_server.signal(signal.SIGSTOP)
            began = run.last("seconds")
            run.until(lambda: run.last("seconds") > began + OUTAGE_SECONDS, "steps wait for Redis")
        redis_server.signal(signal.SIGCONT)
        comes_back("Redis")

        with outage(run):
            redis_server.signal(signal.SIGKILL)
        redis_server.start()
        comes_back("Redis anew")

        assert run.complaints() <= 12, "it says the same again and again"
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(PATIENCE) == 130, run.log()
        run.finish(f"schedule.samples={int(run.last('samples')) + 40}")
        pool = open_pool(f"{service.url}/run", fingerprint=None)
        assert pool.verify().whole
        assert pool.stats().entries == 6
        pool.close()
    finally:
        driver.kill()
        if service.process.poll() is None:
            service.stop()


EXACT: dict[str, Any] = {
    "schedule": {"samples": 240, "stage2_from": 80},
    "recycling": {"scorer": "random", "every": 2, "synchronous": True},
    "report": {"log_every": 2, "evaluate_every": 10**6, "sheet_every": 10**6, "checkpoint_every": 10},
}


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, cluster: RayNodes, photographs: Path
) -> dict[str, torch.Tensor]:
    """Weights of an inline run, which ends with the same ones, and sooner."""
    run = Run(tmp_path_factory.mktemp("undisturbed"), cluster, photographs, **EXACT)
    run.finish("launch=inline")
    return run.weights()


@pytest.mark.parametrize("victim", ["worker", "driver"])
def test_a_death_changes_no_weight(
    tmp_path: Path,
    cluster: RayNodes,
    photographs: Path,
    undisturbed: dict[str, torch.Tensor],
    victim: str,
) -> None:
    run = Run(tmp_path, cluster, photographs, **EXACT)
    driver = run.start()
    try:
        run.until(lambda: run.last("step") >= 14, "it does not begin")
        if victim == "worker":
            cluster.kill("RayTrainWorker")
        else:
            driver.kill()
            driver.wait()
            driver = run.start()
        assert driver.wait(PATIENCE) == 0, run.log()
    finally:
        driver.kill()
    assert any(line["text"].startswith("Going on from ") for line in run.lines("notice"))
    ours = run.weights()
    for key, value in undisturbed.items():
        assert torch.equal(ours[key], value), key
    pool = open_pool(f"embedded:{run.folder}/pool", fingerprint=None)
    assert pool.verify().whole
    pool.close()


def test_an_elastic_run_goes_on_with_the_workers_that_are_left(
    tmp_path: Path, photographs: Path, redis_server: RedisServer
) -> None:
    pool = f"{redis_server.url}?blobs={tmp_path / 'blobs'}"
    with ray_nodes(2) as nodes:
        run = Run(
            tmp_path,
            nodes,
            photographs,
            recycling={"pool": pool},
            ray={"workers": [1, 2], "cpus": 1, "scorer": {"cpus": 0}, "timeout_seconds": 120},
        )
        driver = run.start()
        try:
            plans = lambda: [line["text"] for line in run.lines("notice") if " a step, " in line["text"]]  # noqa: E731
            run.until(lambda: run.last("step") > 40, "it does not begin")
            assert plans()[-1].startswith("2 workers, 4 crops a step")
            nodes.kill_node(1)
            run.until(lambda: plans()[-1].startswith("1 worker, 2 crops a step"), "it does not go on")
            samples = run.last("samples")
            run.until(lambda: run.last("samples") > samples + 40, "it does not train")
            driver.send_signal(signal.SIGTERM)
            assert driver.wait(PATIENCE) == 130, run.log()
        finally:
            driver.kill()

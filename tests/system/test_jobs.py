"""Training as a job of a Ray cluster of two nodes: submitted, watched, stopped, and gone on with."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from pool_store.client import open_pool
from tests.patience import PATIENCE, wait_until
from tests.system.clusters import AUTHORISED, ENVIRONMENT, PROGRAMS, RayNodes, free_ports, ray_nodes
from trainer.data.demo import write_demo_data

pytestmark = pytest.mark.slow

SERVE = Path(__file__).parents[2] / "deploy" / "serve.yaml"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    with ray_nodes(2) as nodes:
        yield nodes


def command(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """One of this environment's programs, as a person with the cluster's token would call it."""
    return subprocess.Popen(
        [PROGRAMS / arguments[0], *arguments[1:]],
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    """All that it says until it ends."""
    said, _ = process.communicate(timeout=PATIENCE)
    return said


def recipe(folder: Path, pool: str) -> Path:
    """The demonstration, shortened, on a worker on each node, as a recipe of one's own."""
    data = write_demo_data(folder / "photographs")
    tree: dict[str, Any] = yaml.safe_load(
        (Path(__file__).parents[2] / "trainer/recipes/demo.yaml").read_text()
    )
    tree |= {
        "name": "job",
        "runs": str(folder / "runs"),
        "launch": "ray",
        "ray": {"workers": 2, "cpus": 1, "scorer": {"cpus": 0}},
        "data": {
            "rainy": str(data.rainy),
            "clean": str(data.clean),
            "validation_rainy": str(data.validation_rainy),
            "validation_clean": str(data.validation_clean),
            "crop": 32,
            "batch": 2,
            "workers": 0,
        },
    }
    tree["schedule"] = {"samples": 200, "recycle_from": 0, "stage2_from": "50%"}
    tree["recycling"] |= {"pool": pool, "every": 2}
    tree["report"] = {"log_every": 2, "checkpoint_every": 10, "plan": False}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    whole = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in whole if line.endswith("\n")]


def test_serve_yaml_scores_by_http(cluster: RayNodes, tmp_path: Path) -> None:
    tree = yaml.safe_load(SERVE.read_text())
    (port,) = free_ports(1)
    tree["http_options"]["port"] = port
    tree["applications"][0]["args"]["cpus"] = 0  # the nodes' cores are for training
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(tree))
    said = output(command("serve", "deploy", tmp_path / "serve.yaml", "--address", cluster.address))
    assert "successfully" in said, said

    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{url}/readyz", timeout=PATIENCE).is_success
        return False

    wait_until(ready, "the scorer is not ready")
    Image.fromarray(np.full((80, 80, 3), 128, np.uint8)).save(tmp_path / "grey.png")
    by_http, here = (
        output(command("rgsud", "score", tmp_path / "grey.png", "--scorer", scorer, "--json"))
        for scorer in (url, "local:daclip-lite")
    )
    found, expected = (json.loads(said[said.index("{") :]) for said in (by_http, here))
    assert found["fingerprint"] == expected["fingerprint"]
    assert found["scores"][0]["log_odds"] == pytest.approx(expected["scores"][0]["log_odds"], abs=1e-3)


def test_a_job_trains_on_two_nodes_is_stopped_and_goes_on(
    cluster: RayNodes, tmp_path: Path, redis_server: Any
) -> None:
    pool = f"{redis_server.url}?blobs={tmp_path / 'blobs'}"
    folder = tmp_path / "runs" / "job"
    submitted = command("rgsud", "submit", recipe(tmp_path, pool), "--address", cluster.address)
    wait_until(
        lambda: submitted.poll() is not None or any(line["kind"] == "step" for line in lines(folder)),
        "no step is made",
    )
    assert submitted.poll() is None, output(submitted)

    said = output(command("rgsud", "status", folder, "--address", cluster.address, "--json"))
    status = json.loads(said[said.index("{") :])
    assert status["run"]["state"] == "training"
    assert status["pool"]["source"] == "pool"
    assert (status["scorer"]["state"], status["scorer"]["replicas"]) == ("RUNNING", 1)
    assert status["job"]["state"] == "RUNNING"

    wait_until(lambda: list((folder / "checkpoints").glob("*.pt")), "no checkpoint is written")
    stop = httpx.post(
        f"{cluster.address}/api/jobs/{status['job']['id']}/stop", headers=AUTHORISED, timeout=PATIENCE
    )
    assert stop.json()["stopped"]
    said = output(submitted)
    assert submitted.returncode == 2
    assert "was stopped: submit it again" in said
    reached = lines(folder)[-1]["samples"]
    assert 0 < reached < 200

    # The line that stands for it in Ray's own words, which goes on with the run.
    (plain,) = re.findall(r"^The same as: (.*)$", said, re.MULTILINE)
    again = command(*shlex.split(plain))
    said = output(again)
    assert again.returncode == 0, said
    assert f"Going on from {folder}/checkpoints/" in said
    assert "Trained for" in said

    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["samples"], summary["stage"], summary["pool_entries"]) == (200, 2, 12)
    assert {line["step"] * 4 for line in lines(folder)} == {line["samples"] for line in lines(folder)}
    with closing(open_pool(pool, fingerprint=None)) as kept:
        verified = kept.verify()
        workers = {entry.best.lineage.worker for entry in kept.scan()}
    assert (verified.entries, verified.whole) == (12, True)
    assert workers == {0, 1}  # each has a node of its own: a node has one core


def test_a_job_that_fails_says_why(cluster: RayNodes, tmp_path: Path) -> None:
    path = recipe(tmp_path, "embedded:{run}/pool")
    failing = command("rgsud", "submit", path, "recycling.scorer=local:random", "--address", cluster.address)
    said = output(failing)
    assert failing.returncode == 2
    assert re.search(
        r"rgsud: the job raysubmit_\w+ failed with exit code 2: the pool embedded:\S+ serves", said
    )


def test_a_wrong_token_is_told(cluster: RayNodes, tmp_path: Path) -> None:
    path = recipe(tmp_path, "embedded:{run}/pool")
    refused = command("rgsud", "submit", path, "--address", cluster.address, RAY_AUTH_TOKEN="0" * 64)
    said = output(refused)
    assert refused.returncode == 2
    assert "wants a token, and this one does not fit" in said

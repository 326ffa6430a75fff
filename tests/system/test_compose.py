"""`docker compose up` as a user runs it, on a run of a hundred steps or so."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.patience import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "schedule.seconds=null schedule.recycle_from=0 recycling.every=2 report.plan=false report.log_every=2 "
    "report.evaluate_every=20 report.sheet_every=1000 report.checkpoint_every=50 schedule.samples="
)


def _engine() -> bool:
    if shutil.which("docker") is None:
        return False
    asked = [["docker", "info"], ["docker", "compose", "version"]]
    return all(
        subprocess.run(command, capture_output=True, timeout=PATIENCE).returncode == 0 for command in asked
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _engine(), reason="there is no Docker Engine with Compose here"),
]


class Composition:
    """docker-compose.yml as a project of its own, on free ports."""

    def __init__(self) -> None:
        with ExitStack() as stack:
            free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
            self.port, ray_port = (listener.getsockname()[1] for listener in free)
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("RGSUD_", "COMPOSE_"))}
        self.environment = ours | {
            "COMPOSE_PROJECT_NAME": f"rgsud-test-{os.getpid()}",
            "RGSUD_POOL_PORT": str(self.port),
            "RGSUD_RAY_PORT": str(ray_port),
            "RGSUD_SETTINGS": f"{SETTINGS}100000",
            "RGSUD_WORKER_CPUS": "1",
        }

    def run(self, *arguments: str, check: bool = True) -> str:
        """What `docker compose ARGUMENTS` prints."""
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,  # a machine that has no image yet builds it
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, path: str) -> httpx.Response:
        """What the pool's service answers to one who has the token that may read."""
        token = self.run("exec", "-T", "pool", "cat", "/tokens/read/token")
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.get(url, headers={"authorization": f"Bearer {token}"}, timeout=PATIENCE)

    def offers(self) -> int:
        """Candidates offered so far; none where there is no pool yet."""
        answer = self.ask("/v1/pools/demo/stats")
        if answer.status_code == 404:
            return 0
        return int(answer.raise_for_status().json()["offers"])

    def lines(self) -> list[dict[str, Any]]:
        """The run's metrics.jsonl, empty where there is none yet."""
        text = self.run("exec", "-T", "ray-head", "cat", "/runs/demo/metrics.jsonl", check=False)
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def samples(self) -> int:
        """Rainy crops trained on so far."""
        return max((line["samples"] for line in self.lines()), default=0)

    def metrics(self) -> str:
        """What Prometheus reads, under the names that it gives it."""
        read = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
        nodes = [f"http://{node}:8090/metrics" for node in ("ray-head", "ray-worker")]
        texts = [self.run("exec", "-T", "pool", "python", "-c", read, node) for node in nodes]
        return "\n".join(texts).replace("ray_rgsud_", "rgsud_") + self.ask("/metrics").text

    def train(self) -> dict[str, Any]:
        """The container that trains, as `docker compose ps` shows it."""
        shown = self.run("ps", "--all", "--format", "json", "train").strip()
        found = json.loads(shown.splitlines()[0])
        container: dict[str, Any] = found[0] if isinstance(found, list) else found
        return container


@pytest.fixture
def composition() -> Iterator[Composition]:
    composition = Composition()
    yield composition
    composition.run("down", "--volumes", "--timeout", "5")


def _until(what: Callable[[], object], composition: Composition) -> None:
    wait_until(what, lambda: composition.run("logs", "--tail", "40", check=False))


def test_trains_survives_resumes_and_scales(composition: Composition) -> None:
    composition.run("up", "--detach", "--quiet-pull")
    _until(lambda: composition.offers() > 0, composition)

    # Nobody reads without a token, and the page itself answers.
    url = f"http://127.0.0.1:{composition.port}"
    assert httpx.get(f"{url}/v1/pools/demo/stats", timeout=PATIENCE).status_code == 401
    assert "<html" in httpx.get(url, timeout=PATIENCE).text

    # Without Redis training goes on, and has rewards again when it is back; what it has stored is there.
    offered = composition.offers()
    composition.run("kill", "redis")
    before = composition.samples()
    _until(lambda: composition.samples() >= before + 24, composition)
    composition.run("start", "redis")
    _until(lambda: composition.ask("/readyz").is_success, composition)
    assert composition.offers() >= offered
    offered = composition.offers()
    _until(lambda: composition.offers() > offered, composition)

    # Grafana finds what it draws.
    drawn = (ROOT / "deploy/grafana/dashboards/rgsud.json").read_text()
    names = set(re.findall(r"rgsud_(?:train|scorer|pool)_\w+", drawn))
    assert len(names) > 10

    def all_there() -> bool:
        text = composition.metrics()
        return all(f"\n{name}" in text for name in names)

    _until(all_there, composition)

    # It saves when it is told to end, and goes on from there, with one more worker.
    reached = composition.samples()
    composition.run("down")
    composition.environment["RGSUD_SETTINGS"] = f"{SETTINGS}{reached + 240}"
    composition.run("up", "--detach", "--scale", "ray-worker=2")
    _until(lambda: composition.train()["State"] == "exited", composition)
    assert composition.train()["ExitCode"] == 0, composition.run("logs", "train")
    lines = composition.lines()
    resumed = max(n for n, line in enumerate(lines) if str(line.get("text")).startswith("Going on from"))
    assert lines[resumed]["samples"] >= reached
    steps = [line for line in lines[resumed:] if line["kind"] == "step"]
    assert steps[-1]["samples"] - steps[-2]["samples"] == 2 * 2 * 4, "two steps of two workers, 4 crops each"

    summary = json.loads(composition.run("exec", "-T", "ray-head", "cat", "/runs/demo/summary.json"))
    assert summary["samples"] >= reached + 240
    assert summary["pool_entries"] > 0
    verify = ("rgsud", "pool", "verify", "http://pool:8080/demo", "--json")
    assert json.loads(composition.run("run", "--rm", "--no-deps", "-T", "train", *verify))["damaged"] == []

"""What is submitted to a cluster, and what is said when that goes wrong; the cluster itself is imitated."""

from __future__ import annotations

import shlex
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.job_submission import JobStatus

import trainer.launch.submit
from trainer.errors import TrainerError
from trainer.launch.submit import submit

HEAD = "http://head:8265"


class Cluster:
    """Takes one job, and tells how it went."""

    def __init__(self) -> None:
        self.entrypoint = ""
        self.environment: dict[str, Any] = {}
        self.metadata: dict[str, str] = {}
        self.travelled: dict[str, str] = {}
        self.log = ["one\n", "Trained for 3 s.\n"]
        self.details = SimpleNamespace(status=JobStatus.SUCCEEDED, driver_exit_code=0, message="")
        self.problem: BaseException | None = None

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]) -> str:
        self.entrypoint, self.environment, self.metadata = entrypoint, runtime_env, metadata
        if "working_dir" in runtime_env:
            root = Path(runtime_env["working_dir"])
            self.travelled = {path.name: path.read_text() for path in root.glob("*.*")}
        return "raysubmit_1"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for text in self.log:
            yield text
        if self.problem is not None:
            raise self.problem

    def get_job_status(self, job: str) -> JobStatus:
        return self.details.status

    def get_job_info(self, job: str) -> SimpleNamespace:
        return self.details


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(trainer.launch.submit, "connect", lambda address: cluster)
    return cluster


@pytest.fixture
def recipe(tree: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_recipe_travels_alone(cluster: Cluster, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit(str(recipe), ["recycling.scorer=daclip-lite?consistency=1"], HEAD)
    assert shlex.split(cluster.entrypoint) == [
        *("rgsud", "train", "mine.yaml", "recycling.scorer=daclip-lite?consistency=1", "--resume"),
    ]
    assert cluster.travelled == {"mine.yaml": recipe.read_text()}
    assert cluster.metadata == {"run": "small"}
    said = capsys.readouterr()
    assert said.out == "one\nTrained for 3 s.\n"
    words = shlex.split(said.err.splitlines()[0].removeprefix("The same as: "))
    assert words[:7] == ["ray", "job", "submit", "--address", HEAD, "--working-dir", str(recipe.parent)]
    assert shlex.join(words[words.index("--") + 1 :]) == cluster.entrypoint


def test_a_folder_travels_with_the_recipe_in_it(cluster: Cluster, recipe: Path) -> None:
    (recipe.parent / "notes.txt").write_text("beside it")
    submit(str(recipe), ["data.rainy=rainy"], HEAD, working_dir=recipe.parent)
    assert cluster.entrypoint.startswith("rgsud train mine.yaml data.rainy=rainy ")
    assert cluster.environment["working_dir"] == str(recipe.parent)
    assert {"mine.yaml", "notes.txt"} <= set(cluster.travelled)


def test_a_recipe_of_the_package_needs_no_folder(cluster: Cluster, recipe: Path) -> None:
    data = yaml.safe_load(recipe.read_text())["data"]
    places = [f"data.{key}={value}" for key, value in data.items() if str(value).startswith("/")]
    submit("demo", [f"runs={recipe.parent}", *places], HEAD, follow=False)
    assert cluster.entrypoint.startswith("rgsud train demo ")
    assert "working_dir" not in cluster.environment


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["runs=runs"], r"runs=runs is relative .*: give runs=/FOLDER"),
        (["data.rainy=rainy"], r"data\.rainy=rainy is a relative path: .* --working-dir"),
        (["data.crops=3"], "unknown setting 'crops'"),
    ],
)
def test_settings_that_cannot_work_are_told_at_once(
    cluster: Cluster, recipe: Path, settings: list[str], said: str
) -> None:
    with pytest.raises(TrainerError, match=said):
        submit(str(recipe), settings, HEAD)
    assert not cluster.entrypoint


def test_a_recipe_beside_the_folder_that_travels(cluster: Cluster, recipe: Path) -> None:
    with pytest.raises(TrainerError, match=r"mine\.yaml is not in .*/rainy: put it there"):
        submit(str(recipe), [], HEAD, working_dir=recipe.parent / "rainy")


@pytest.mark.parametrize(
    ("status", "code", "message", "said"),
    [
        (JobStatus.FAILED, 2, "", r"the job raysubmit_1 failed with exit code 2: no folder /images\."),
        (JobStatus.FAILED, None, "no node\nhas room", r"the job raysubmit_1 failed: has room"),
        (JobStatus.STOPPED, None, "", r"the job raysubmit_1 was stopped: submit it again"),
    ],
)
def test_a_job_that_does_not_end_well(
    cluster: Cluster, recipe: Path, status: JobStatus, code: int | None, message: str, said: str
) -> None:
    cluster.log = ["begun\n", "rgsud: no folder /images.\n\n"]
    cluster.details = SimpleNamespace(status=status, driver_exit_code=code, message=message)
    with pytest.raises(TrainerError, match=said):
        submit(str(recipe), [], HEAD)


def test_ctrl_c_leaves_the_job_alone(
    cluster: Cluster, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.problem = KeyboardInterrupt()
    with pytest.raises(SystemExit) as ended:
        submit(str(recipe), [], HEAD)
    assert ended.value.code == 130
    assert f"`ray job stop raysubmit_1 --address {HEAD}`" in capsys.readouterr().err


def test_a_cluster_that_goes_away(cluster: Cluster, recipe: Path) -> None:
    cluster.problem = RuntimeError("WebSocket connection closed unexpectedly")
    with pytest.raises(TrainerError, match=r"went away \(WebSocket .*\): if it still runs, `ray job logs"):
        submit(str(recipe), [], HEAD)


@pytest.fixture
def stranger() -> Iterator[str]:
    """An HTTP server that is no Ray cluster."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_who_answers_is_no_cluster(recipe: Path, stranger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://another:8265")  # what is asked for comes first
    with pytest.raises(TrainerError, match=f"what answers at {stranger} is no Ray cluster"):
        submit(str(recipe), [], stranger)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "127.0.0.1:8265", "http://127.0.0.1:wrong"])
def test_nobody_answers(recipe: Path, address: str) -> None:
    with pytest.raises(TrainerError, match=f"no Ray cluster answers at {address} .*http://HEAD:8265"):
        submit(str(recipe), [], address)

"""`rgsud submit`: a training run as a job of a Ray cluster."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from rgsud_core.console import make_console
from rgsud_core.errors import last_line
from trainer.errors import TrainerError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

    from trainer.config import Config

console = make_console(stderr=True)
Address = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, http://HEAD:8265.")
]
_CONNECT_SECONDS = 5.0
_ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
"""After `ray job stop` a run saves and ends, for which Ray's default of 3 seconds is too short."""


def submit(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or the path of a .yaml file.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings to change: key.of.setting=value.")
    ] = None,
    address: Address = "http://127.0.0.1:8265",
    follow: Annotated[bool, typer.Option(help="Show the job's log until it ends.")] = True,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder that is uploaded with the job, which starts in it; files in .gitignore are left out."
        ),
    ] = None,
) -> None:
    """Train on a Ray cluster, as a job that does not depend on this terminal.

    Submitted again after it has ended early, the run continues from its newest checkpoint. With token
    authentication, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH name the cluster's token.
    """
    from trainer.config import load_config

    config = load_config(recipe, settings)
    _check_places(config, working_dir)
    root = None if working_dir is None else working_dir.resolve()
    alone = None
    if recipe.endswith((".yaml", ".yml")):
        source = Path(recipe).resolve()
        alone, root = (source, source.parent) if root is None else (None, root)
        if not source.is_relative_to(root):
            raise TrainerError(f"the recipe {recipe} is not in {root}: put it there, so that it travels too.")
        recipe = str(source.relative_to(root))
    command = shlex.join(["rgsud", "train", recipe, *(settings or []), "--resume"])
    client = connect(address)
    console.print(f"The same as: {plain_line(address, root, command)}")
    with tempfile.TemporaryDirectory() as folder:
        if alone is not None:
            # The recipe alone, without what else is in its folder.
            root = Path(shutil.copy(alone, folder)).parent
        job = _submit(client, command, root, config.name)
    console.print(f"Job {job}: run '{config.name}' in {config.folder}")
    if follow:
        _follow(client, job, address)
    else:
        console.print(f"Its log: ray job logs {job} --address {address} --follow")


def plain_line(address: str, root: Path | None, command: str) -> str:
    """What Ray's own command would be called with."""
    travels = f"--working-dir {shlex.quote(str(root))} " if root else ""
    environment = shlex.quote(json.dumps({"env_vars": _ENVIRONMENT}))
    return f"ray job submit --address {address} {travels}--runtime-env-json {environment} -- {command}"


def connect(address: str) -> JobSubmissionClient:
    """The jobs of the cluster whose dashboard is at ``address``; TrainerError where there is none."""
    with dashboard(address):
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        return JobSubmissionClient(address)


@contextmanager
def dashboard(address: str) -> Iterator[None]:
    """Turns failures to connect a client of Ray's dashboard into a TrainerError."""
    _reach(address)
    # Ray's clients prefer this variable to the address that they are given.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise TrainerError(
            f"the cluster at {address} wants a token, and this one does not fit: set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to that of the cluster."
        ) from None
    except (ConnectionError, RuntimeError, OSError, ValueError) as problem:
        raise TrainerError(
            f"what answers at {address} is no Ray cluster ({last_line(problem)}): give the address of "
            "its dashboard, as http://HEAD:8265."
        ) from None


def _reach(address: str) -> None:
    # Ray's clients would wait for minutes.
    parts = urlsplit(address)
    try:
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OSError("it is no http:// address")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), _CONNECT_SECONDS).close()
    except (OSError, ValueError) as problem:
        raise TrainerError(
            f"no Ray cluster answers at {address} ({problem}): give the address of its dashboard, as "
            "http://HEAD:8265, and see that the head runs."
        ) from None


def _check_places(config: Config, working_dir: Path | None) -> None:
    """Refuse relative paths that the job cannot use: its working folder ends with it."""
    if not config.runs.is_absolute():
        raise TrainerError(
            f"runs={config.runs} is relative to a folder that ends with the job: give runs=/FOLDER, one that "
            "all machines of the cluster share."
        )
    data = config.data.model_dump()
    places = {name: place for name, place in data.items() if isinstance(place, Path)}
    for name, place in places.items():
        if working_dir is None and not place.is_absolute():
            raise TrainerError(
                f"data.{name}={place} is a relative path: give a whole one that all machines of the cluster "
                "share, or --working-dir, the folder that it is in."
            )


def _submit(client: JobSubmissionClient, command: str, root: Path | None, run: str) -> str:
    travels = {"working_dir": str(root)} if root else {}
    try:
        return client.submit_job(
            entrypoint=command, runtime_env={"env_vars": _ENVIRONMENT, **travels}, metadata={"run": run}
        )
    except (RuntimeError, ValueError, OSError) as problem:
        raise TrainerError(f"the cluster does not take the job: {last_line(problem)}") from None


def _follow(client: JobSubmissionClient, job: str, address: str) -> None:
    """Show the log until the job ends. TrainerError unless it ends well."""
    import aiohttp

    try:
        last = asyncio.run(_show(client, job))
        details = client.get_job_info(job)
    except KeyboardInterrupt:
        console.print(
            f"rgsud: the job goes on; `ray job stop {job} --address {address}` has it save and end, "
            f"`ray job logs {job} --address {address} --follow` shows it again.",
            style="yellow",
        )
        sys.exit(130)
    except (RuntimeError, OSError, aiohttp.ClientError) as problem:
        raise TrainerError(
            f"the cluster at {address} went away ({last_line(problem)}): if it still runs, "
            f"`ray job logs {job} --address {address} --follow` shows the job; else submit it again."
        ) from None
    _check_end(job, details, last)


async def _show(client: JobSubmissionClient, job: str) -> str:
    """Print the log as it grows; its last line."""
    last = ""
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)
        last = last_line(text) or last
    while not client.get_job_status(job).is_terminal():
        await asyncio.sleep(0.2)
    return last


def _check_end(job: str, details: JobDetails, last: str) -> None:
    status = details.status.value
    if status == "STOPPED":
        raise TrainerError(f"the job {job} was stopped: submit it again, and it goes on where it has saved.")
    if status != "SUCCEEDED":
        code = details.driver_exit_code
        said = last_line(details.message or "") if code is None else last.removeprefix("rgsud: ")
        ended = "failed" if code is None else f"failed with exit code {code}"
        raise TrainerError(f"the job {job} {ended}: {said}")

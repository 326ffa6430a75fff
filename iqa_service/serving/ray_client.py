"""``serve:APP``: a scorer in the same Ray cluster."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from iqa_service.errors import ScorerAway, ScorerBusy, ScorerError
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.remote import Answer, ScorerInfo, ViewCall, connect
from iqa_service.serving.settings import SCORER, Seconds
from rgsud_core.errors import last_line

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

_TRIES = 3
"""Attempts of a call whose replica dies. Scoring has no side effects, so that a call may be repeated."""


class HandleTransport:
    """Calls through a Serve handle, within one Ray cluster."""

    def __init__(self, handle: DeploymentHandle[Any], name: str, timeout: float) -> None:
        self._handle, self._name, self._timeout = handle, name, timeout

    def info(self) -> ScorerInfo:
        """See :class:`~iqa_service.scorers.remote.Transport`."""
        info: ScorerInfo = self._call("info")
        return info

    def score_views(self, call: ViewCall) -> Answer:
        """See :class:`~iqa_service.scorers.remote.Transport`."""
        answer: Answer = self._call("score_views", call)
        return answer

    def score_images(self, candidates: Sequence[Candidate]) -> Answer:
        """See :class:`~iqa_service.scorers.remote.Transport`."""
        answer: Answer = self._call("score_images", list(candidates))
        return answer

    def close(self) -> None:
        """Nothing to close: handles share their connections, which ``clusters.leave`` ends."""

    def _call(self, method: str, *arguments: Any) -> Any:
        from ray.exceptions import RayActorError, RayError
        from ray.serve.exceptions import BackPressureError, RayServeException, ReplicaUnavailableError

        deadline = time.monotonic() + self._timeout
        for attempt in range(1, _TRIES + 1):
            response = self._handle.options(method_name=method).remote(*arguments)
            try:
                return response.result(timeout_s=max(0.0, deadline - time.monotonic()))
            except BackPressureError as busy:
                raise ScorerBusy(self._name, busy.retry_after_s or 1.0) from None
            except TimeoutError:
                response.cancel()  # type: ignore[no-untyped-call]
                raise ScorerAway(
                    f"{self._name} did not answer in {self._timeout:g} s: see `serve status`, "
                    "or allow it more with ?timeout=..."
                ) from None
            except (RayActorError, ReplicaUnavailableError) as dead:
                if attempt == _TRIES or time.monotonic() > deadline:
                    raise ScorerAway(f"{self._name} keeps dying: {dead}") from dead
            except (RayServeException, RayError) as problem:
                raise ScorerError(f"{self._name} failed ({last_line(problem)}): see its log") from problem
        raise AssertionError


def open_handle(app: str, /, timeout: Seconds = 60.0) -> ScoreBackend:
    """The scorer of an application in this process's Ray cluster, or in one that it can join.

    Raises:
        ScorerError: there is no Ray cluster, or no scorer of this name in it.
    """
    transport = HandleTransport(join_serving(app), f"the scorer 'serve:{app}'", timeout)
    return connect(transport, transport.info())


def join_serving(app: str) -> DeploymentHandle[Any]:
    """Handle of an application's scorer; the cluster that has it is joined where none is.

    Raises:
        ScorerError: there is no Ray cluster, or no scorer of this name in it.
    """
    # Serve's settings for throughput would move the router into an event loop that cannot be waited for.
    os.environ.setdefault("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "1")
    import ray

    from iqa_service.serving import clusters

    if ray.is_initialized():
        clusters.leave_at_exit()
        handle = _handle(app)
    else:
        handle = None
        addresses = [named] if (named := clusters.named()) else clusters.running()
        joined = 0
        for address in addresses:
            try:
                clusters.join(address, logging_level=logging.ERROR)
            except ConnectionError:
                continue
            joined += 1
            if (handle := _handle(app)) is not None:
                break
            clusters.leave()
        if not joined:
            place = f"at {named}" if named else "here"
            raise ScorerError(
                f"'serve:{app}' needs a Ray cluster, and none runs {place}: start one, give an "
                "http:// address, or score in this process with local:..."
            )
    if handle is None:
        raise ScorerError(
            f"no scorer runs as '{app}' in this Ray cluster: deploy it with `serve deploy deploy/serve.yaml`"
        )
    return handle


def _handle(app: str) -> DeploymentHandle[Any] | None:
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        return serve.get_deployment_handle(SCORER, app)
    except (KeyError, RayServeException):
        return None

"""The scorer on Ray Serve: deployments around ``ScoringService`` and the HTTP interface.

    serve run iqa_service.serving.ray_app:build_app scorer=local:daclip-lite
    serve deploy deploy/serve.yaml

Within the cluster, callers use the address ``serve:APP``; others ``http://HOST:PORT``.
"""

# Serve reads the annotation of an app builder as a class, so annotations must not be postponed here.

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import ActorDiedError
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from ray.util.metrics import Counter, Histogram

from iqa_service.errors import ScorerError
from iqa_service.registry import by_import_path
from iqa_service.scorers.remote import Answer, ScorerInfo, ViewCall
from iqa_service.serving.settings import SCORER, ServiceSettings, token_of_environment
from rgsud_core.plugins import search_path

_BATCHES_AT_ONCE = 2
"""Batches per replica: one is scored while the next one fills."""
_QUIET = LoggingConfig(enable_access_log=False)


class ScorerReplica:
    """A replica of the scorer. Its calls merge into batches, which a thread scores one after the other."""

    def __init__(self, settings: ServiceSettings) -> None:
        import torch

        from iqa_service.registry import open_scorer
        from iqa_service.serving.batching import ScoringService

        threads = settings.threads or max(1, math.ceil(settings.cpus))
        torch.set_num_threads(threads)
        self._service = ScoringService(open_scorer(settings.spec), settings.views_at_once)
        self._thread = ThreadPoolExecutor(1, "scorer", torch.set_num_threads, (threads,))
        self._merged = serve.batch(
            max_batch_size=settings.batch_views,
            batch_wait_timeout_s=settings.batch_wait_seconds,
            max_concurrent_batches=_BATCHES_AT_ONCE,
            batch_size_fn=lambda calls: sum(len(call.views) for call in calls),
        )(self._score_batch)
        # Serve closes a batch when its wait is over, even while the scorer is busy, and so would score many
        # small ones in a row. Calls that arrive while one batch is scored and another is full wait here.
        self._batches = 0
        self._room = asyncio.Event()
        self._room.set()
        self._views = Counter("rgsud_scorer_scored_views", "Views scored.")
        self._failures = Counter("rgsud_scorer_failed_calls", "Calls that got no scores.")
        self._batch_size = Histogram(
            "rgsud_scorer_batch_views", "Views in a batch.", [1, 2, 4, 8, 16, 32, 64, 128, 256]
        )
        self._seconds = Histogram(
            "rgsud_scorer_batch_seconds", "Time to score a batch.", [0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10]
        )

    def info(self) -> ScorerInfo:
        """What is served."""
        return self._service.info()

    async def score_views(self, call: ViewCall) -> Answer:
        """The log-odds of each view, or why there are none."""
        if (refusal := self._service.info().refusal(call)) is not None:
            return Answer(self._service.info().fingerprint, problem=refusal)
        await self._room.wait()
        answer: Answer = await self._merged(call)
        return answer

    async def score_images(self, candidates: Sequence[Any]) -> Answer:
        """The log-odds of whole candidates, or why there are none."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._service.score_images, candidates)

    async def _score_batch(self, calls: list[ViewCall]) -> list[Answer]:
        self._batches += 1
        if self._batches == _BATCHES_AT_ONCE:
            self._room.clear()
        loop = asyncio.get_running_loop()
        try:
            started = loop.time()
            answers = await loop.run_in_executor(self._thread, self._service.score_calls, calls)
            self._seconds.observe(loop.time() - started)
        finally:
            self._batches -= 1
            self._room.set()
        views = sum(len(call.views) for call in calls)
        self._views.inc(views)
        self._batch_size.observe(views)
        if failures := sum(answer.problem is not None for answer in answers):
            self._failures.inc(failures)
        return answers


@serve.ingress()
class Ingress:
    """The HTTP interface in front of the scorer's replicas."""

    def __init__(self, scorer: DeploymentHandle[Any], settings: ServiceSettings) -> None:
        from iqa_service.serving.http_api import make_api
        from iqa_service.serving.ray_client import HandleTransport

        self._api = make_api(HandleTransport(scorer, "the scorer", settings.timeout_seconds), settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._api


def build_app(settings: ServiceSettings) -> serve.Application:
    """The application; ``serve run`` and ``serve deploy`` give the settings as ``args``.

    A token that the settings leave out is taken from the environment of the process that builds it.
    """
    if settings.token is None and (token := token_of_environment()):
        settings = settings.model_copy(update={"token": token})
    refusals = BackpressureConfig(retry_after_s=settings.retry_after_seconds)
    resources: dict[str, Any] = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    if by_import_path(settings.scorer):
        resources["runtime_env"] = {"env_vars": {"PYTHONPATH": search_path()}}
    scaling: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.max_replicas is not None:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=settings.replicas,
                max_replicas=settings.max_replicas,
                target_ongoing_requests=settings.target_ongoing_requests,
            )
        }
    scorer: serve.Application = serve.deployment(
        name=SCORER,
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
        backpressure_config=refusals,
        max_constructor_retry_count=1,  # what cannot be opened once cannot be opened twice
        ray_actor_options=resources,
        logging_config=_QUIET,
        health_check_period_s=2,  # a replica that died is replaced after that
        graceful_shutdown_wait_loop_s=0.2,
        **scaling,
    )(ScorerReplica).bind(settings)
    if not settings.http:
        return scorer
    with_http: serve.Application = serve.deployment(
        name="Ingress",
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
        backpressure_config=refusals,
        ray_actor_options={"num_cpus": 0},
        logging_config=_QUIET,
    )(Ingress).bind(scorer, settings)
    return with_http


def deploy_scorer(settings: ServiceSettings, name: str = "iqa") -> str:
    """Deploy the scorer into the Ray cluster of this process, or update it to these settings.

    Returns when the scorer answers. A deployment that already has these settings is left alone.

    Args:
        settings: settings of the service.
        name: name of the application.

    Returns:
        What :func:`iqa_service.registry.open_scorer` takes: ``serve:NAME``.

    Raises:
        ScorerError: the scorer cannot be opened by its replicas, or the cluster has no room for it.
    """
    try:
        try:
            _run(settings, name)
        except (ActorDiedError, TimeoutError):  # who starts Serve waits for its proxies, a minute at most
            _run(settings, name)
    except RuntimeError as problem:
        deployments = serve.status().applications[name].deployments
        message = deployments[SCORER].message if SCORER in deployments else str(problem)
        lines = [line for line in message.splitlines() if "ScorerError: " in line] or [message.strip()]
        raise ScorerError(lines[-1].rpartition("ScorerError: ")[2]) from problem
    return f"serve:{name}"


def _run(settings: ServiceSettings, name: str) -> None:
    serve.run(build_app(settings), name=name, route_prefix="/" if settings.http else None)

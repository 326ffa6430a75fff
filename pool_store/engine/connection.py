"""Connection to Redis, Valkey or a Redis Cluster: scripts in one round trip, errors in one sentence."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.cluster import RedisCluster
from redis.exceptions import (
    ClusterError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
)
from redis.retry import Retry

from pool_store.engine.records import LUA
from pool_store.errors import PoolError, PoolFull, PoolUnavailable
from rgsud_core.errors import first_line

Client: TypeAlias = "redis.Redis | RedisCluster"
CONNECTION: dict[str, Any] = {
    # 1.2 seconds of retries in all; then the caller decides whether to go on without rewards. No retry after
    # a timeout, which would only make it six times as long.
    "retry": Retry(ExponentialBackoff(cap=0.5, base=0.04), 5, supported_errors=(redis.ConnectionError,)),
    "socket_connect_timeout": 5.0,
    "socket_timeout": 10.0,
}
"""Settings of every connection to a pool's server."""
_PASSING = ("NOREPLICAS", "BUSY", "TRYAGAIN", "CLUSTERDOWN")
"""Prefixes of error messages that pass by themselves."""
_PING = b"rgsud:ping"
_SCRIPTS = Path(__file__).parent / "scripts"
_COMMON = (_SCRIPTS / "common.lua").read_text()


class Script:
    """A Lua script of the package, with what all of them begin with."""

    def __init__(self, name: str) -> None:
        self.text = LUA + _COMMON + (_SCRIPTS / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class DurabilityWarning(UserWarning):
    """The server may lose what it has acknowledged."""


class Server:
    """A connected client, safe to share between threads; commands take and give bytes.

    Args:
        client: with the settings in `CONNECTION`.
        title: what errors call the pool or its server.
        diagnose: gives the reason, if it is known, when the server does not answer.
    """

    def __init__(self, client: Client, title: str, diagnose: Callable[[], str | None] = lambda: None) -> None:
        # redis-py types every answer as a possible awaitable; here all of them are plain.
        self.client = cast(Any, client)
        self.title = title
        self.clustered = isinstance(client, RedisCluster)
        self._diagnose = diagnose

    def run(self, script: Script, key: bytes, arguments: Sequence[Any]) -> Any:
        """The result of the script, whose keys are those that share the hash tag of `key`."""
        with self.answering():
            try:
                return self.client.evalsha(script.sha, 1, key, *arguments)
            except NoScriptError:
                return self.client.eval(script.text, 1, key, *arguments)

    def run_many(self, script: Script, calls: Sequence[tuple[bytes, Sequence[Any]]]) -> list[Any]:
        """The results of several calls, in one round trip if the server allows it."""
        if len(calls) == 1 or self.clustered:  # a cluster's pipelines take no scripts
            return [self.run(script, key, arguments) for key, arguments in calls]
        with self.answering():
            pipe = self.client.pipeline(transaction=False)
            for key, arguments in calls:
                pipe.evalsha(script.sha, 1, key, *arguments)
            answers = pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not isinstance(answer, NoScriptError):
                    raise answer
        return [
            self.run(script, *call) if isinstance(answer, NoScriptError) else answer
            for call, answer in zip(calls, answers, strict=True)
        ]

    def transaction(self) -> Any:
        """A pipeline whose commands, for keys of one hash tag, are executed atomically."""
        return self.client.pipeline(transaction=True)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Turns errors of the client into a PoolError."""
        try:
            yield
        except (redis.RedisError, RedisClusterException, ClusterError) as error:
            reason = first_line(error).partition(" script: ")[0].rstrip(".")  # without the script's hash
            kind: type[PoolError] = PoolUnavailable
            remedy = "check its server"
            if isinstance(error, ReadOnlyError):
                remedy = "give the address of its primary"
            elif isinstance(error, OutOfMemoryError):
                kind, remedy = PoolFull, "give its server more memory"
            elif "NOREPLICAS" in reason or "MASTERDOWN" in reason:
                remedy = "check its replicas"
            elif "MISCONF" in reason or "No space left" in reason:
                kind, remedy = PoolFull, "make room on the disk of its server"
            elif isinstance(error, redis.ResponseError) and not reason.startswith(_PASSING):
                kind = PoolError
            elif known := self._diagnose():
                kind, reason, remedy = PoolFull, known, "make room on that disk, and it goes on by itself"
            raise kind(f"{self.title} does not serve ({reason}): {remedy}") from error

    def check(self, fsync: str) -> None:
        """Checks that the server keeps what it acknowledges.

        Warns with DurabilityWarning if it syncs its log less often than `fsync` ("always", "everysec"), as
        far as it reveals that. Raises PoolError if it may evict rewards.
        """
        with self.answering():
            memory = _of_one(self.client.info("memory"))
            persistence = _of_one(self.client.info("persistence"))
            try:
                synced = _of_one(self.client.config_get("appendfsync")).get("appendfsync")
            except redis.ResponseError:  # hosted servers keep their settings to themselves
                synced = None
        if memory.get("maxmemory") and str(memory.get("maxmemory_policy")).startswith("allkeys"):
            raise PoolError(f"{self.title} may evict rewards: set its maxmemory-policy to noeviction")
        # At a place in this module, so that it is shown once and not for every caller.
        if not persistence.get("aof_enabled"):
            warnings.warn(
                f"{self.title} keeps no append-only log: when its server dies, the rewards of many minutes "
                "may be lost; set appendonly yes",
                DurabilityWarning,
                stacklevel=1,
            )
        elif synced == "no" or (synced == "everysec" and fsync == "always"):
            warnings.warn(
                f"{self.title} syncs its log with 'appendfsync {synced}': a power cut may cost the rewards "
                "of the last seconds; set appendfsync always, or accept it by fsync=everysec in the address",
                DurabilityWarning,
                stacklevel=1,
            )

    def now(self) -> int:
        """The server's clock, seconds since 1970."""
        with self.answering():
            answer = self.client.time()
        return int((next(iter(answer.values())) if isinstance(answer, dict) else answer)[0])

    def ping(self) -> None:
        """Raises PoolError unless the server answers and accepts writes."""
        with self.answering():
            self.client.set(_PING, b"", px=1000)

    def close(self) -> None:
        """Ends the connection."""
        self.client.close()


def _of_one(answer: dict[Any, Any]) -> dict[str, Any]:
    """The answer of the first node, if a cluster answers INFO or CONFIG GET by node."""
    values = list(answer.values())
    found = values[0] if values and all(isinstance(value, dict) for value in values) else answer
    return {_text(key): _text(value) for key, value in found.items()}


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value

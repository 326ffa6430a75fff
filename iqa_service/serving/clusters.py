"""The Ray clusters that a process may join, and how it leaves one without being torn down with it.

What Ray has no public interface for is used here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import socket
import sys
import threading
from typing import Any

import ray
from ray._private import services
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError, RpcError

from iqa_service.serving.ray_token import require_token

_STARTS = 3
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 30.0


def named() -> str | None:
    """Address that the environment names, RAY_ADDRESS; Ray sets it for jobs that are submitted."""
    address = os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "auto") else address


def standing() -> str | None:
    """Address of the cluster that `ray start` left on this machine, if it takes drivers."""
    address = services.find_bootstrap_address(None)
    return address if address and takes_drivers(address) else None


def running() -> list[str]:
    """Addresses of this machine's clusters that take drivers: that of `ray start` first."""
    services.find_gcs_addresses.cache_clear()  # type: ignore[attr-defined]
    first = standing()
    others = sorted(set(services.find_gcs_addresses()) - {first})  # type: ignore[no-untyped-call]
    return ([first] if first else []) + [address for address in others if takes_drivers(address)]


def reachable(address: str) -> bool:
    """Whether anything listens at ``host:port``. Ray itself waits for minutes where nothing does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def takes_drivers(address: str) -> bool:
    """Whether a cluster answers, and has a node that answers.

    A cluster that is just ending counts its node as dead, or no longer has it; a driver that joined would be
    ended by Ray, without an exception.
    """
    if not reachable(address):
        return False
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=_ANSWER_SECONDS)
    except (RpcError, RayError, AuthenticationError):
        return False
    alive = [node for node in nodes.values() if node.state == node.ALIVE]
    return bool(alive) and all(reachable(f"{n.node_manager_address}:{n.node_manager_port}") for n in alive)


def join(address: str, **options: Any) -> None:
    """Make this process a driver of the cluster at the address, until :func:`leave` or its end.

    Raises:
        ConnectionError: nothing is there, or it is no Ray; or a Ray of this process's own does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "://" not in address and address != "local" and not reachable(address):
        raise ConnectionError(f"nothing listens at {address}")
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if address == "local":
        require_token()
        # Ray's figures would be on all interfaces, for everybody: they are there where this variable says so.
        os.environ.setdefault("RAY_enable_metrics_collection", "0")
        # Serve ends a proxy that is not ready after 5 s, which a busy machine may not manage.
        os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
        os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "60")
    for left in reversed(range(_STARTS)):
        try:
            ray.init(address=address, **(quiet | options))
            break
        except ConnectionError:
            raise
        except Exception as problem:
            # Ray gives its own processes 30 s to start, which a busy machine may not keep; it has no class
            # for this error.
            if address != "local" or "during startup" not in str(problem):
                raise
            if not left:
                raise ConnectionError("Ray does not start here, the machine is too busy") from problem
    leave_at_exit()


def leave_at_exit() -> None:
    """Have :func:`leave` called before Ray's own exit handler, which knows nothing of Serve."""
    atexit.unregister(leave)
    atexit.register(leave)


def leave() -> None:
    """End what this process has of Serve, then Ray, then wait for the processes of a Ray of its own.

    Serve routes calls in a thread that nothing public ends. Python ends with that thread in the middle of
    native code, and is now and then brought down by it; and the calls that it still makes would start
    another Ray.
    """
    worker = getattr(ray.get_runtime_context(), "worker", None) if ray.is_initialized() else None
    if worker is not None and worker.mode != ray.SCRIPT_MODE:
        return  # a worker is Ray's to end
    loop = _end_router() if "ray.serve" in sys.modules else None
    ray.shutdown(wait_for_processes=True)
    gc.collect()  # channels to replicas, which keep gRPC's own thread
    if loop is not None:
        loop.close()


def _end_router() -> asyncio.AbstractEventLoop | None:
    """End Serve's router; returns its loop, which must be closed once no answer can come any more."""
    from ray.serve import context
    from ray.serve._private.common import DeploymentTargetInfo
    from ray.serve._private.router import SharedRouterLongPollClient, SingletonThreadRouter

    client: Any = context._global_client
    loop = SingletonThreadRouter._asyncio_loop
    if loop is not None:
        if client is not None:
            for handle in client.handle_cache.values():
                if handle._router is not None:
                    router = handle._router._asyncio_router
                    router.long_poll_client.stop()
                    # Closes the channels to replicas, and with the last one gRPC's thread.
                    loop.call_soon_threadsafe(
                        router.update_deployment_targets, DeploymentTargetInfo(False, [])
                    )
            SharedRouterLongPollClient.get_or_create(client._controller, loop).long_poll_client.stop()
            client.shutdown_cached_handles()
        SharedRouterLongPollClient.get_or_create.cache_clear()
        loop.call_soon_threadsafe(loop.stop)
        for thread in threading.enumerate():
            if getattr(getattr(thread, "_target", None), "__name__", "") == "_run_router_event_loop":
                thread.join()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        SingletonThreadRouter._asyncio_loop = None
    context._disconnect()  # type: ignore[no-untyped-call]
    return loop

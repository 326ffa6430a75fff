"""The pools of one server, by name, and the storage of their images; addresses of servers."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import redis
from redis.cluster import RedisCluster

from pool_store.engine.connection import CONNECTION, Client, Server
from pool_store.engine.embedded import EmbeddedServer
from pool_store.engine.images import Blobs
from pool_store.engine.pool import RewardPool
from pool_store.engine.shards import REGISTRY
from pool_store.errors import PoolError, PoolFull, PoolMissing, PoolUnavailable
from pool_store.schemas import PoolSettings
from rgsud_core.addresses import parse_address
from rgsud_core.objects import ErrorKinds, Storage, open_storage

KNOWN = (
    "embedded:FOLDER, redis://HOST:PORT/DB?blobs=FOLDER, redis+cluster://HOST:PORT?blobs=s3://BUCKET/PREFIX, "
    "unix://SOCKET?blobs=FOLDER, http://HOST:PORT"
)
_REDIS = ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix")
DEFAULT = "main"
"""Name of the pool if an address names none."""
POOL_ERRORS = ErrorKinds(PoolError, PoolUnavailable, PoolFull, PoolMissing)
"""Errors that the storage of a pool's images raises."""


class PoolHost:
    """The pools of one server. Safe to share between threads.

    Args:
        server: connected.
        location: folder or URL of the images; each pool has its own part of it.
        address: gives the spec of a pool by its name.
        subpools: number of shards of the pools that are created here.
        closing: ends the connection to the server.
    """

    def __init__(
        self,
        server: Server,
        location: str,
        address: Callable[[str], str],
        *,
        subpools: int = 1,
        closing: Callable[[], None],
    ) -> None:
        self.server = server
        self._location = location
        self._address = address
        self._subpools = subpools
        self._closing = closing
        self._pools: dict[str, RewardPool] = {}
        self._lock = threading.Lock()
        self._dropping: set[str] = set()
        self._storage: Storage = open_storage(location, errors=POOL_ERRORS)

    def names(self) -> list[str]:
        """Names of all pools, sorted."""
        with self.server.answering():
            return sorted(name.decode() for name in self.server.client.smembers(REGISTRY))

    def opened(self) -> Iterator[RewardPool]:
        """Every pool that can be opened, sorted by name; one that is half dropped, or of another format, is
        left out. Raises PoolUnavailable if the server cannot be reached."""
        for name in self.names():
            if name in self._dropping:
                continue
            try:
                pool = self.open(name)
            except PoolUnavailable:
                raise
            except PoolError:
                continue
            yield pool

    def open(self, name: str = DEFAULT) -> RewardPool:
        """The pool as it is, open as long as the host; PoolMissing if there is none of that name."""
        return self._get(name, None)

    def create(self, name: str, settings: PoolSettings) -> tuple[RewardPool, bool]:
        """The pool, and whether it was created by this call; PoolConflict if it belongs to another scorer, or
        keeps another number of candidates."""
        pool = self._get(name, settings)
        created, pool.created = pool.created, False
        return pool, created

    def drop(self, name: str) -> None:
        """Removes a pool with its images; PoolMissing if there is none. Until it is removed, calls for it are
        refused with PoolUnavailable."""
        with self._lock:
            self._refuse_dropping(name)
            self._dropping.add(name)
        try:
            self._open(name, None).drop()
        except PoolMissing:
            with self.server.answering():  # what an earlier drop may have left
                self.server.client.srem(REGISTRY, name)
            raise
        finally:
            self._dropping.discard(name)

    def _refuse_dropping(self, name: str) -> None:
        if name in self._dropping:
            raise PoolUnavailable(f"the pool '{name}' is being removed: try again when that has ended")

    def _get(self, name: str, settings: PoolSettings | None) -> RewardPool:
        self._refuse_dropping(name)
        known = self._pools.get(name)
        # Checked outside the lock, so that an unreachable server does not block callers of other pools.
        if known is not None and known.valid(settings):
            return known
        with self._lock:
            self._refuse_dropping(name)
            pool = self._pools.get(name)
            if pool is known or pool is None or not pool.valid(settings):
                pool = self._pools[name] = self._open(name, settings)
            return pool

    def _open(self, name: str, settings: PoolSettings | None) -> RewardPool:
        return RewardPool(
            self.server,
            Blobs(open_storage(self._location, name, errors=POOL_ERRORS)),
            name=name,
            settings=settings,
            address=self._address(name),
            shards=self._subpools,
            closing=self.close,
        )

    def ping(self) -> None:
        """Raises PoolError unless the server and the storage accept writes."""
        self.server.ping()
        key = f"ping-{uuid.uuid4().hex}"
        self._storage.put(key, b"pong")
        if not self._storage.remove(key):
            raise PoolUnavailable(f"{self._storage.address} loses what is stored in it: check that storage")

    def close(self) -> None:
        """Closes the connection, and stops an embedded server; the contents stay."""
        self._closing()


def open_host(spec: str) -> PoolHost:
    """The pools of the server at an address: see `open_pool`, without `pool=NAME` and `http://`."""
    url, options = parse_address(spec, PoolError)
    scheme, _, rest = url.partition(":")
    unknown = sorted(set(options) - {"fsync", *(("blobs", "subpools") if scheme in _REDIS else ())})
    if unknown:
        raise PoolError(
            f"unknown option '{unknown[0]}' in the address of {scheme}: use blobs, pool, fsync or subpools"
        )
    fsync = options.pop("fsync", "always")
    if fsync not in ("always", "everysec"):
        raise PoolError(f"a pool cannot be synced '{fsync}': use fsync=always or fsync=everysec")
    if scheme == "embedded" and rest:
        return _open_embedded(Path(unquote(rest)), fsync)
    if scheme in _REDIS:
        return _open_redis(url, fsync, options)
    raise PoolError(f"unknown pool '{spec.rstrip('?')}': use one of {KNOWN}")


def _open_embedded(folder: Path, fsync: str) -> PoolHost:
    """The pools of a server that is started here; other processes of the machine join by `address`."""
    embedded = EmbeddedServer(folder, fsync)
    client = redis.Redis(unix_socket_path=str(embedded.socket), **CONNECTION)
    blobs = str(embedded.folder / "blobs")

    def address(name: str) -> str:
        return f"unix://{quote(str(embedded.socket))}?blobs={quote(blobs)}&pool={name}&fsync={fsync}"

    def close() -> None:
        client.close()
        embedded.close()

    try:
        server = Server(client, f"the pool in {embedded.folder}", embedded.diagnose)
        return PoolHost(server, blobs, address, closing=close)
    except BaseException:
        close()
        raise


def _open_redis(url: str, fsync: str, options: dict[str, str]) -> PoolHost:
    try:
        parts = urlsplit(url)
        title = f"the pool at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        place, shards = options.pop("blobs", ""), int(options.pop("subpools", "1"))
        if not 1 <= shards <= 4096:
            raise PoolError(f"{title} cannot be divided into {shards}: use 1 to 4096 sub-pools")
        if not place:
            raise PoolError(f"{title} needs a place for its images: end its address in ?blobs=FOLDER")
        if parts.scheme.endswith("+cluster"):
            server = Server(_cluster(url.replace("+cluster", "", 1), title), title)
        else:
            server = Server(redis.Redis.from_url(url, **CONNECTION), title)
    except ValueError as error:
        raise PoolError(f"a pool's address is wrong ({error}): use one of {KNOWN}") from error
    server.check(fsync)
    location = place if "://" in place else str(Path(place).expanduser().resolve())

    def address(name: str) -> str:
        return f"{url}?blobs={quote(location)}&pool={name}&fsync={fsync}"

    return PoolHost(server, location, address, subpools=shards, closing=server.close)


def _cluster(url: str, title: str) -> Client:
    """A client of a cluster, which, unlike a plain one, connects at once."""
    with Server(redis.Redis(), title).answering():
        return RedisCluster.from_url(url, **CONNECTION)

"""One pool behind one string, wherever it lives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import redis
from pydantic import TypeAdapter, ValidationError
from redis.cluster import RedisCluster

from pool_store.engine.connection import CONNECTION, Client, Server
from pool_store.engine.embedded import open_embedded
from pool_store.engine.images import Image
from pool_store.engine.pages import Sort
from pool_store.engine.pool import Kind
from pool_store.engine.pools import DEFAULT, PoolHost
from pool_store.errors import PoolError
from pool_store.schemas import (
    Decision,
    Entry,
    HistoryItem,
    Offer,
    PoolName,
    PoolSettings,
    Stats,
    Swept,
    Verified,
)

KNOWN = (
    "embedded:FOLDER, redis://HOST:PORT/DB?blobs=FOLDER, redis+cluster://HOST:PORT?blobs=s3://BUCKET/PREFIX, "
    "unix://SOCKET?blobs=FOLDER, http://HOST:PORT"
)
_REDIS = ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix")


class Pool(Protocol):
    """The reward pool as trainers see it; `RewardPool` says what each method does and raises."""

    fingerprint: str
    keep: int
    address: str

    def peek(self, ids: Iterable[str]) -> dict[str, float | None]: ...
    def put_image(self, image: Image) -> str: ...
    def put_images(self, images: Sequence[Image]) -> list[str]: ...
    def offer(self, offer: Offer) -> Decision: ...
    def offer_many(self, offers: Sequence[Offer]) -> list[Decision]: ...
    def entries(self, ids: Iterable[str]) -> dict[str, Entry]: ...
    def entries_page(
        self,
        sort: Sort,
        offset: int,
        limit: int,
        minimum: float | None = None,
        maximum: float | None = None,
        contains: str | None = None,
    ) -> tuple[list[Entry], int]: ...
    def history(self, id: str) -> list[HistoryItem]: ...
    def scan(self) -> Iterator[Entry]: ...
    def image(self, digest: str) -> Image: ...
    def encoded(self, digest: str) -> bytes: ...
    def reward(self, id: str, kind: Kind = "best") -> tuple[str, Image]: ...
    def put_source(self, id: str, image: Image) -> None: ...
    def source(self, id: str) -> Image | None: ...
    def stats(self) -> Stats: ...
    def declare_size(self, size: int) -> None: ...
    def verify(self) -> Verified: ...
    def sweep(self, grace_seconds: float) -> Swept: ...
    def dump(self) -> dict[str, Any]: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...
    def drop(self) -> None: ...
    def close(self) -> None: ...


def open_pool(spec: str, *, fingerprint: str | None, keep: int = 1, history: int | None = None) -> Pool:
    """Opens, or makes, the pool that `spec` names, for scorer `fingerprint` and `keep` candidates an image.

    `embedded:FOLDER` starts a server of its own; other processes of the machine join by the pool's `address`.
    `redis://[USER:PASSWORD@]HOST:PORT/DB?blobs=PLACE` uses a running Redis or Valkey (`rediss://` over TLS),
    `redis+cluster://` a Redis Cluster, with images in a folder or object store that all its clients share.
    `http://HOST:PORT[/NAME]` uses a pool's service, with the token in RGSUD_POOL_TOKEN.

    Options at the end of the address: `pool=NAME` for one of several pools (else "main"); `fsync=everysec`
    where a power cut may cost the last second (else `always`, which costs a wait for the disk a batch);
    `subpools=N` shards of a pool that is made, for a cluster (else 1).

    Args:
        fingerprint: None takes the pool as it is, `keep` included; PoolMissing where there is none.
        history: how many replacements an entry of a pool that is made remembers; None leaves it to the
            server, without one it is 0.

    Raises:
        PoolError: the spec is unknown, or the server unreachable.
        PoolConflict: the pool is another scorer's or of another `keep`.
    """
    if keep < 1:
        raise PoolError(f"keep is {keep}: a pool keeps at least 1 candidate of each image")
    settings = None
    if fingerprint is not None:
        wanted: dict[str, Any] = {} if history is None else {"history": history}
        settings = PoolSettings(fingerprint=fingerprint, keep=keep, **wanted)
    if spec.startswith(("http:", "https:")):
        from pool_store.http.client import HttpPool

        return HttpPool(spec, settings=settings)
    url, _, query = spec.partition("?")
    options = dict(parse_qsl(query))
    name = options.pop("pool", DEFAULT)
    try:
        TypeAdapter(PoolName).validate_python(name)
    except ValidationError:
        raise PoolError(
            f"'{name}' cannot name a pool: use at most 63 small letters, digits and '-'"
        ) from None
    host = open_host(f"{url}?{urlencode(options)}")
    try:
        return host.open(name) if settings is None else host.create(name, settings)[0]
    except BaseException:
        host.close()
        raise


def open_host(spec: str) -> PoolHost:
    """The server that a spec names, with all its pools: see `open_pool`, without `pool=NAME` and `http://`."""
    url, _, query = spec.partition("?")
    scheme, _, rest = url.partition(":")
    options = dict(parse_qsl(query))
    unknown = sorted(set(options) - {"fsync", *(("blobs", "subpools") if scheme in _REDIS else ())})
    if unknown:
        raise PoolError(
            f"unknown option '{unknown[0]}' in the address of {scheme}: use blobs, pool, fsync or subpools"
        )
    fsync = options.pop("fsync", "always")
    if fsync not in ("always", "everysec"):
        raise PoolError(f"a pool cannot be synced '{fsync}': use fsync=always or fsync=everysec")
    if scheme == "embedded" and rest:
        return open_embedded(Path(rest), fsync)
    if scheme in _REDIS:
        return _open_redis(url, fsync, options)
    raise PoolError(f"unknown pool '{spec.rstrip('?')}': use one of {KNOWN}")


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
    """Unlike a plain client, one of a cluster connects as soon as it is made."""
    with Server(redis.Redis(), title).answering():
        return RedisCluster.from_url(url, **CONNECTION)

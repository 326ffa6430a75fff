"""One pool behind one string, wherever it lives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias
from urllib.parse import parse_qsl, quote, urlsplit

import redis

from pool_store.blobs import DiskBlobs, Image
from pool_store.embedded import EmbeddedPool
from pool_store.errors import PoolError
from pool_store.schemas import Decision, Entry, HistoryItem, Offer, Stats, Swept, Verified
from pool_store.store import CONNECTION, RewardPool

KNOWN = "embedded:FOLDER, redis://HOST:PORT/DB?blobs=FOLDER, unix://SOCKET?blobs=FOLDER"


Sort: TypeAlias = Literal["worst", "best", "recent"]
Kind: TypeAlias = Literal["best", "mean"]


class Pool(Protocol):
    """The reward pool as trainers see it; `RewardPool` says what each method does and raises."""

    fingerprint: str
    keep: int
    address: str

    def peek(self, ids: Iterable[str]) -> dict[str, float | None]: ...
    def put_image(self, image: Image) -> str: ...
    def offer(self, offer: Offer) -> Decision: ...
    def offer_many(self, offers: Sequence[Offer]) -> list[Decision]: ...
    def entries(self, ids: Iterable[str]) -> dict[str, Entry]: ...
    def entries_page(
        self, sort: Sort, offset: int, limit: int, minimum: float | None = None, maximum: float | None = None
    ) -> list[Entry]: ...
    def history(self, id: str) -> list[HistoryItem]: ...
    def scan(self) -> Iterator[Entry]: ...
    def image(self, digest: str) -> Image: ...
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


def open_pool(spec: str, *, fingerprint: str, keep: int = 1) -> Pool:
    """Opens, or makes, the pool that `spec` names, for scorer `fingerprint` and `keep` candidates an image.

    `embedded:FOLDER` starts a server of its own; other processes of the machine join by the pool's `address`.
    `redis://[USER:PASSWORD@]HOST:PORT/DB?blobs=FOLDER` uses a running Redis or Valkey, one database a pool,
    with images in a folder that all its clients share. PoolError where the spec is unknown, the server
    unreachable, or the pool another scorer's or of another `keep`.
    """
    scheme, _, rest = spec.partition(":")
    if scheme == "embedded" and rest:
        return EmbeddedPool(Path(rest), fingerprint=fingerprint, keep=keep)
    if scheme in ("redis", "unix"):
        return _open_redis(spec, fingerprint=fingerprint, keep=keep)
    raise PoolError(f"unknown pool '{spec}': use one of {KNOWN}")


def _open_redis(spec: str, *, fingerprint: str, keep: int) -> RewardPool:
    url, _, query = spec.partition("?")
    try:
        parts = urlsplit(url)
        client = redis.Redis.from_url(url, **CONNECTION)
    except ValueError as error:
        raise PoolError(f"a pool's address is wrong ({error}): use one of {KNOWN}") from error
    name = f"the pool at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    options = dict(parse_qsl(query))
    folder = options.pop("blobs", "")
    if not folder or "://" in folder or options:
        raise PoolError(f"{name} needs one option, a folder for its images: end its address in ?blobs=FOLDER")
    blobs = DiskBlobs(Path(folder).expanduser())
    address = f"{url}?blobs={quote(str(blobs.root))}"
    return RewardPool(client, blobs, fingerprint=fingerprint, keep=keep, name=name, address=address)

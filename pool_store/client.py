"""Opens a pool by its address, wherever it lives; uploads with offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from pydantic import TypeAdapter, ValidationError

from pool_store.engine.pools import DEFAULT, open_host
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
from rgsud_core.addresses import parse_address
from rgsud_core.images import Image

_BYTES_AT_ONCE = 256 << 20
"""Images that are held to be uploaded together, in bytes of pixels."""


class Pool(Protocol):
    """The reward pool as trainers see it; `RewardPool` documents each method and its errors."""

    fingerprint: str
    keep: int
    address: str

    def put_image(self, image: Image) -> str: ...
    def put_images(self, images: Sequence[Image]) -> list[str]: ...
    def offer(self, offer: Offer) -> Decision: ...
    def offer_many(self, offers: Sequence[Offer]) -> list[Decision]: ...
    def entries(self, ids: Iterable[str]) -> dict[str, Entry]: ...
    def history(self, id: str) -> list[HistoryItem]: ...
    def scan(self) -> Iterator[Entry]: ...
    def image(self, digest: str) -> Image: ...
    def encoded(self, digest: str) -> bytes: ...
    def reward(self, id: str) -> tuple[str, Image]: ...
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


def open_pool(
    spec: str, *, fingerprint: str | None = None, keep: int = 1, history: int | None = None
) -> Pool:
    """Opens, or creates, the pool at `spec`, for scorer `fingerprint` and `keep` candidates per image.

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
    url, options = parse_address(spec, PoolError)
    name = options.pop("pool", DEFAULT)
    try:
        TypeAdapter(PoolName).validate_python(name)
    except ValidationError:
        raise PoolError(
            f"'{name}' cannot name a pool: use at most 63 small letters, digits and '-'"
        ) from None
    host = open_host(f"{url}?{urlencode(options, quote_via=quote)}")
    try:
        return host.open(name) if settings is None else host.create(name, settings)[0]
    except BaseException:
        host.close()
        raise


def offer_images(pool: Pool, offers: Sequence[Offer], image_of: Callable[[str], Image]) -> list[Decision]:
    """Offers candidates, and uploads the images of those that would enter; others are never sent.

    Args:
        image_of: gives the uint8 H,W,3 image of a digest.

    Raises:
        PoolError: as `RewardPool.offer_many` and `put_images`, or an image is gone before it is decided on.
    """
    decisions = pool.offer_many(offers)
    wanted = [index for index, decision in enumerate(decisions) if decision.status == "wanted"]
    if wanted:
        again = [offers[index] for index in wanted]
        images: list[Image] = []
        for digest in dict.fromkeys(offer.digest for offer in again):
            images.append(image_of(digest))
            if sum(image.nbytes for image in images) > _BYTES_AT_ONCE:
                pool.put_images(images)
                images = []
        pool.put_images(images)
        for index, decision in zip(wanted, pool.offer_many(again), strict=True):
            if decision.status == "wanted":
                missing = f"the image of '{offers[index].id}' was removed before it was decided on"
                raise PoolError(f"{missing}: sweep with a longer grace")
            decisions[index] = decision
    return decisions

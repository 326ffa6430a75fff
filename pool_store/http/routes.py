"""The routes under `/v1/pools`. What waits for Redis, the blob store or a decoder runs in threads."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Body, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from pool_store.engine.images import decode, digest_of, encode, several
from pool_store.engine.pool import RewardPool
from pool_store.engine.pools import PoolHost
from pool_store.errors import PoolMissing
from pool_store.http.archive import unpack
from pool_store.http.images import decode_upload, preview
from pool_store.http.limits import ENTRIES_A_PAGE, IMAGES_A_REQUEST, PREVIEW_WIDTHS, Limits
from pool_store.http.messages import (
    Decisions,
    Dump,
    Entries,
    EntriesPage,
    EntryDetail,
    Grace,
    Ids,
    Offers,
    PoolInfo,
    Pools,
    Uploaded,
    Uploads,
)
from pool_store.schemas import DIGEST_PATTERN, Digest, ImageId, PoolName, PoolSettings, Stats, Swept, Verified
from rgsud_core.http.problems import Problem
from rgsud_core.http.service import JsonRoute

Name = Annotated[PoolName, Path(alias="pool", description="Name of the pool.")]
Id = Annotated[ImageId, Path(description="Id of a rainy image: its path without suffix.")]
BlobDigest = Annotated[Digest, Path(description="SHA-256 of an image's shape and pixels.")]
Width = Annotated[
    int | None,
    Query(ge=PREVIEW_WIDTHS[0], le=PREVIEW_WIDTHS[1], description="Width of a preview, in pixels."),
]
Upload = Annotated[bytes, Body(media_type="image/webp", description="Plain lossless WebP, or PNG.")]
Archive = Annotated[
    bytes,
    Body(
        media_type="application/x-tar",
        description=f"Plain tar of up to {IMAGES_A_REQUEST} files, DIGEST.webp (lossless) or DIGEST.png.",
    ),
]
Finite = Annotated[float | None, Query(allow_inf_nan=False)]
FOREVER = "max-age=31536000, immutable"
FRESH = "no-cache"
_IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/webp": {}}},
    304: {"description": "The client has it already."},
}
_LINES: dict[int | str, dict[str, Any]] = {200: {"content": {"application/x-ndjson": {}}}}
HISTORY = 8
"""Replacements that an entry remembers where the pool's maker does not say."""
_CHUNK = 64 << 10
_PREVIEWS = 256
"""Previews held in memory, some 10 to 150 KB each."""


def pool_routes(host: PoolHost, limits: Limits, *, shared: bool) -> APIRouter:
    """Every route of the pools in `host`; `shared` says that caches may give images to anyone."""
    forever = f"{'public' if shared else 'private'}, {FOREVER}"
    routes = APIRouter(prefix="/v1/pools", route_class=JsonRoute)
    # Threads of their own, so that uploads never keep offers waiting; of them only some hold decoded pixels.
    uploads = anyio.CapacityLimiter(4 * limits.decoders)
    decoding = threading.BoundedSemaphore(limits.decoders)

    @lru_cache(_PREVIEWS)
    def preview_of(pool: RewardPool, digest: str, width: int) -> bytes:
        with decoding:
            return preview(decode(pool.encoded(digest), digest), width)

    def blob(request: Request, pool: RewardPool, digest: str, width: int | None, cache: str) -> Response:
        tag = f'"{digest}"' if width is None else f'"{digest}-{width}"'

        def body() -> bytes:
            return pool.encoded(digest) if width is None else preview_of(pool, digest, width)

        return _image(request, tag, cache, body)

    def store(pool: RewardPool, digest: str, data: bytes) -> bool:
        """Whether the image was new; Problem where it is not what its digest says, or no image to take."""
        if pool.held(digest):
            return False
        with decoding:
            image, as_is = decode_upload(data, limits.pixels)
            if (found := digest_of(image)) != digest:
                raise Problem(422, f"the image has digest {found}, not {digest}: put it under its own")
            encoded = data if as_is else encode(image)
            del image
        pool.put_encoded(digest, encoded)
        return True

    @routes.get("")
    def list_pools() -> Pools:
        """Every pool."""
        return Pools(pools=[_info(pool) for pool in host.opened()])

    @routes.put("/{pool}", responses={201: {"model": PoolInfo}})
    def create_pool(pool: Name, settings: PoolSettings, response: Response) -> PoolInfo:
        """Makes the pool (201), or finds it made for the same scorer and `keep` (200; 409 for others)."""
        if "history" not in settings.model_fields_set:
            settings = settings.model_copy(update={"history": HISTORY})
        made, created = host.create(pool, settings)
        if settings.size is not None:
            made.declare_size(settings.size)
        response.status_code = 201 if created else 200
        return _info(made)

    @routes.get("/{pool}")
    def show_pool(pool: Name) -> PoolInfo:
        """One pool."""
        return _info(host.open(pool))

    @routes.delete("/{pool}", status_code=204)
    def drop_pool(pool: Name) -> None:
        """Removes the pool with its images."""
        host.drop(pool)

    @routes.post("/{pool}/offers")
    def offer(pool: Name, offered: Offers) -> Decisions:
        """Decides offers; those that are `wanted` have to be made again once their images are put."""
        return Decisions(decisions=host.open(pool).offer_many(offered.offers))

    @routes.put("/{pool}/blobs/{digest}", status_code=201, responses={204: {"description": "Held already."}})
    async def put_blob(pool: Name, digest: BlobDigest, body: Upload) -> Response:
        """Stores an image durably, once it is found to be the one that its digest says."""

        def put() -> int:
            return 201 if store(host.open(pool), digest, body) else 204

        return Response(status_code=await anyio.to_thread.run_sync(put, limiter=uploads))

    @routes.post("/{pool}/blobs")
    async def put_blobs(pool: Name, body: Archive) -> Uploads:
        """Stores many images durably, each as if put alone: one that is refused keeps no other out."""

        def put() -> Uploads:
            opened = host.open(pool)

            def put_one(member: tuple[str, bytes | None]) -> Uploaded:
                name, data = member
                digest = name.removesuffix(".webp").removesuffix(".png")
                try:
                    if data is None or not re.fullmatch(DIGEST_PATTERN, digest):
                        raise Problem(422, "no plain file named by a digest: send DIGEST.webp or DIGEST.png")
                    return Uploaded(name=name, status="stored" if store(opened, digest, data) else "held")
                except Problem as refused:
                    return Uploaded(name=name, status="refused", problem=refused.detail)

            return Uploads(images=several(put_one, unpack(body)))

        return await anyio.to_thread.run_sync(put, limiter=uploads)

    @routes.get("/{pool}/blobs/{digest}", response_class=Response, responses=_IMAGE)
    def get_blob(pool: Name, digest: BlobDigest, request: Request, width: Width = None) -> Response:
        """An image by its digest, or a preview of it."""
        return blob(request, host.open(pool), digest, width, forever)

    @routes.put("/{pool}/sources/{id:path}", status_code=204)
    async def put_source(pool: Name, id: Id, body: Upload) -> None:
        """Stores the rainy image, for the gallery."""

        def store() -> None:
            opened = host.open(pool)
            with decoding:
                image, _ = decode_upload(body, limits.pixels)
                opened.put_source(id, image)

        await anyio.to_thread.run_sync(store, limiter=uploads)

    @routes.get("/{pool}/sources/{id:path}", response_class=Response, responses=_IMAGE)
    def get_source(pool: Name, id: Id, request: Request, width: Width = None) -> Response:
        """The rainy image, or a preview of it."""
        encoded = host.open(pool).source_encoded(id)
        tag = f'"{hashlib.sha256(encoded).hexdigest()}-{width or "full"}"'

        def body() -> bytes:
            if width is None:
                return encoded
            with decoding:
                return preview(decode(encoded, f"of the rainy image of '{id}'"), width)

        return _image(request, tag, FRESH, body)

    @routes.post("/{pool}/entries")
    def find_entries(pool: Name, asked: Ids) -> Entries:
        """The entries of these images, of those that have one."""
        return Entries(entries=list(host.open(pool).entries(asked.ids).values()))

    @routes.get("/{pool}/entries")
    def list_entries(
        pool: Name,
        sort: Literal["worst", "best", "recent"] = "worst",
        offset: Annotated[int, Query(ge=0, le=2**40)] = 0,
        limit: Annotated[int, Query(ge=1, le=ENTRIES_A_PAGE)] = 50,
        minimum: Finite = None,
        maximum: Finite = None,
        contains: Annotated[str | None, Query(max_length=256)] = None,
    ) -> EntriesPage:
        """Entries by score (log-odds of their best) or by time of their last replacement, newest first."""
        entries, total = host.open(pool).entries_page(sort, offset, limit, minimum, maximum, contains)
        return EntriesPage(entries=entries, total=total)

    @routes.get("/{pool}/entries/{id:path}")
    def show_entry(pool: Name, id: Id) -> EntryDetail:
        """An entry and its history."""
        opened = host.open(pool)
        return EntryDetail(entry=_entry(opened, id), history=opened.history(id)[::-1])

    @routes.get("/{pool}/scan", response_class=StreamingResponse, responses=_LINES)
    def scan(pool: Name) -> StreamingResponse:
        """Every entry once, a JSON object a line, in no order."""
        return StreamingResponse(_lines(host.open(pool)), media_type="application/x-ndjson")

    @routes.get("/{pool}/rewards/{id:path}", response_class=Response, responses=_IMAGE)
    def get_reward(
        pool: Name, id: Id, request: Request, kind: Literal["best", "mean"] = "best", width: Width = None
    ) -> Response:
        """The reward of a rainy image: its best candidate, or the mean of those kept."""
        opened = host.open(pool)
        digest = _entry(opened, id).best.digest
        if kind == "mean":
            with decoding:
                digest, _ = opened.reward(id, "mean")
        return blob(request, opened, digest, width, FRESH)

    @routes.get("/{pool}/stats")
    def stats(pool: Name) -> Stats:
        """The pool in figures."""
        return host.open(pool).stats()

    @routes.post("/{pool}/verify")
    def verify(pool: Name) -> Verified:
        """Reads every image that an entry refers to, and names those that are missing or damaged."""
        return host.open(pool).verify()

    @routes.post("/{pool}/sweep")
    def sweep(pool: Name, grace: Grace) -> Swept:
        """Removes images that nothing has referred to for the grace period."""
        return host.open(pool).sweep(grace.grace_seconds)

    @routes.get("/{pool}/dump")
    def dump(pool: Name) -> Dump:
        """A snapshot of the entries at one moment, without images."""
        return Dump.model_validate(host.open(pool).dump())

    @routes.put("/{pool}/dump", status_code=204)
    def restore(pool: Name, state: Dump) -> None:
        """Makes the entries those of a snapshot."""
        host.open(pool).restore({"meta": state.meta, "entries": state.entries})

    return routes


def _info(pool: RewardPool) -> PoolInfo:
    return PoolInfo(
        name=pool.name,
        fingerprint=pool.fingerprint,
        keep=pool.keep,
        history=pool.history_length,
        size=pool.size,
    )


def _entry(pool: RewardPool, id: str) -> Any:
    found = pool.entries([id])
    if id not in found:
        raise PoolMissing(f"'{id}' has no reward in this pool yet: offer one")
    return found[id]


def _image(request: Request, tag: str, cache: str, body: Callable[[], bytes]) -> Response:
    headers = {"etag": tag, "cache-control": cache}
    held = [given.strip().removeprefix("W/") for given in request.headers.get("if-none-match", "").split(",")]
    if tag in held:
        return Response(status_code=304, headers=headers)
    return Response(body(), headers=headers, media_type="image/webp")


def _lines(pool: RewardPool) -> Iterator[bytes]:
    chunk = bytearray()
    for entry in pool.scan():
        chunk += entry.model_dump_json().encode() + b"\n"
        if len(chunk) > _CHUNK:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)

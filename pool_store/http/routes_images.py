"""The routes of images: candidates by digest, rewards and rainy images by id, each also as a preview."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial, wraps
from typing import Annotated, Any, ParamSpec, TypeVar

import anyio
from fastapi import APIRouter, Body, Path, Query, Request, Response

from pool_store.engine.images import check, digest_of, encode, several
from pool_store.engine.pool import RewardPool
from pool_store.engine.pools import PoolHost
from pool_store.errors import PoolMissing
from pool_store.http.archive import unpack
from pool_store.http.images import decode_upload, preview, size_of, stored_pixels
from pool_store.http.limits import IMAGES_A_REQUEST, PREVIEW_WIDTHS, Limits
from pool_store.http.messages import Uploaded, Uploads
from pool_store.schemas import DIGEST_PATTERN, Digest, Entry, ImageId, PoolName
from rgsud_core.http.limits import PixelBudget
from rgsud_core.http.problems import Problem
from rgsud_core.http.service import BytesRoute

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
FOREVER = "max-age=31536000, immutable"
FRESH = "no-cache"
_IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/webp": {}}},
    304: {"description": "The client has it already."},
}
_THREADS = 8
"""Requests for images that are worked on at a time."""
_P = ParamSpec("_P")
_T = TypeVar("_T")
_PREVIEWS = 256
"""Previews held in memory, some 10 to 150 KB each."""
_CHECKED = 1 << 17
"""Images that are known to be whole, some 250 bytes each."""


def image_routes(host: PoolHost, limits: Limits, *, shared: bool) -> APIRouter:
    """The image routes below `/v1/pools`; `shared` allows caches to give images to anyone."""
    forever = f"{'public' if shared else 'private'}, {FOREVER}"
    routes = APIRouter(route_class=BytesRoute)
    # Threads of their own, so that images never delay offers; only some of them hold decoded pixels.
    threads = anyio.CapacityLimiter(_THREADS)
    decoding = PixelBudget(limits.pixels // 2)

    def in_thread(route: Callable[_P, _T]) -> Callable[_P, Awaitable[_T]]:
        @wraps(route)
        async def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            return await anyio.to_thread.run_sync(partial(route, *args, **kwargs), limiter=threads)

        return run

    whole: dict[str, bytes] = {}  # the hashes of stored images that have been found to match their digests

    def checked(pool: RewardPool, digest: str) -> bytes:
        """The image as it is stored, decoded once to see that it is whole."""
        encoded = pool.encoded(digest)
        found = hashlib.sha256(encoded).digest()
        if whole.get(digest) != found:
            with decoding.hold(stored_pixels(encoded, digest)):
                check(encoded, digest, digest)
            if len(whole) >= _CHECKED:
                whole.clear()
            whole[digest] = found
        return encoded

    @lru_cache(_PREVIEWS)
    def preview_of(pool: RewardPool, digest: str, width: int) -> bytes:
        return preview_from(checked(pool, digest), digest, width)

    def preview_from(encoded: bytes, name: str, width: int) -> bytes:
        with decoding.hold(stored_pixels(encoded, name)):
            return preview(encoded, name, width)

    def blob(request: Request, pool: RewardPool, digest: str, width: int | None, cache: str) -> Response:
        tag = f'"{digest}"' if width is None else f'"{digest}-{width}"'

        def body() -> bytes:
            return checked(pool, digest) if width is None else preview_of(pool, digest, width)

        return _answer(request, tag, cache, body)

    def store(pool: RewardPool, digest: str, data: bytes) -> bool:
        """Whether the image was new; Problem if it does not match its digest, or is not an accepted image."""
        size = size_of(data, limits.pixels)
        with decoding.hold(math.prod(size)):
            if pool.whole(digest, *size):
                return False
            image, encoded = decode_upload(data, size)
            if (found := digest_of(image)) != digest:
                raise Problem(422, f"the image has digest {found}, not {digest}: put it under its own")
            encoded = encoded or encode(image)
            del image
        pool.put_encoded(digest, encoded)
        return True

    @routes.put("/{pool}/blobs/{digest}", status_code=201, responses={204: {"description": "Held already."}})
    @in_thread
    def put_blob(pool: Name, digest: BlobDigest, body: Upload) -> Response:
        """Stores an image durably, after checking that it has this digest."""
        return Response(status_code=201 if store(host.open(pool), digest, body) else 204)

    @routes.post("/{pool}/blobs")
    @in_thread
    def put_blobs(pool: Name, body: Archive) -> Uploads:
        """Stores many images durably, each by itself: one that is refused does not affect the others."""
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

    @routes.get("/{pool}/blobs/{digest}", response_class=Response, responses=_IMAGE)
    @in_thread
    def get_blob(pool: Name, digest: BlobDigest, request: Request, width: Width = None) -> Response:
        """An image by its digest, or a preview of it."""
        return blob(request, host.open(pool), digest, width, forever)

    @routes.put("/{pool}/sources/{id:path}", status_code=204)
    @in_thread
    def put_source(pool: Name, id: Id, body: Upload) -> None:
        """Stores the rainy image, for the gallery."""
        opened = host.open(pool)
        size = size_of(body, limits.pixels)
        with decoding.hold(math.prod(size)):
            image, encoded = decode_upload(body, size)
            opened.put_source_encoded(id, encoded or encode(image))

    @routes.get("/{pool}/sources/{id:path}", response_class=Response, responses=_IMAGE)
    @in_thread
    def get_source(pool: Name, id: Id, request: Request, width: Width = None) -> Response:
        """The rainy image, or a preview of it."""
        encoded = host.open(pool).source_encoded(id)
        tag = f'"{hashlib.sha256(encoded).hexdigest()}-{width or "full"}"'

        def body() -> bytes:
            if width is None:
                return encoded
            return preview_from(encoded, f"of the rainy image of '{id}'", width)

        return _answer(request, tag, FRESH, body)

    @routes.get("/{pool}/rewards/{id:path}", response_class=Response, responses=_IMAGE)
    @in_thread
    def get_reward(pool: Name, id: Id, request: Request, width: Width = None) -> Response:
        """The reward of a rainy image: its best candidate."""
        opened = host.open(pool)
        return blob(request, opened, entry_of(opened, id).best.digest, width, FRESH)

    return routes


def entry_of(pool: RewardPool, id: str) -> Entry:
    """The entry of `id`; PoolMissing if it has none."""
    found = pool.entries([id])
    if id not in found:
        raise PoolMissing(f"'{id}' has no reward in this pool yet: offer one")
    return found[id]


def _answer(request: Request, tag: str, cache: str, body: Callable[[], bytes]) -> Response:
    headers = {"etag": tag, "cache-control": cache}
    held = [given.strip().removeprefix("W/") for given in request.headers.get("if-none-match", "").split(",")]
    if tag in held:
        return Response(status_code=304, headers=headers)
    return Response(body(), headers=headers, media_type="image/webp")

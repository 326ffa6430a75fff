"""The routes under `/v1/pools`. Work that waits for Redis, the storage or a decoder runs in threads."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import StreamingResponse

from pool_store.engine.pages import Sort, page
from pool_store.engine.pool import RewardPool
from pool_store.engine.pools import PoolHost
from pool_store.http import snapshots
from pool_store.http.limits import ENTRIES_A_PAGE, Limits
from pool_store.http.messages import (
    Decisions,
    Entries,
    EntriesPage,
    EntryDetail,
    Grace,
    Ids,
    Offers,
    PoolInfo,
    Pools,
)
from pool_store.http.routes_images import Id, Name, entry_of, image_routes
from pool_store.schemas import PoolSettings, Stats, Swept, Verified
from rgsud_core.http.service import JsonRoute

Finite = Annotated[float | None, Query(allow_inf_nan=False)]
_LINES: dict[int | str, dict[str, Any]] = {200: {"content": {snapshots.MEDIA_TYPE: {}}}}
HISTORY = 8
"""Replacements that an entry remembers unless the request that creates the pool says otherwise."""
Snapshot = Annotated[bytes, Body(media_type=snapshots.MEDIA_TYPE, description="What GET gave.")]


def pool_routes(host: PoolHost, limits: Limits, *, shared: bool) -> APIRouter:
    """Every route of the pools in `host`; `shared` allows caches to give images to anyone."""
    routes = APIRouter(prefix="/v1/pools", route_class=JsonRoute)
    routes.include_router(image_routes(host, limits, shared=shared))

    @routes.get("")
    def list_pools() -> Pools:
        """Every pool."""
        return Pools(pools=[_info(pool) for pool in host.opened()])

    @routes.put("/{pool}", responses={201: {"model": PoolInfo}})
    def create_pool(pool: Name, settings: PoolSettings, response: Response) -> PoolInfo:
        """Creates the pool (201), or finds it for the same scorer and `keep` (200; 409 for others)."""
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
        """Decides offers. For those that are `wanted`, put the image and offer again."""
        return Decisions(decisions=host.open(pool).offer_many(offered.offers))

    @routes.post("/{pool}/entries")
    def find_entries(pool: Name, asked: Ids) -> Entries:
        """The entries of those ids that have one."""
        return Entries(entries=list(host.open(pool).entries(asked.ids).values()))

    @routes.get("/{pool}/entries")
    def list_entries(
        pool: Name,
        sort: Sort = "worst",
        offset: Annotated[int, Query(ge=0, le=2**40)] = 0,
        limit: Annotated[int, Query(ge=1, le=ENTRIES_A_PAGE)] = 50,
        minimum: Finite = None,
        maximum: Finite = None,
        contains: Annotated[str | None, Query(max_length=256)] = None,
    ) -> EntriesPage:
        """Entries by score (log-odds of their best) or by time of their last replacement, newest first."""
        entries, total = page(host.open(pool).shards, sort, offset, limit, minimum, maximum, contains)
        return EntriesPage(entries=entries, total=total)

    @routes.get("/{pool}/entries/{id:path}")
    def show_entry(pool: Name, id: Id) -> EntryDetail:
        """An entry and its history."""
        opened = host.open(pool)
        return EntryDetail(entry=entry_of(opened, id), history=opened.history(id)[::-1])

    @routes.get("/{pool}/scan", response_class=StreamingResponse, responses=_LINES)
    def scan(pool: Name) -> StreamingResponse:
        """Every entry once, a JSON object a line, in no order."""
        entries = (entry.model_dump_json().encode() for entry in host.open(pool).scan())
        return StreamingResponse(snapshots.in_chunks(entries), media_type=snapshots.MEDIA_TYPE)

    @routes.get("/{pool}/stats")
    def stats(pool: Name) -> Stats:
        """The figures of the pool."""
        return host.open(pool).stats()

    @routes.post("/{pool}/verify")
    def verify(pool: Name) -> Verified:
        """Reads every image that an entry refers to, and names those that are missing or damaged."""
        return host.open(pool).verify()

    @routes.post("/{pool}/sweep")
    def sweep(pool: Name, grace: Grace) -> Swept:
        """Removes images that no entry has referred to for the grace period."""
        return host.open(pool).sweep(grace.grace_seconds)

    @routes.get("/{pool}/dump", response_class=StreamingResponse, responses=_LINES)
    def dump(pool: Name) -> StreamingResponse:
        """A snapshot of the entries at one moment, without images: a JSON object a line."""
        lines = snapshots.write(host.open(pool).dump())
        return StreamingResponse(snapshots.in_chunks(lines), media_type=snapshots.MEDIA_TYPE)

    @routes.put("/{pool}/dump", status_code=204)
    async def restore(pool: Name, body: Snapshot) -> None:
        """Replaces the entries by those of a snapshot."""
        await anyio.to_thread.run_sync(lambda: host.open(pool).restore(snapshots.read(body)))

    return routes


def _info(pool: RewardPool) -> PoolInfo:
    return PoolInfo(
        name=pool.name,
        fingerprint=pool.fingerprint,
        keep=pool.keep,
        history=pool.history_length,
        size=pool.size,
    )

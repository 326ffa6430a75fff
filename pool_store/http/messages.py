"""The bodies that the HTTP service and its client exchange, beside the pool's own schemas."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pool_store.http.limits import IDS_A_REQUEST, OFFERS_A_REQUEST
from pool_store.schemas import Decision, Entry, HistoryItem, ImageId, Offer, PoolSettings
from rgsud_core.settings import Settings


class PoolInfo(PoolSettings):
    """A pool by name."""

    name: str


class Pools(Settings):
    """Every pool of the service."""

    pools: list[PoolInfo]


class Ids(Settings):
    """The images asked about."""

    ids: Annotated[list[ImageId], Field(max_length=IDS_A_REQUEST, fail_fast=True)]


class Offers(Settings):
    """Offers, decided in their order."""

    offers: Annotated[list[Offer], Field(max_length=OFFERS_A_REQUEST, fail_fast=True)]


class Decisions(Settings):
    """One decision an offer, in the order of the offers."""

    decisions: list[Decision]


class Uploaded(Settings):
    """What became of an image: `held` was there before, `refused` was not stored, for what `problem` says."""

    name: str
    status: Literal["stored", "held", "refused"]
    problem: str | None = None


class Uploads(Settings):
    """One answer an image, in the order of the archive."""

    images: list[Uploaded]


class Entries(Settings):
    """The entries of those ids that have one."""

    entries: list[Entry]


class EntriesPage(Settings):
    """Some of the `total` entries that were asked for."""

    entries: list[Entry]
    total: int


class EntryDetail(Settings):
    """An entry and how its reward got better, oldest first."""

    entry: Entry
    history: list[HistoryItem]


class Grace(Settings):
    """How long after its replacement an image is kept, in seconds."""

    grace_seconds: Annotated[float, Field(ge=0, le=1e9)] = 3600.0


class Dump(Settings):
    """A pool's contents as `Pool.dump` gives them."""

    meta: dict[str, Any]
    entries: dict[str, Any]

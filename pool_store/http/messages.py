"""Bodies of requests and answers of the HTTP service, beside the pool's own schemas."""

from __future__ import annotations

from typing import Annotated, Literal

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
    """Ids of the requested entries."""

    ids: Annotated[list[ImageId], Field(max_length=IDS_A_REQUEST, fail_fast=True)]


class Offers(Settings):
    """Offers, decided in their order."""

    offers: Annotated[list[Offer], Field(max_length=OFFERS_A_REQUEST, fail_fast=True)]


class Decisions(Settings):
    """One decision per offer, in the order of the offers."""

    decisions: list[Decision]


class Uploaded(Settings):
    """Result for one image: `held` was stored before, `refused` is not stored, `problem` says why."""

    name: str
    status: Literal["stored", "held", "refused"]
    problem: str | None = None


class Uploads(Settings):
    """One result per image, in the order of the archive."""

    images: list[Uploaded]


class Entries(Settings):
    """The entries of those ids that have one."""

    entries: list[Entry]


class EntriesPage(Settings):
    """A page of the `total` entries that match."""

    entries: list[Entry]
    total: int


class EntryDetail(Settings):
    """An entry and its replacements, oldest first."""

    entry: Entry
    history: list[HistoryItem]


class Grace(Settings):
    """Seconds for which an image is kept after its replacement."""

    grace_seconds: Annotated[float, Field(ge=0, le=1e9)] = 3600.0

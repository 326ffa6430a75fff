"""The bodies that the HTTP service and its client exchange, beside the pool's own schemas."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pool_store.http.limits import IDS_A_REQUEST, OFFERS_A_REQUEST
from pool_store.schemas import Decision, Entry, HistoryItem, ImageId, Offer, PoolSettings


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PoolInfo(PoolSettings):
    """A pool by name."""

    name: str


class Pools(_Message):
    """Every pool of the service."""

    pools: list[PoolInfo]


class Ids(_Message):
    """The images asked about."""

    ids: Annotated[list[ImageId], Field(max_length=IDS_A_REQUEST)]


class Thresholds(_Message):
    """For every id the log-odds that an offer must exceed to enter, null where any score enters."""

    log_odds: dict[str, float | None]


class Offers(_Message):
    """Offers, decided in their order."""

    offers: Annotated[list[Offer], Field(max_length=OFFERS_A_REQUEST)]


class Decisions(_Message):
    """One decision an offer, in the order of the offers."""

    decisions: list[Decision]


class Uploaded(_Message):
    """What became of an image: `held` was there before, `refused` was not stored, for what `problem` says."""

    name: str
    status: Literal["stored", "held", "refused"]
    problem: str | None = None


class Uploads(_Message):
    """One answer an image, in the order of the archive."""

    images: list[Uploaded]


class Entries(_Message):
    """The entries of those ids that have one."""

    entries: list[Entry]


class EntriesPage(_Message):
    """Some of the `total` entries that were asked for."""

    entries: list[Entry]
    total: int


class EntryDetail(_Message):
    """An entry and how its reward got better, oldest first."""

    entry: Entry
    history: list[HistoryItem]


class Grace(_Message):
    """How long after its replacement an image is kept, in seconds."""

    grace_seconds: Annotated[float, Field(ge=0, le=1e9)] = 3600.0


class Dump(_Message):
    """A pool's contents as `Pool.dump` gives them."""

    meta: dict[str, Any]
    entries: dict[str, Any]


class Health(_Message):
    """That the service answers."""

    status: str = "ok"

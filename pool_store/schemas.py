"""The vocabulary of the pool's clients and servers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pool_store.errors import PoolError

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 of an image's shape and pixels, whatever it is encoded as."""


LARGEST = (2 - 2**-23) * 2.0**127
"""The largest float32."""


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lineage(_Schema):
    """Where a candidate comes from: run, training step and stage, worker, and time in seconds since 1970."""

    run: str
    step: Annotated[int, Field(ge=0)]
    stage: Annotated[int, Field(ge=1)]
    worker: Annotated[int, Field(ge=0)] = 0
    time: float


class Candidate(_Schema):
    """One derained image of a rainy image: its blob, its score (log-odds, higher is better), its lineage."""

    digest: Digest
    log_odds: float
    lineage: Lineage


class Offer(_Schema):
    """A candidate offered for the rainy image `id`, scored by the scorer that `fingerprint` names.

    PoolError where the score is no finite float32, which is what scorers give: so sums of scores stay finite.
    """

    id: Annotated[str, Field(min_length=1)]
    log_odds: float
    fingerprint: str
    digest: Digest
    lineage: Lineage

    @field_validator("log_odds")
    @classmethod
    def _finite(cls, value: float) -> float:
        if not abs(value) <= LARGEST:
            raise PoolError(f"the score offered is {value}: offer finite float32 log-odds only")
        return value


class Decision(_Schema):
    """What became of an offer.

    `replaced`: it entered the pool; `kept`: what was there is at least as good; `stale`: it was scored by
    another scorer than the pool's. `log_odds` is the entry's best after the decision, None where it has none.
    """

    status: Literal["replaced", "kept", "stale"]
    log_odds: float | None


class Entry(_Schema):
    """What is kept for one rainy image: 1 to `keep` candidates, best first, and how many offers it had."""

    id: str
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]
    offers: int
    replacements: int

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


class Stats(_Schema):
    """The pool in figures; `replacements` includes first candidates, `mean_*` are over each entry's best.

    `acceptance` is replacements / offers, 0 before the first offer; `stale` offers count in neither.
    """

    entries: int
    offers: int
    replacements: int
    stale: int
    acceptance: float
    mean_reward: float | None
    mean_log_odds: float | None
    blobs: int
    blob_bytes: int


class Swept(_Schema):
    """What a sweep removed."""

    blobs: int
    bytes: int

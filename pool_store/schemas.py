"""Data that the pool's clients and servers exchange."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from pool_store.errors import PoolError
from rgsud_core.settings import Settings

DIGEST_PATTERN = r"^[0-9a-f]{64}$"
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]
"""SHA-256 of an image's shape and pixels, independent of its encoding."""

PoolName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""Name of a pool, unique on its server."""

ID_LENGTH = 256
_NO_TEXT = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff/\\"
_SEGMENT = f"[^.{_NO_TEXT}][^{_NO_TEXT}]*"
ID_PATTERN = f"^{_SEGMENT}(/{_SEGMENT})*$"
"""Relative paths without suffix, of any characters that are text: no segment is empty or begins with a dot,
nothing escapes a folder."""


def image_id(id: str) -> str:
    """The id itself; PoolError unless it has at most 256 characters and matches `ID_PATTERN`."""
    if len(id) > ID_LENGTH or not re.fullmatch(ID_PATTERN[1:-1], id):
        raise PoolError(
            f"{id[:80]!r} cannot name an image in the pool: use at most {ID_LENGTH} characters, no backslash "
            "and nothing that is no text, in a relative path whose parts begin with no dot"
        )
    return id


ImageId = Annotated[
    str,
    AfterValidator(image_id),
    Field(json_schema_extra={"pattern": ID_PATTERN, "minLength": 1, "maxLength": ID_LENGTH}),
]
"""Id of a rainy image and of its entry, checked by `image_id`."""

LARGEST = (2 - 2**-23) * 2.0**127
"""The largest float32."""


class PoolSettings(Settings):
    """Settings that a pool is created with."""

    fingerprint: Annotated[str, Field(min_length=1, max_length=256)]
    keep: Annotated[int, Field(ge=1, le=64)] = 1
    history: Annotated[int, Field(ge=0, le=64)] = 0
    """Number of replacements that an entry remembers."""
    size: Annotated[int, Field(ge=1, lt=10**15)] | None = None
    """Number of images in the data set, for the coverage."""


class Lineage(Settings):
    """Origin of a candidate: run, training step and stage, worker, and time in seconds since 1970."""

    run: Annotated[str, Field(max_length=256)]
    step: Annotated[int, Field(ge=0, lt=2**32)]
    stage: Annotated[int, Field(ge=1, lt=2**8)]
    worker: Annotated[int, Field(ge=0, lt=2**16)] = 0
    time: Annotated[float, Field(allow_inf_nan=False)]


class Kept(Settings):
    """A candidate that is kept: digest of the derained image, score (log-odds, higher is better), origin."""

    digest: Digest
    log_odds: float
    lineage: Lineage


class Offer(Settings):
    """A candidate offered for the rainy image `id`, scored by the scorer that `fingerprint` names.

    Raises PoolError if the id is invalid, or the score is not a finite float32 (as scorers give, and so that
    sums of scores stay finite).
    """

    id: ImageId
    log_odds: float
    fingerprint: Annotated[str, Field(max_length=256)]
    digest: Digest
    lineage: Lineage

    @field_validator("log_odds")
    @classmethod
    def _finite(cls, value: float) -> float:
        if not abs(value) <= LARGEST:
            raise PoolError(f"the score offered is {value}: offer finite float32 log-odds only")
        return value


class Decision(Settings):
    """The decision on an offer.

    `replaced`: the candidate entered the pool; `kept`: the present one is at least as good; `stale`: the
    score is of another scorer than the pool's; `wanted`: nothing was decided or counted, since the candidate
    would enter but its image is not stored, or since it follows such an offer for the same id: put the image
    and offer again. `log_odds` is the entry's best after the decision, None if it has none.
    """

    status: Literal["replaced", "kept", "stale", "wanted"]
    log_odds: float | None


class Entry(Settings):
    """Entry of one rainy image: 1 to `keep` candidates, best first, and the number of replacements."""

    id: str
    candidates: Annotated[tuple[Kept, ...], Field(min_length=1)]
    replacements: int

    @property
    def best(self) -> Kept:
        return self.candidates[0]


class HistoryItem(Settings):
    """One replacement in an entry: the candidate that entered, even if it has been replaced since."""

    time: float
    step: int
    stage: int
    log_odds: float
    digest: Digest


class Quantiles(Settings):
    """Quantiles of the entries' best log-odds; over several shards, the weighted mean of theirs."""

    p05: float
    p25: float
    p50: float
    p75: float
    p95: float


class Histogram(Settings):
    """Entries by their best log-odds: `counts[i]` lie in [`edges[i]`, `edges[i + 1]`); the first and the last
    bin hold what lies beyond them too."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Ages(Settings):
    """Ages of the best candidates in seconds, by their lineage, over a random sample of 256 entries."""

    oldest: float
    median: float
    newest: float


class StageStats(Settings):
    """Offers and replacements of one training stage."""

    offers: int
    replacements: int


class Minute(Settings):
    """Decisions in the minute that begins at `time`, seconds since 1970, by the server's clock."""

    time: int
    offers: int
    replacements: int


class Stats(Settings):
    """Figures of the pool, at a cost independent of its size.

    `replacements` includes first candidates, `kept` is the other offers; `stale` offers count in neither.
    `acceptance` is replacements / offers, 0 before the first offer. `mean_*` are over each entry's best, with
    an error of at most 1e-15 of the largest score. `coverage` is entries / `size`, None where no size was
    declared. `blobs` are candidates, those not yet swept included; a crash may leave their count off by what
    was being written, until the next sweep. `timeline` has the minutes of the last 24 hours with decisions.
    """

    entries: int
    size: int | None = None
    coverage: float | None = None
    offers: int
    replacements: int
    kept: int
    stale: int
    acceptance: float
    mean_reward: float | None
    mean_log_odds: float | None
    quantiles: Quantiles | None
    histogram: Histogram
    blobs: int
    blob_bytes: int
    ages: Ages | None
    per_stage: dict[int, StageStats]
    timeline: tuple[Minute, ...]


class Swept(Settings):
    """Images that a sweep removed, and their bytes."""

    blobs: int
    bytes: int


class Damage(Settings):
    """A candidate whose image cannot be read."""

    id: str
    digest: Digest
    problem: str


class Verified(Settings):
    """Result of a verification, which reads every candidate's image and compares its digest."""

    entries: int
    candidates: int
    damaged: tuple[Damage, ...]

    @property
    def whole(self) -> bool:
        return not self.damaged

"""The vocabulary of the pool's clients and servers."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from pool_store.errors import PoolError
from rgsud_core.settings import Settings

DIGEST_PATTERN = r"^[0-9a-f]{64}$"
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]
"""SHA-256 of an image's shape and pixels, whatever it is encoded as."""

PoolName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""What tells several pools of one server apart."""

ID_LENGTH = 256
_SEGMENT = r"[\w@+,;=~#%&!$'()\[\]{}][\w.@+,;=~#%&!$'()\[\]{} \-]*"
ID_PATTERN = f"^{_SEGMENT}(/{_SEGMENT})*$"
"""Relative paths without suffix: no segment is empty or begins with a dot, nothing escapes a folder."""


def image_id(id: str) -> str:
    """The id itself; PoolError unless it is at most 256 characters and keeps to `ID_PATTERN`."""
    if len(id) > ID_LENGTH or not re.fullmatch(ID_PATTERN[1:-1], id):
        raise PoolError(
            f"{id[:80]!r} cannot name an image in the pool: use at most {ID_LENGTH} letters, digits "
            "and common signs in a relative path whose parts begin with none of '.', '-' and ' '"
        )
    return id


ImageId = Annotated[
    str,
    AfterValidator(image_id),
    Field(json_schema_extra={"pattern": ID_PATTERN, "minLength": 1, "maxLength": ID_LENGTH}),
]
"""What names a rainy image, and what the pool keeps for it. PoolError where it is none: see `image_id`."""

LARGEST = (2 - 2**-23) * 2.0**127
"""The largest float32."""


class PoolSettings(Settings):
    """What a pool is made with. `size` is the number of images of the data set, for the coverage."""

    fingerprint: Annotated[str, Field(min_length=1, max_length=256)]
    keep: Annotated[int, Field(ge=1, le=64)] = 1
    history: Annotated[int, Field(ge=0, le=64)] = 0
    """How many replacements an entry remembers."""
    size: Annotated[int, Field(ge=1)] | None = None


class Lineage(Settings):
    """Where a candidate comes from: run, training step and stage, worker, and time in seconds since 1970."""

    run: Annotated[str, Field(max_length=256)]
    step: Annotated[int, Field(ge=0, lt=2**32)]
    stage: Annotated[int, Field(ge=1, lt=2**8)]
    worker: Annotated[int, Field(ge=0, lt=2**16)] = 0
    time: Annotated[float, Field(allow_inf_nan=False)]


class Kept(Settings):
    """One derained image of a rainy image: its blob, its score (log-odds, higher is better), its lineage."""

    digest: Digest
    log_odds: float
    lineage: Lineage


class Offer(Settings):
    """A candidate offered for the rainy image `id`, scored by the scorer that `fingerprint` names.

    PoolError where the id is none, or the score is no finite float32, which is what scorers give: so sums of
    scores stay finite.
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
    """What became of an offer.

    `replaced`: it entered the pool; `kept`: what was there is at least as good; `stale`: it was scored by
    another scorer than the pool's; `wanted`: nothing was decided or counted, since it would enter but its
    image is not stored, or since it follows such an offer for the same id: put the image and offer again.
    `log_odds` is the entry's best after the decision, None where it has none.
    """

    status: Literal["replaced", "kept", "stale", "wanted"]
    log_odds: float | None


class Entry(Settings):
    """What is kept for one rainy image: 1 to `keep` candidates, best first, and how many have entered."""

    id: str
    candidates: Annotated[tuple[Kept, ...], Field(min_length=1)]
    replacements: int

    @property
    def best(self) -> Kept:
        return self.candidates[0]


class HistoryItem(Settings):
    """One replacement in an entry: the candidate that entered, whether or not it is still there."""

    time: float
    step: int
    stage: int
    log_odds: float
    digest: Digest


class Quantiles(Settings):
    """Of the entries' best log-odds. Over several sub-pools, the weighted mean of theirs."""

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
    """Seconds since the best candidates were made, by their lineage, over a random sample of 256 entries."""

    oldest: float
    median: float
    newest: float


class StageStats(Settings):
    """What the training stage's candidates came to."""

    offers: int
    replacements: int


class Minute(Settings):
    """The decisions of one minute that begins at `time`, seconds since 1970, by the server's clock."""

    time: int
    offers: int
    replacements: int


class Stats(Settings):
    """The pool in figures, at a cost that does not depend on its size.

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
    """What a sweep removed."""

    blobs: int
    bytes: int


class Damage(Settings):
    """A candidate whose image cannot be read."""

    id: str
    digest: Digest
    problem: str


class Verified(Settings):
    """What was checked, every candidate's image read and its digest compared, and what was found."""

    entries: int
    candidates: int
    damaged: tuple[Damage, ...]

    @property
    def whole(self) -> bool:
        return not self.damaged

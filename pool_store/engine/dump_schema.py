"""Validation of dumps, which may come from a file or over the network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from pool_store.engine.records import BINS, MINUTES
from pool_store.errors import PoolError
from pool_store.schemas import LARGEST, Digest, ImageId, Kept

_COUNTER = re.compile(r"offers|replacements|stale|stage:[1-9][0-9]{0,2}:(offers|replacements)")
_COUNT = r"^(0|[1-9][0-9]{0,14})$"
_BIN = rf"^({'|'.join(map(str, range(BINS)))})$"
_LARGEST_SUM = 1e60
"""Above any sum of float32 numbers that a pool can hold; a larger one might overflow later."""
_Count = Annotated[str, Field(pattern=_COUNT)]
_Size = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,14}$")]
_Figure = Annotated[int, Field(ge=0, lt=2**53)]
_Few = Annotated[int, Field(ge=0, lt=2**24)]
_Score = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


def _finite(text: str) -> str:
    if not abs(float(text)) < _LARGEST_SUM:
        raise ValueError("no sum of scores")
    return text


_Sum = Annotated[
    str, Field(max_length=32, pattern=r"^-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?$"), AfterValidator(_finite)
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Scored(Kept):
    log_odds: _Score


class _Past(_Part):
    time: Annotated[float, Field(allow_inf_nan=False)]
    step: Annotated[int, Field(ge=0, lt=2**32)]
    stage: Annotated[int, Field(ge=1, lt=2**8)]
    log_odds: _Score
    digest: Digest


class _Entry(_Part):
    candidates: Annotated[list[_Scored], Field(min_length=1, max_length=64)]
    replacements: _Few
    history: Annotated[list[_Past], Field(max_length=64)]

    @model_validator(mode="after")
    def _ranked(self) -> _Entry:
        scores = [candidate.log_odds for candidate in self.candidates]
        if scores != sorted(scores, reverse=True):
            raise ValueError("the candidates are not in order, best first")
        if len({candidate.digest for candidate in self.candidates}) < len(self.candidates):
            raise ValueError("an image is there twice")
        return self


class _Decided(_Part):
    offers: _Figure
    replacements: _Figure


class _Meta(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, _Count]

    format: str
    fingerprint: str
    keep: _Count
    history: _Count
    size: _Size | None = None
    sum: _Sum
    sum_rest: _Sum
    rewards: _Sum
    rewards_rest: _Sum
    histogram: dict[Annotated[str, Field(pattern=_BIN)], _Figure]
    timeline: Annotated[
        dict[Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")], _Decided], Field(max_length=100 * MINUTES)
    ]

    @model_validator(mode="after")
    def _known(self) -> _Meta:
        unknown = [name for name in self.__pydantic_extra__ or {} if not _COUNTER.fullmatch(name)]
        if unknown:
            raise ValueError(f"there is no counter '{unknown[0][:40]}'")
        return self


class _Dump(_Part):
    meta: _Meta
    entries: dict[str, Any]


_ENTRIES = TypeAdapter(dict[ImageId, _Entry])


def check_dump(state: Mapping[str, Any]) -> None:
    """Raises PoolError unless `state` has the form of a dump; `restore` checks the scorer."""
    place: tuple[str, ...] = ()
    try:
        _Dump.model_validate(state)
        place, keep = ("entries",), int(state["meta"]["keep"])
        for entry in state["entries"].items():  # one by one, so that other threads run in between
            found = _ENTRIES.validate_python(dict([entry]))
            if any(len(parts.candidates) > keep for parts in found.values()):
                raise PoolError(
                    f"not a dump of a pool ('{entry[0][:80]}' has more candidates than {keep}): "
                    "restore what a dump gave, unchanged"
                )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (*place, *first["loc"])))[:200]
        raise PoolError(
            f"not a dump of a pool ({where}: {first['msg']}): restore what a dump gave, unchanged"
        ) from None

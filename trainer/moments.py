"""Moments of a run as recipes give them: after so many samples, or after a share of the run."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, ValidationInfo

from rgsud_core.settings import Percentage


def moment(*words: str) -> PlainValidator:
    def read(value: Any, info: ValidationInfo) -> Any:
        if value in words or (type(value) is int and value >= 0):
            return value
        if isinstance(value, float) and info.context == AS_WRITTEN:
            return Percentage(value)
        with suppress(ValueError):
            return Percentage.read(value)
        example = str(Percentage(value)) if isinstance(value, float) and 0 <= value <= 1 else "50%"
        known = ", ".join(["a number of samples (20000)", f"a share of the run ({example})", *words])
        raise ValueError(f"{value!r} is no moment of the run: write {known}")

    return PlainValidator(read, json_schema_input_type=int | str)


AS_WRITTEN = "as written"
"""The context in which shares are read as earlier versions wrote them, as fractions."""
PLAINLY = PlainSerializer(lambda moment: str(moment) if isinstance(moment, Percentage) else moment)
Moment = Annotated[int | Percentage, moment(), PLAINLY]
"""A moment of the run: after 20000 rainy crops, or after `50%` of the run."""

"""The base of every settings class: typed, closed, and helpful about misspelt keys."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from rgsud_core.errors import nearest


class Settings(BaseModel):
    """A pydantic model that refuses unknown keys and names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown setting '{key}': {nearest(str(key), cls.model_fields)}")
        return values

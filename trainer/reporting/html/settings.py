"""The settings of runs: what differs from a recipe, and between runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from rgsud_core.settings import describe
from trainer.config import recipe_config, recipes
from trainer.reporting.html.folder import flat

_ABSENT = "not set"
_PLACES = ("name", "runs", "copies", "device", "launch", "data", "ray", "report")
"""Groups of settings that say where and on what a run trains, not how."""


@dataclass(frozen=True)
class Setting:
    """A setting of a run."""

    key: str
    value: str
    """As YAML on one line, as the next."""
    usual: str
    """In the recipe."""
    meaning: str

    @property
    def differs(self) -> bool:
        """Whether it is not as in the recipe."""
        return self.value != self.usual


@dataclass(frozen=True)
class Settings:
    """All settings of a run, beside those of the recipe that is nearest to it."""

    recipe: str
    how: Sequence[Setting]
    """Those that decide what is learned."""
    where: Sequence[Setting]
    """Those of data, devices, processes and reports."""


def settings_of(given: Mapping[str, Any]) -> Settings:
    """The settings of a run beside those of the recipe that it shares most with: a run does not note which
    one it was started with."""
    known = {name: _recipe(name) for name in recipes()}
    mine = _shown(given)

    def distance(name: str) -> int:
        keys = [key for key in {*mine, *known[name]} if not _is_place(key)]
        return sum(mine.get(key) != known[name].get(key) for key in keys)

    recipe = min(known, key=distance)
    meanings = _meanings()
    keys = list(dict.fromkeys([*mine, *known[recipe]]))
    rows = [
        Setting(key, mine.get(key, _ABSENT), known[recipe].get(key, _ABSENT), meanings.get(key, ""))
        for key in keys
    ]
    return Settings(
        recipe,
        [row for row in rows if not _is_place(row.key)],
        [row for row in rows if _is_place(row.key)],
    )


def differences(several: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Keys whose values are not the same in all, with the values."""
    shown = [_shown(one) for one in several]
    keys = dict.fromkeys(key for one in shown for key in one)
    rows = [(key, [one.get(key, _ABSENT) for one in shown]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def yaml_line(value: object) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _shown(given: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): yaml_line(value) for key, value in given.items()}


def _is_place(key: str) -> bool:
    return key.split(".")[0] in _PLACES


@cache
def _recipe(name: str) -> dict[str, str]:
    return _shown(flat(recipe_config(name).model_dump(mode="json")))


@cache
def _meanings() -> dict[str, str]:
    return {one.key: one.text for one in describe(recipe_config(None))}

"""The base of every settings class: typed, closed, and helpful about misspelt keys; YAML and description."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import core_schema

from rgsud_core.errors import first_line, nearest


class Settings(BaseModel):
    """A pydantic model that refuses unknown keys and names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, values: Any) -> Any:
        if isinstance(values, dict) and cls.model_config.get("extra") != "allow":
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown setting '{key}': {nearest(str(key), cls.model_fields)}")
        return values


YAML_CHARACTERS = 1 << 18
"""Longest text in YAML that is read."""
_DEPTH = 32


def read_yaml(text: str) -> Any:
    """The values in a text in YAML, which may be of anybody.

    References (``&name``, ``*name``, ``<<``) let a few lines stand for more values than memory holds, and are
    not taken; nor are texts of more than :data:`YAML_CHARACTERS`, or nested more than 32 deep.

    Raises:
        yaml.YAMLError: it is no YAML, or beyond these limits; its text is one line that says why.
    """
    try:
        if len(text) > YAML_CHARACTERS:
            raise yaml.YAMLError(f"it has more than {YAML_CHARACTERS} characters")
        return yaml.load(text, _PlainLoader)
    except yaml.MarkedYAMLError as problem:
        place = "" if problem.problem_mark is None else f"line {problem.problem_mark.line + 1}: "
        raise yaml.YAMLError(f"{place}{problem.problem or problem.context}") from None
    except yaml.reader.ReaderError as problem:
        raise yaml.YAMLError(f"{problem.reason} at character {problem.position}") from None
    except (ValueError, LookupError) as problem:  # a date or a number that does not exist
        raise yaml.YAMLError(f"a value cannot be read, {first_line(problem)}") from None


class _PlainLoader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.YAMLError("references (& and *) are not taken, write the values out")
        self.depth += 1
        if self.depth > _DEPTH:
            raise yaml.YAMLError(f"it is nested more than {_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def expanded(path: Any) -> Path:
    """A path whose ``~`` or ``~name`` is the home folder, which shells leave as it is in ``key=~/folder``.

    Raises:
        ValueError: there is no such user, or it is no path.
    """
    try:
        return Path(path).expanduser()
    except (RuntimeError, TypeError) as problem:
        raise ValueError(f"{path!r} is no path ({problem})") from None


UserPath = Annotated[Path, BeforeValidator(expanded)]
"""A path of the user's, where ``~`` is the home folder."""


@dataclass(frozen=True)
class Described:
    """One setting of a tree, ready to be shown."""

    key: str
    """Its path in the tree, ``group.setting``."""
    value: Any
    """Value in this tree, as JSON."""
    default: Any
    """Value if none is given, as JSON; None also if one must be given."""
    type: str
    text: str
    """Meaning of the setting."""
    group: bool = False
    """Whether it is a group of settings, which follow."""


def describe(tree: Settings, group: str = "") -> Iterator[Described]:
    """Every setting of a tree, in order of definition; groups come before what is in them.

    The settings of a group are those of the class that the tree holds, where several are possible.
    """
    values = tree.model_dump(mode="json")
    defaults = type(tree).model_construct().model_dump(mode="json")
    for name, field in type(tree).model_fields.items():
        key, value = f"{group}{name}", getattr(tree, name)
        kind = type_name(field.annotation, *field.metadata)
        text = " ".join((field.description or "").split())
        if isinstance(value, Settings):
            yield Described(key, None, None, kind, text, group=True)
            yield from describe(value, f"{key}.")
        else:
            yield Described(key, values[name], defaults.get(name), kind, text)


def type_name(annotation: Any, *constraints: Any) -> str:
    """A type as a person would write it: ``int >= 1``, ``current | averaged``, ``path | null``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(*arguments)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " | ".join(type_name(one) for one in arguments)
    if arguments:
        return f"[{', '.join(type_name(one) for one in arguments if one is not ...)}]"
    name = "null" if annotation is NoneType else annotation.__name__.removesuffix("Settings").lower()
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [limit for one in constraints for limit in getattr(one, "metadata", [one])]
    limits = [
        f"{sign} {getattr(one, at):g}" for one in found for at, sign in signs.items() if hasattr(one, at)
    ]
    return " ".join([name, *limits])


class Percentage(float):
    """A share in [0,1], written as ``50%``."""

    def __str__(self) -> str:
        return f"{self * 100:.10g}%"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return core_schema.no_info_plain_validator_function(
            cls.read,
            json_schema_input_schema=core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )

    @classmethod
    def read(cls, value: Any) -> Percentage:
        """The share that is written; ValueError where it is none from 0% to 100%."""
        if isinstance(value, cls):
            return value
        found = re.fullmatch(r"(\d+(\.\d+)?)%", value) if isinstance(value, str) else None
        if found is None or float(found[1]) > 100:
            example = f"{value * 100:g}%" if isinstance(value, float) and 0 <= value <= 1 else "50%"
            raise ValueError(f"{value!r} is no share: write it as {example}")
        return cls(float(found[1]) / 100)

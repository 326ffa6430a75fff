"""Exchangeable parts: a class with its settings, by a short name or as ``package.module:Class``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, ValidationError, field_validator

from rgsud_core.errors import PluginError, nearest
from rgsud_core.plugins import load
from rgsud_core.settings import Settings

Part = TypeVar("Part")


class PartSettings(Settings):
    """Settings of a part; its class is found by the name. Paths become absolute, for workers elsewhere."""

    name: str
    """Short name, or import path as `package.module:Class`."""

    @field_validator("*")
    @classmethod
    def _absolute(cls, value: Any) -> Any:
        return value.resolve() if isinstance(value, Path) else value


class AnySettings(PartSettings):
    """Settings of a class that declares none: handed on as they are, as keyword arguments."""

    model_config = ConfigDict(extra="allow")


class PartError(ValueError):
    """Settings of a part that are not valid; ``problem`` says which."""

    def __init__(self, problem: ValidationError) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Kind(Generic[Part]):
    """One kind of part: derainers, methods, sources of rain.

    A part is a class; its attribute ``Settings`` is a subclass of :class:`PartSettings`, and its first
    argument an instance of that. A class without it gets its settings as keyword arguments.

    Args:
        noun: the kind, as messages call it.
        base: what its classes are subclasses of.
        known: short names, and where their classes are.
        default: the name where settings are given without one.
    """

    def __init__(
        self, noun: str, base: type[Part], known: dict[str, str], default: str | None = None
    ) -> None:
        self.noun, self.base, self.known, self.default = noun, base, known, default

    def find(self, name: str) -> Any:
        """The class of that name.

        Raises:
            ValueError: an unknown short name (the message gives the nearest known one), or no such class.
            PluginError: an import path that leads nowhere.
        """
        if ":" not in name and name not in self.known:
            raise ValueError(f"unknown {self.noun} '{name}': {nearest(name, self.known)}")
        found = load(self.known.get(name, name))
        if not (isinstance(found, type) and issubclass(found, self.base)):
            base = f"{self.base.__module__}.{self.base.__qualname__}"
            raise ValueError(f"'{name}' is no {self.noun}: name a subclass of {base}")
        return found

    def settings(self, given: Any) -> Any:
        """Settings of the class that they name, from a name, a mapping, or settings; raises ValueError."""
        if isinstance(given, PartSettings):
            return given
        if not isinstance(given, str | dict):
            raise ValueError(f"{given!r} is no {self.noun}: give its name, or a mapping with its settings")
        tree = {"name": given} if isinstance(given, str) else dict(given)
        name = tree.setdefault("name", self.default)
        if not isinstance(name, str):
            raise ValueError(f"a {self.noun} has a name: {', '.join(self.known)}, or an import path")
        try:
            return getattr(self.find(name), "Settings", AnySettings).model_validate(tree)
        except PluginError as problem:  # as a fault of the setting, which is then named
            raise ValueError(str(problem)) from None
        except ValidationError as problem:
            raise PartError(problem) from None

    def build(self, settings: PartSettings, *arguments: Any) -> Part:
        """A part with its settings, and what else its class takes."""
        found = self.find(settings.name)
        if isinstance(settings, AnySettings):
            built: Part = found(*arguments, **(settings.model_extra or {}))
        else:
            built = found(settings, *arguments)
        return built

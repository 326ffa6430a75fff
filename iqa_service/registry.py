"""The registry of scorers: one address names any of them.

    local:daclip-lite                               by name, in this process; daclip-lite means the same
    local:daclip?views=tiles&precision=bfloat16     with options
    local:musiq                                     any metric of pyiqa (``pip install 'rgsud[metrics]'``)
    mypackage.myfile:MyScorer?model=w.st            anybody's class by import path, also after local:
    local:ensemble?of=daclip-lite(views=centre),niqe&reference=FILE
                                                    a value may hold scorers, their options in brackets
    serve:iqa, http://HOST:8000                     a scorer that runs elsewhere

A scorer is a class (or a function that returns one) that keeps to
:class:`~iqa_service.scorers.base.ScoreBackend`. The parameters of its ``__init__`` are the options that the
address may give: one without a default is required, and its annotation (``int``, ``Literal[...]``,
``Annotated[float, Field(ge=0)]``, ...) decides what is valid, so that a scorer parses no text. An option
whose annotation has a ``Path`` in it is a path, see :func:`absolute`. One file holds all of it; a line in
``_LOCAL`` gives it a short name. Modules are imported when their scorer is opened.

A scorer that runs elsewhere has a line in ``_SCHEMES``; its opener is given what follows the colon (for
http and https, the whole address) as its first argument, positional-only.

Every scorer has the option ``consistency``, see :class:`~iqa_service.scorers.consistency.ConsistentBackend`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import ConfigDict, Field, ValidationError, create_model

from iqa_service.errors import ScorerError
from rgsud_core.addresses import absolute_address, parse_address
from rgsud_core.errors import PluginError, RgsudError, first_line, nearest
from rgsud_core.plugins import load

if TYPE_CHECKING:
    from iqa_service.scorers.base import ScoreBackend

_LOCAL = {
    "daclip-lite": "iqa_service.scorers.daclip_iqa:open_lite",
    "daclip": "iqa_service.scorers.daclip_iqa:open_released",
    "daclip-mix": "iqa_service.scorers.daclip_iqa:open_mix",
    "ensemble": "iqa_service.scorers.ensemble:EnsembleBackend",
    "oracle": "iqa_service.scorers.baselines:OracleBackend",
    "latest": "iqa_service.scorers.baselines:LatestBackend",
    "random": "iqa_service.scorers.baselines:RandomBackend",
}
_SCHEMES = {
    "serve": "iqa_service.serving.ray_client:open_handle",
    "http": "iqa_service.serving.http_client:open_http",
    "https": "iqa_service.serving.http_client:open_http",
}
_ANY_METRIC = "iqa_service.scorers.pyiqa_metrics:open_metric"
"""Opens every other name after ``local:``; called with it, and with the names of this registry."""
_MEMBERS = ("name", "fingerprint", "views", "score", "score_views", "close")
"""What every scorer must have."""


def open_scorer(spec: str) -> ScoreBackend:
    """The scorer that an address names; see this module for the addresses.

    Raises:
        ScorerError: the address names no scorer (the nearest known one is given), has an unknown, missing or
            malformed option, or the scorer cannot be opened.
    """
    name, options = parse_address(spec, ScorerError)
    penalty = {key: options.pop(key) for key in ("consistency",) if key in options}
    opener = _find_opener(name)
    backend = _open(opener, name, _checked(opener, name, options, "consistency"))
    if penalty:
        from iqa_service.scorers.consistency import ConsistentBackend

        backend = ConsistentBackend(backend, **_checked(_consistency, name, penalty))
    return backend


def has_place(spec: str) -> bool:
    """Whether an address says where the scorer runs (``local:``, ``serve:``, ``http:``); default: here."""
    scheme, colon, _ = spec.partition("?")[0].partition(":")
    return bool(colon) and scheme in ("local", *_SCHEMES)


def by_import_path(spec: str) -> bool:
    """Whether an address is an import path, ``package.module:Class``, with or without ``local:``."""
    name = spec.partition("?")[0].removeprefix("local:")
    return ":" in name and (spec.startswith("local:") or not has_place(name))


def absolute(spec: str) -> str:
    """The address with its paths made absolute, for a process with another working directory.

    Paths are the options whose annotation has a ``Path`` in it; a value with ``://`` is none.

    Raises:
        ScorerError: the address names no scorer.
    """
    name = spec.partition("?")[0]

    def is_path(option: str) -> bool:
        parameter = _parameters(_find_opener(name), name).get(option)
        return parameter is not None and _mentions_path(parameter.annotation)

    return absolute_address(spec, is_path)


def known_scorers() -> list[str]:
    """The addresses of all scorers that have a name of their own."""
    return [f"local:{name}" for name in _LOCAL]


def _find_opener(name: str) -> Callable[..., Any]:
    scheme, target = name.split(":", 1) if has_place(name) else ("local", name)
    if scheme in _SCHEMES:
        opener: Callable[..., Any] = load(_SCHEMES[scheme])
        return partial(opener, name if scheme.startswith("http") else target)
    if target in _LOCAL:
        found: Callable[..., Any] = load(_LOCAL[target])
        return partial(found, open_scorer) if target == "ensemble" else found
    if by_import_path(name):
        try:
            opener = load(target)
        except PluginError as problem:
            hint = nearest(name, [*known_scorers(), *(f"{known}:" for known in _SCHEMES)])
            also = f"; {hint}" if hint.startswith("did you mean") else ""
            raise ScorerError(f"unknown scorer: {problem}{also}") from problem
        if not callable(opener):
            raise ScorerError(f"'{name}' is no scorer but a {type(opener).__name__}: name a class")
        return opener
    if target:
        return partial(load(_ANY_METRIC), target, known_scorers())
    raise ScorerError(f"unknown scorer '{name}': {nearest(name, known_scorers())}")


def _open(opener: Callable[..., Any], name: str, options: Mapping[str, Any]) -> ScoreBackend:
    try:
        backend: ScoreBackend = opener(**options)
    except RgsudError:
        raise
    except Exception as problem:
        if not by_import_path(name):
            raise  # a fault of ours
        raise ScorerError(
            f"'{name}' cannot be opened: {type(problem).__name__} ({first_line(problem)})"
        ) from problem
    if missing := [member for member in _MEMBERS if not hasattr(backend, member)]:
        raise ScorerError(
            f"'{name}' is no scorer, it lacks {', '.join(missing)}: make it a subclass of "
            "iqa_service.scorers.base.ScoreBackend and set name and fingerprint"
        )
    return backend


def _consistency(consistency: Annotated[float, Field(ge=0, allow_inf_nan=False)]) -> None:
    """Declares the option that every scorer has."""


def _parameters(opener: Callable[..., Any], name: str) -> dict[str, inspect.Parameter]:
    try:
        parameters = inspect.signature(opener, eval_str=True).parameters
    except (NameError, TypeError, ValueError) as problem:
        raise ScorerError(
            f"the options of '{name}' cannot be read ({first_line(problem)}): import what their annotations "
            "need when the program runs"
        ) from problem
    only = inspect.Parameter.POSITIONAL_ONLY
    return {key: parameter for key, parameter in parameters.items() if parameter.kind is not only}


def _mentions_path(annotation: Any) -> bool:
    if isinstance(annotation, type):
        return issubclass(annotation, Path)
    return any(_mentions_path(part) for part in get_args(annotation))


def _checked(opener: Callable[..., Any], name: str, options: Mapping[str, str], *also: str) -> dict[str, Any]:
    """The options as the opener's annotations have them; ``also`` names more that a typo may mean."""
    parameters = _parameters(opener, name)
    rest = {key for key, parameter in parameters.items() if parameter.kind is inspect.Parameter.VAR_KEYWORD}
    named = {key: parameter for key, parameter in parameters.items() if key not in rest}
    # Options that the opener takes as **options go to it as text, see open_metric.
    others = {key: value for key, value in options.items() if rest and key not in named}
    given = {key: value for key, value in options.items() if key not in others}
    for option in given:
        if option not in named:
            raise ScorerError(f"unknown option '{option}' of '{name}': {nearest(option, [*named, *also])}")
    fields: dict[str, Any] = {}
    for option, parameter in named.items():
        required = parameter.default is inspect.Parameter.empty
        if required and option not in given:
            raise ScorerError(f"'{name}' needs the option '{option}': write {name}?{option}=...")
        annotation = str if parameter.annotation is inspect.Parameter.empty else parameter.annotation
        fields[option] = (annotation, ... if required else parameter.default)
    try:
        valid = create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)(**given)
    except ValidationError as error:
        first = error.errors()[0]
        problem = first["msg"][0].lower() + first["msg"][1:]
        raise ScorerError(
            f"option '{first['loc'][0]}' of '{name}' is '{given[str(first['loc'][0])]}': {problem}"
        ) from error
    return {**{option: getattr(valid, option) for option in given}, **others}

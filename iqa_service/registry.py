"""The registry of scorers: one string names any of them.

    local:daclip-lite                               by its name, in this process; daclip-lite means the same
    local:daclip?views=tiles&precision=bfloat16     with options
    local:musiq                                     any metric of pyiqa (``pip install 'rgsud[metrics]'``)
    local:ensemble?of=daclip-lite(views=centre),niqe&reference=FILE
                                                    a value may hold scorers, their options in brackets
    serve:iqa, http://HOST:8000                     a scorer that runs elsewhere

A new scorer is one file in this package and one line in ``_LOCAL``: NAME -> "module:opener". The opener is a
function (or class) that returns a :class:`~iqa_service.scorers.backends.ScoreBackend`. Its parameters are
the options that the string may give: one without a default is required, and its annotation (``int``,
``Literal[...]``, ``Annotated[float, Field(ge=0)]``, ...) says what is valid, so that an opener reads no text.
The module is imported when its scorer is first asked for, never before.

A scorer that runs elsewhere has a line in ``_SCHEMES``; its opener is given what follows the colon (for
http and https, the whole address) as its first argument, positional-only.

Every scorer has the option ``consistency``, see :class:`~iqa_service.scorers.consistency.ConsistentBackend`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

from pydantic import ConfigDict, Field, ValidationError, create_model

from iqa_service.errors import ScorerError
from rgsud_core.errors import nearest

if TYPE_CHECKING:
    from iqa_service.scorers.backends import ScoreBackend

_LOCAL = {
    "daclip-lite": "iqa_service.scorers.backends:open_lite",
    "daclip": "iqa_service.scorers.backends:open_released",
    "daclip-mix": "iqa_service.scorers.backends:open_mix",
    "cnniqa-live": "iqa_service.scorers.cnniqa:CnniqaBackend",
    "ensemble": "iqa_service.scorers.ensemble:EnsembleBackend",
    "oracle": "iqa_service.scorers.baselines:OracleBackend",
    "latest": "iqa_service.scorers.baselines:LatestBackend",
    "random": "iqa_service.scorers.baselines:RandomBackend",
}
_SCHEMES = {
    "serve": "iqa_service.serving.client:open_handle",
    "http": "iqa_service.serving.client:open_http",
    "https": "iqa_service.serving.client:open_http",
}
_ANY_METRIC = "iqa_service.scorers.pyiqa_metrics:open_metric"
"""Opens what ``local:`` knows by no name of its own; like the schemes', it is given the name."""


def open_scorer(spec: str) -> ScoreBackend:
    """The backend that a string names; see this module for how to write one.

    Raises:
        ScorerError: the string names no backend (the nearest known one is given), has an unknown, missing or
            malformed option, or the backend cannot be opened.
    """
    name, options = parse_spec(spec)
    penalty = {key: options.pop(key) for key in ("consistency",) if key in options}
    opener = _find_opener(name)
    backend: ScoreBackend = opener(**_checked(opener, name, options, "consistency"))
    if penalty:
        from iqa_service.scorers.consistency import ConsistentBackend

        backend = ConsistentBackend(backend, **_checked(_consistency, name, penalty))
    return backend


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """The name and the options, each as text, of NAME?OPTION=VALUE&OPTION=VALUE.

    Brackets hold text together: an ``&`` within them separates nothing. %XX stands for any character, as in
    addresses.

    Raises:
        ScorerError: an option is given twice or without a value, or a bracket has no counterpart.
    """
    name, _, query = spec.partition("?")
    options: dict[str, str] = {}
    for part in split_outside_brackets(query, "&") if query else []:
        key, equals, value = part.partition("=")
        if not equals or key in options:
            problem = "is given twice" if equals else "has no value"
            raise ScorerError(f"option '{key}' of '{name}' {problem}: write {name}?{key}=...")
        options[key] = unquote(value)
    return name, options


def split_outside_brackets(text: str, separator: str) -> list[str]:
    """The parts of a text between the separators that stand in no round brackets.

    Raises:
        ScorerError: a bracket has no counterpart.
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth != 0:
        raise ScorerError(f"a bracket in '{text}' has no counterpart: add it, or write %28 or %29 in a path")
    return parts


def has_place(spec: str) -> bool:
    """Whether a scorer's string says where it runs; where it does not, that is this process."""
    return ":" in spec.partition("?")[0]


def known_scorers() -> list[str]:
    """The names of all scorers that this package holds itself."""
    return [f"local:{name}" for name in _LOCAL]


def _find_opener(name: str) -> Callable[..., Any]:
    scheme, target = name.split(":", 1) if has_place(name) else ("local", name)
    if scheme in _SCHEMES:
        return partial(_load(_SCHEMES[scheme]), name if scheme.startswith("http") else target)
    if scheme == "local" and target in _LOCAL:
        return _load(_LOCAL[target])
    if scheme == "local" and target:
        return partial(_load(_ANY_METRIC), target)
    raise ScorerError(f"unknown scorer '{name}': {nearest(name, known_scorers())}")


def _load(place: str) -> Callable[..., Any]:
    module, _, attribute = place.partition(":")
    opener: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return opener


def _consistency(consistency: Annotated[float, Field(ge=0, allow_inf_nan=False)]) -> None:
    """How the option that every scorer has is validated."""


def _checked(opener: Callable[..., Any], name: str, options: Mapping[str, str], *also: str) -> dict[str, Any]:
    """The options as the opener's annotations have them; ``also`` names more that may be meant by a typo."""
    parameters = {
        key: parameter
        for key, parameter in inspect.signature(opener, eval_str=True).parameters.items()
        if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY
    }
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(options)  # the opener knows itself what it takes, see open_metric
    for option in options:
        if option not in parameters:
            raise ScorerError(
                f"unknown option '{option}' of '{name}': {nearest(option, [*parameters, *also])}"
            )
    fields: dict[str, Any] = {}
    for option, parameter in parameters.items():
        required = parameter.default is inspect.Parameter.empty
        if required and option not in options:
            raise ScorerError(f"'{name}' needs the option '{option}': write {name}?{option}=...")
        fields[option] = (parameter.annotation, ... if required else parameter.default)
    try:
        valid = create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)(**options)
    except ValidationError as error:
        first = error.errors()[0]
        problem = first["msg"][0].lower() + first["msg"][1:]
        raise ScorerError(
            f"option '{first['loc'][0]}' of '{name}' is '{options[str(first['loc'][0])]}': {problem}"
        ) from error
    return {option: getattr(valid, option) for option in options}

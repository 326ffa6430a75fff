"""Addresses of scorers and pools: NAME?OPTION=VALUE&OPTION=VALUE.

Brackets hold text together: an ``&`` within them separates nothing. %XX stands for any character, as in URLs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

from rgsud_core.errors import RgsudError


def parse_address(address: str, error: type[RgsudError] = RgsudError) -> tuple[str, dict[str, str]]:
    """The name and the options, each as text.

    Args:
        error: what is raised where an option is given twice or without a value, or a bracket is unbalanced.
    """
    name, _, query = address.partition("?")
    options: dict[str, str] = {}
    for part in split_outside_brackets(query, "&", error) if query else []:
        key, equals, value = part.partition("=")
        if not equals or key in options:
            problem = "is given twice" if equals else "has no value"
            shown = re.sub("//[^/]*@", "//", name)  # without a password
            raise error(f"option '{key}' of '{shown}' {problem}: write {shown}?{key}=...")
        options[key] = unquote(value)
    return name, options


def path_in_address(path: Path) -> str:
    """A path as an address takes it, ``embedded:PATH`` for example."""
    return str(path).replace("%", "%25").replace("?", "%3F")


def split_outside_brackets(text: str, separator: str, error: type[RgsudError] = RgsudError) -> list[str]:
    """The parts of a text between the separators that are not in round brackets.

    Args:
        error: what is raised where a bracket has no counterpart.
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
        raise error(f"a bracket in '{text}' has no counterpart: add it, or write %28 or %29 in a path")
    return parts


def absolute_address(address: str, is_path: Callable[[str], bool]) -> str:
    """The address for a process with another working directory.

    Args:
        is_path: whether an option, by its name, is a path; a value with ``://`` is left as it is.

    Raises:
        RgsudError: a bracket has no counterpart.
    """
    name, mark, query = address.partition("?")
    parts = split_outside_brackets(query, "&")
    for index, part in enumerate(parts):
        key, equals, value = part.partition("=")
        if equals and "://" not in value and is_path(key):
            parts[index] = f"{key}={quote(str(Path(unquote(value)).expanduser().resolve()))}"
    return name + mark + "&".join(parts)

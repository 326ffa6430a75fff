"""Parts of other people's packages, by import path: ``package.module:Name``."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from rgsud_core.errors import PluginError, first_line, nearest


def load(place: str) -> Any:
    """The class or function at ``package.module:Name``.

    The working directory is searched last, so that a file there needs no installation and shadows nothing.

    Raises:
        PluginError: there is no such module, it fails while it is imported, or it has no such attribute (the
            nearest one is given).
    """
    module_name, _, attribute = place.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise PluginError(f"'{place}' is no import path: write package.module:Name")
    here = _working_directory()
    if here is not None and not {here, ""} & set(sys.path):
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise PluginError(f"'{place}' cannot be imported ({error}): install what it needs") from error
        raise PluginError(
            f"'{place}' cannot be imported, there is no module '{error.name}': install it, or put the folder "
            f"that holds it on PYTHONPATH (searched are that, the environment, and {here or 'no more'})"
        ) from error
    except Exception as error:  # the module is not ours, and may fail in any way
        raise PluginError(
            f"'{place}' cannot be imported, {module_name} fails with {type(error).__name__} "
            f"({first_line(error)}): see `python -c 'import {module_name}'`"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise PluginError(f"{module_name} has no '{attribute}': {nearest(attribute, public)}") from None


def search_path() -> str:
    """PYTHONPATH for processes that shall find the modules that this one finds, Ray's workers for example.

    Holds the folders of ``sys.path`` outside the Python installation, absolute, and the working directory.
    """
    installed = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    here = _working_directory()
    entries = [entry for entry in (*sys.path, here) if entry and (here or os.path.isabs(entry))]
    folders = dict.fromkeys(Path(entry).resolve() for entry in entries)
    return os.pathsep.join(
        str(folder) for folder in folders if folder.is_dir() and not installed & {folder, *folder.parents}
    )


def _working_directory() -> str | None:
    """The folder that the process works in; None if it is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None

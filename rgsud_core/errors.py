"""The base of every error that is shown to a user, and the errors of libraries in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RgsudError(RuntimeError):
    """One or more sentences that name the thing and say what to do; shown without a traceback."""


class FileError(RgsudError):
    """A file or folder that cannot be read or written."""


class PluginError(RgsudError):
    """A part given by import path cannot be imported."""


class ServiceError(RgsudError):
    """A service cannot be started with these settings."""


class StorageError(RgsudError):
    """An object store, or a folder used as one, cannot be used."""


class StorageFull(StorageError):
    """The disk below a storage is full."""


class StorageMissing(StorageError):
    """There is no object of that key."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint about an unknown word: the nearest known one, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known) or 'none'}"


def first_line(problem: BaseException) -> str:
    """The first line of an error of the system or of a library, without its full stop."""
    text = (getattr(problem, "strerror", None) or str(problem)).strip()
    return text.splitlines()[0].rstrip(".") if text else type(problem).__name__


def last_line(problem: BaseException | str) -> str:
    """The last line that is not blank: of output, or of an error whose text ends a traceback, as Ray's do."""
    lines = [line for line in str(problem).splitlines() if line.strip()]
    nothing = problem if isinstance(problem, str) else type(problem).__name__
    return lines[-1].strip() if lines else nothing.strip()

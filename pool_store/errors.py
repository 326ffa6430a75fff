"""Errors of the pool, as sentences for a person; a service maps the class to a status."""

from __future__ import annotations

from rgsud_core.errors import RgsudError


class PoolError(RgsudError):
    """One sentence that names the thing and the remedy. The class itself is for bad input."""


class PoolUnavailable(PoolError):
    """The pool's server or its storage is unavailable at the moment."""


class PoolFull(PoolUnavailable):
    """The disk or the server's memory is full; nothing is lost, and it serves again when there is room."""


class PoolMissing(PoolError):
    """There is no such pool, entry or image."""


class PoolConflict(PoolError):
    """The pool belongs to another scorer, or keeps another number of candidates."""


class PoolDamaged(PoolError):
    """A stored image is damaged."""

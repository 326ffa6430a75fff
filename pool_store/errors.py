"""What goes wrong with a pool, as sentences for a person; the class says what a service should answer."""

from __future__ import annotations

from rgsud_core.errors import RgsudError


class PoolError(RgsudError):
    """One sentence that names the thing and the remedy: as such for bad input, or of a kind below."""


class PoolUnavailable(PoolError):
    """The pool's server or its storage does not serve at the moment."""


class PoolFull(PoolUnavailable):
    """The disk or the server's memory is full: it serves again, nothing lost, when there is room."""


class PoolMissing(PoolError):
    """There is no such pool, entry or image."""


class PoolConflict(PoolError):
    """The pool is another scorer's, or is kept in another way."""


class PoolDamaged(PoolError):
    """An image is not any more what was stored."""

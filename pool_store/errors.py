"""What goes wrong with a pool, as sentences for a person; the class says what a service should answer."""

from __future__ import annotations


class PoolError(RuntimeError):
    """One sentence that names what is wrong and says what to do. As such, or of one of the kinds below."""


class Unavailable(PoolError):
    """The pool's server or its storage does not serve at the moment."""


class Missing(PoolError):
    """There is no such pool, entry or image."""


class Conflict(PoolError):
    """The pool is another scorer's, or is kept in another way."""

"""The one error class of the pool."""


class PoolError(RuntimeError):
    """The pool cannot do what was asked; the message is one sentence that names the thing and the remedy."""

"""The one error class of the scorer."""


class ScorerError(RuntimeError):
    """The scorer cannot do what was asked; its message names the thing and the remedy."""

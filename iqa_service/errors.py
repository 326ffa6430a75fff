"""The error classes of the scorer."""

from __future__ import annotations

from rgsud_core.errors import RgsudError


class ScorerError(RgsudError):
    """Scoring failed, or its input is bad; the message names the cause and the remedy."""


class ScorerAway(ScorerError):
    """The scorer's service does not answer."""


class ScorerBusy(ScorerError):
    """The scorer's service has no room at the moment.

    Args:
        scorer: name of the scorer, for the message.
        retry_after: seconds after which to try again.
    """

    def __init__(self, scorer: str, retry_after: float) -> None:
        super().__init__(f"{scorer} has no room: come back in {retry_after:g} s, or give it more replicas")
        self.retry_after = retry_after

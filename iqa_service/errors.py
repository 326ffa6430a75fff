"""The error classes of the scorer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ScorerError(RuntimeError):
    """The scorer cannot do what was asked; its message names the thing and the remedy."""


class ScorerAway(ScorerError):
    """The scorer's service does not answer."""


class ScorerBusy(ScorerError):
    """The scorer's service has no room at the moment.

    Args:
        scorer: which one.
        retry_after: seconds after which asking again is welcome.
    """

    def __init__(self, scorer: str, retry_after: float) -> None:
        super().__init__(f"{scorer} has no room: come back in {retry_after:g} s, or give it more replicas")
        self.retry_after = retry_after


def nearest(word: str, known: Iterable[str]) -> str:
    """What to say of an unknown word: the known one that it resembles, or all that are known."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known) or 'none'}"


def first_line(problem: BaseException) -> str:
    """What an error of the system or of a library says, in one line."""
    text = (getattr(problem, "strerror", None) or str(problem)).strip()
    return text.splitlines()[0] if text else type(problem).__name__

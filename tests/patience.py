"""How long tests wait before they give up: so long that a machine ten times slower passes them too.

They wait for events, so that one that is well takes no longer for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

PATIENCE = 1800.0
"""Seconds for one event."""


def wait_until(happened: Callable[[], object], otherwise: str | Callable[[], str]) -> None:
    """Look again until it has happened, or fail with the message."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            pytest.fail(otherwise if isinstance(otherwise, str) else otherwise())
        time.sleep(0.02)

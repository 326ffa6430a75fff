"""The order of the tests, and the signal that some of them send."""

from __future__ import annotations

import signal

import pytest


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and so would the programs of the tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of whole systems come first: they take longest, and side by side no process should end late."""
    items.sort(key=lambda item: "system" not in item.path.parts)

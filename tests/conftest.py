"""The order of the tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of whole systems come first: they take longest, and side by side no process should end late."""
    items.sort(key=lambda item: "system" not in item.path.parts)

"""The command, called as a shell calls it."""

from __future__ import annotations

import sys

import pytest

from rgsud import cli


def rgsud(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["rgsud", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0

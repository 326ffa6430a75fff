"""What the pages of results have in common."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path


def commit() -> str:
    """Short name of the measured commit."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    folder = Path(__file__).parent
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False).stdout.strip()


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def fill(template: str, page: Path, **values: object) -> None:
    """Write a page: the text of ``templates/TEMPLATE`` with its fields, as str.format has them, filled in."""
    page.write_text((Path(__file__).parent / "templates" / template).read_text().format(**values))


def table(heads: Sequence[object], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    head, *rest = (f"| {' | '.join(map(str, cells))} |" for cells in (heads, *lines))
    return "\n".join((head, f"|{'---|' * len(heads)}", *rest))


def in_bytes(count: float) -> str:
    """A number of bytes to three digits: 1.76 TB."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:,.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} PB"


def duration(seconds: float) -> str:
    """A duration in the unit that fits: 2.5 days."""
    for unit, size in (("s", 60), ("min", 60), ("h", 24), ("days", 365)):
        if seconds < size:
            return f"{seconds:,.1f} {unit}"
        seconds /= size
    return f"{seconds:,.1f} years"

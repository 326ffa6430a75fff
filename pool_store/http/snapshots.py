"""Format of snapshots over HTTP: a JSON object a line, first settings and counters, then minutes and entries.

Lines, since parsing or writing one large JSON value would block all other threads meanwhile.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pool_store.errors import PoolError

MEDIA_TYPE = "application/x-ndjson"
_LINE = 256 << 10
"""Longest line in bytes; an entry with 64 candidates and 64 replacements takes some 30 KB."""
_CHUNK = 64 << 10


def in_chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines joined to parts that are worth sending."""
    chunk = bytearray()
    for line in lines:
        chunk += line + b"\n"
        if len(chunk) > _CHUNK:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


def write(state: Mapping[str, Any]) -> Iterator[bytes]:
    """The lines of what `Pool.dump` gives."""
    meta = dict(state["meta"])
    timeline = meta.pop("timeline", {})
    yield json.dumps({"meta": meta}).encode()
    for kind, items in (("minute", timeline), ("id", state["entries"])):
        for name, value in items.items():
            yield json.dumps({kind: name, "value": value}).encode()


def read(body: bytes) -> dict[str, Any]:
    """What `Pool.dump` gave, its form not yet checked; PoolError where these are no such lines."""
    meta: dict[str, Any] = {}
    timeline: dict[str, Any] = {}
    entries: dict[str, Any] = {}
    for number, line in enumerate(io.BytesIO(body), start=1):
        try:
            match json.loads(line) if len(line) <= _LINE else None:
                case {"meta": dict(found)}:
                    meta = found
                case {"minute": str(minute), "value": value}:
                    timeline[minute] = value
                case {"id": str(id), "value": value}:
                    entries[id] = value
                case _:
                    raise ValueError
        except (ValueError, RecursionError):
            raise PoolError(
                f"line {number} is none of a dump of a pool: restore what a dump gave, unchanged"
            ) from None
    return {"meta": meta | {"timeline": timeline}, "entries": entries}

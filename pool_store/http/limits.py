"""Limits of one client of the pool's service."""

from __future__ import annotations

from pydantic import Field

from rgsud_core.http import limits

IDS_A_REQUEST = 4096
OFFERS_A_REQUEST = 1024
IMAGES_A_REQUEST = 64
ENTRIES_A_PAGE = 500
PREVIEW_WIDTHS = (16, 1024)
"""Narrowest and widest preview, in pixels."""


class Limits(limits.Limits):
    """Limits of the pool's service: `body` is that of one image or one archive."""

    json_body: int = Field(5 << 20, ge=1)
    """Largest JSON body in bytes, which has room for the longest ids."""
    dump: int = Field(64 << 20, ge=1)
    """Largest snapshot to restore, in bytes: an entry takes about 700, and ten times as much memory."""
    pixels: int = Field(40_000_000, ge=1)
    """Largest image in pixels, which is decoded alone; smaller ones together at most half as many."""

    def of(self, path: str) -> int:
        """Largest body of a request to `path`: only images and snapshots may be long."""
        match path.split("/"):
            case ["", "v1", "pools", _, "dump"]:
                return self.dump
            case ["", "v1", "pools", _, "blobs" | "sources", *_]:
                return self.body
            case _:
                return min(self.json_body, self.body)

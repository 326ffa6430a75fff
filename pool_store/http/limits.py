"""How much one client may ask for."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Message, Receive, Scope

from pool_store.http.problems import Problem

IDS_A_REQUEST = 4096
OFFERS_A_REQUEST = 1024
IMAGES_A_REQUEST = 64
ENTRIES_A_PAGE = 500
PREVIEW_WIDTHS = (16, 1024)
"""Narrowest and widest preview, in pixels."""
STALLED_SECONDS = 30.0
"""For how long a body may pause."""
_ADDRESSES = 10_000
"""Clients whose rate is remembered, the latest ones."""


class Limits(BaseModel):
    """What the service takes; sizes in bytes, rate in requests per second and client address."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body: int = Field(64 << 20, ge=1)
    """Of one image or one batch."""
    dump: int = Field(2 << 30, ge=1)
    """Of a snapshot to restore: about 500 B an entry."""
    pixels: int = Field(40_000_000, ge=1)
    """Of one image; checked before it is decoded."""
    rate: float = Field(2000.0, gt=0)
    decoders: int = Field(4, ge=1)
    """Images decoded at a time, which bounds the memory that uploads take."""


class TokenBucket:
    """`rate` requests a second for each client address, twice as many at once."""

    def __init__(self, rate: float) -> None:
        self._rate, self._burst = rate, 2 * rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Takes a token; the seconds until there will be one where there is none, else 0."""
        now = time.monotonic()
        tokens, then = self._buckets.pop(address, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        allowed = tokens >= 1
        self._buckets[address] = (tokens - allowed, now)
        if len(self._buckets) > _ADDRESSES:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._rate


def limited(scope: Scope, receive: Receive, limit: int) -> Receive:
    """`receive` that ends in a 413 after `limit` bytes, whether the client says its length or not, and in a
    408 where the body stops to come."""
    total, complete = 0, False
    too_large = Problem(413, f"the body is larger than {limit} bytes: send less at a time")
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    if not announced.isdigit() or int(announced) > limit:
        raise too_large

    async def counted() -> Message:
        nonlocal total, complete
        if complete:  # what comes now is only that the client has gone
            return await receive()
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                message = await receive()
        except TimeoutError:
            raise Problem(408, f"nothing came for {STALLED_SECONDS:g} s: send the body again") from None
        complete = not message.get("more_body", False)
        total += len(message.get("body", b""))
        if total > limit:
            raise too_large
        return message

    return counted

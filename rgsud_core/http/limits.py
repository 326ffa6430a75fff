"""Limits of a service: size and rate of requests, and memory held at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field
from starlette.types import Message, Receive, Scope

from rgsud_core.http.problems import Problem
from rgsud_core.settings import Settings

STALLED_SECONDS = 30.0
"""For how long a body may pause, or a client may leave an answer unread."""
SLOWEST = 16 << 10
"""Bytes per second below which a body is given up, once it has taken STALLED_SECONDS."""
HEAD_SECONDS = 10.0
"""Time that a connection has for the complete head of a request."""
HEAD_BYTES = 32 << 10
"""Largest sum of the header fields of a request."""
VALUES = 1 << 15
"""Most values and containers in a JSON body: twice those of 1,024 offers."""
_ADDRESSES = 10_000
"""Clients whose rate is remembered, the latest ones."""


class Limits(Settings):
    """Limits of a service; sizes in bytes."""

    body: int = Field(64 << 20, ge=1)
    """Largest body of a request."""
    bodies: int = Field(96 << 20, ge=1)
    """Bytes of bodies held at a time, over all requests; a single one may be larger if its own limit is."""
    rate: float = Field(2000.0, gt=0)
    """Requests per second of one client address."""
    requests: int = Field(128, ge=1)
    """Requests answered at a time; health answers come on top."""
    connections: int = Field(512, ge=2)
    """Open connections. Beyond, the one that has been silent for the longest time is closed."""

    def of(self, path: str) -> int:
        """Largest body of a request to `path`."""
        return self.body


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


class Load:
    """Number of requests in progress, and the bytes of their bodies."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.requests = 0
        self.bytes = 0

    def begin(self) -> Body:
        """Counts one more request; Problem 503 where there are too many."""
        if self.requests >= self._limits.requests:
            raise Problem(503, f"{self.requests} requests are being answered already: come back later")
        self.requests += 1
        return Body(self, self._limits.bodies)


class Body:
    """The body of one request, counted against its own limit and against what is held of all bodies."""

    def __init__(self, load: Load, shared: int) -> None:
        self._load, self._shared = load, shared
        self._size = 0

    def end(self) -> None:
        """Counts the request no more."""
        self._load.requests -= 1
        self._load.bytes -= self._size

    def limited(self, scope: Scope, receive: Receive, limit: int) -> Receive:
        """`receive` that raises Problem: 413 after `limit` bytes, with or without a content-length,
        408 where the body stalls, 503 where too much is held of other bodies."""
        too_large = Problem(413, f"the body is larger than {limit} bytes: send less at a time")
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"0")
        if {b"content-length", b"transfer-encoding"} <= headers.keys():  # proxies may disagree on its end
            raise Problem(400, "send either Content-Length or Transfer-Encoding")
        if not announced.isdigit() or int(announced) > limit:
            raise too_large
        began, complete = time.monotonic(), False

        async def counted() -> Message:
            nonlocal complete
            if complete:  # what comes now is only that the client has gone
                return await receive()
            left = began + STALLED_SECONDS + self._size / SLOWEST - time.monotonic()
            try:
                async with asyncio.timeout(min(STALLED_SECONDS, left)):
                    message = await receive()
            except TimeoutError:
                rule = f"nothing came for {STALLED_SECONDS:g} s, or less than {SLOWEST} bytes a second"
                raise Problem(408, f"{rule}: send the body again") from None
            complete = not message.get("more_body", False)
            length = len(message.get("body", b""))
            self._size += length
            self._load.bytes += length
            if self._size > limit:
                raise too_large
            if self._size < self._load.bytes > self._shared:
                raise Problem(503, "the service holds too many bodies at the moment: come back later")
            return message

        return counted


class PixelBudget:
    """Limits the pixels that are decoded at a time, and with them the memory that images take.

    Args:
        pixels: decoded at a time; an image that is larger is decoded alone.
    """

    def __init__(self, pixels: int) -> None:
        self._free = self._all = pixels
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Waits for room for so many pixels; to be held once at a time by each thread."""
        pixels = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()

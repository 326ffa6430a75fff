"""What an entry costs in Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pool_store.schemas import Offer

ENTRIES = 100_000


@pytest.mark.slow
@pytest.mark.parametrize(("place", "most"), [("embedded", 200), ("redis_tcp", 250)])
def test_an_entry_costs_few_bytes(
    request: pytest.FixtureRequest, make_offer: Callable[..., Offer], place: str, most: int
) -> None:
    backend: Any = request.getfixturevalue(place)
    pool = backend.open(spec=f"{backend.spec}?fsync=everysec" if place == "embedded" else "")
    client = pool.server.client
    empty = client.info("memory")["used_memory"]
    first, second = make_offer(pool, "a", 0.0, 1), make_offer(pool, "a", 0.0, 2)
    # Entered once, improved once: nothing may be left of the past but what is kept for a while.
    for offer, base in ((first, 0.0), (second, 1.0)):
        for start in range(0, ENTRIES, 1000):
            numbers = range(start, start + 1000)
            pool.offer_many(
                [
                    offer.model_copy(
                        update={"id": f"rain-{number:05d}", "log_odds": base + number % 997 / 1000}
                    )
                    for number in numbers
                ]
            )
    pool.sweep(0)
    stats = pool.stats()
    assert (stats.entries, stats.replacements) == (ENTRIES, 2 * ENTRIES)
    assert (client.info("memory")["used_memory"] - empty) / ENTRIES <= most

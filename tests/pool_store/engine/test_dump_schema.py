"""A dump from elsewhere is looked at before anything of the pool is given up for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from pool_store.errors import PoolError
from pool_store.schemas import Offer

Change = Callable[[dict[str, Any]], object]


def _meta(**fields: Any) -> Change:
    return lambda dump: dump["meta"].update(fields)


def _entry(**fields: Any) -> Change:
    return lambda dump: dump["entries"]["a"].update(fields)


def _candidate(**fields: Any) -> Change:
    return lambda dump: dump["entries"]["a"]["candidates"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda dump: dump.clear(), "meta"),
        (lambda dump: dump.update(other=1), "other"),
        (lambda dump: dump["meta"].pop("format"), "meta.format"),
        (_meta(offers="many"), "meta.offers"),
        (_meta(offers=-1), "meta.offers"),
        (_meta(buckets="7"), "there is no counter 'buckets'"),
        (_meta(sum="nan"), "meta.sum"),
        (_meta(sum="x"), "meta.sum"),
        *((_meta(rewards=text), "meta.rewards") for text in ("1_0", "١", " 1 ", "1\n", "1e999", "0x1", "+1")),
        *((_meta(offers=text), "meta.offers") for text in ("١", "1 ", "1\n", "1" * 16)),
        *((_meta(size=text), "meta.size") for text in ("0", "-1", "007", "1" * 16, "9" * 400, "1e9", 7)),
        *((_meta(keep=text), "meta.keep") for text in ("١", "02", "", "2.0")),
        *((_meta(history=text), "meta.history") for text in ("١", "x")),
        *((_meta(sum=text), "meta.sum") for text in ("1e300", "-1e61", "9" * 99)),
        (_meta(**{"stage:١:offers": "1"}), "there is no counter"),
        (_meta(**{"stage:01:offers": "1"}), "there is no counter"),
        (_meta(histogram={"68": -1}), "meta.histogram.68"),
        *((_meta(histogram={bin: 1}), f"meta.histogram.{bin}") for bin in ("128", "007", "١", "-1")),
        *(
            (_meta(timeline={minute: {"offers": 1, "replacements": 1}}), "meta.timeline")
            for minute in ("0", "9" * 12)
        ),
        (_meta(timeline={"now": {"offers": 1, "replacements": 1}}), "meta.timeline.now"),
        (_meta(timeline={"1": "2 3"}), "meta.timeline.1"),
        (_entry(replacements=2**24), "entries.a.replacements"),
        (_entry(candidates=[]), "entries.a.candidates"),
        (_entry(history=[{}]), "entries.a.history.0"),
        (_candidate(log_odds=float("nan")), "entries.a.candidates.0.log_odds"),
        (_candidate(log_odds=1e39), "entries.a.candidates.0.log_odds"),
        (_candidate(log_odds=-9.0), "not in order"),
        (
            lambda dump: dump["entries"]["a"]["candidates"].append(dump["entries"]["a"]["candidates"][-1]),
            "twice",
        ),
        (
            lambda dump: dump["entries"]["a"]["candidates"].append(
                {**dump["entries"]["a"]["candidates"][-1], "digest": "0" * 64}
            ),
            "'a' has more candidates than 2",
        ),
        (_candidate(digest="../../etc/passwd"), "entries.a.candidates.0.digest"),
        (
            lambda dump: dump["entries"].update({"../a": dump["entries"].pop("a")}),
            "'../a' cannot name an image",
        ),
    ],
)
def test_names_what_is_wrong_and_changes_nothing(
    tcp: Any, make_offer: Callable[..., Offer], change: Change, place: str
) -> None:
    pool = tcp.open(keep=2, history=2)
    for number in range(3):
        pool.offer(make_offer(pool, "a", float(number), number))
    good = pool.dump()
    dump = copy.deepcopy(good)
    change(dump)
    with pytest.raises(PoolError, match=place) as caught:
        pool.restore(dump)
    assert "\n" not in str(caught.value)
    assert pool.dump() == good
    pool.restore(good)
    assert pool.dump() == good

"""The model of the pipeline's throughput, against cases computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.plan_model import (
    PARTS,
    Costs,
    Job,
    fullest,
    largest_pool,
    loads,
    missed,
    needed,
    pass_samples,
    pass_seconds,
    rates,
    replaced_since,
    saturates_at,
)

COSTS = Costs(
    crops_per_s=2,
    candidate_s=2,
    gradient_bytes=100,
    network=200,
    scorings_per_s=4,
    view_bytes=10,
    decisions_per_s=36,
    service_per_s=9,
    entry_bytes=200,
    server_bytes=1e6,
    puts_per_s=0.1,
    gets_per_s=1,
    reward_bytes=20,
    decoded_bytes=100,
    entering=0.5,
)
ALL_CACHED = Job(images=100, gpus=1, reward_cache=1e9, image_cache=1e9)


def test_one_gpu_exchanges_nothing() -> None:
    # 4 steps of 4 / 2 s and 2 s of deraining: 10 s for 16 samples and 1 candidate.
    found = rates(ALL_CACHED, COSTS)
    assert found.samples == pytest.approx(1.6)
    assert found.candidates == pytest.approx(0.1)
    assert found.training_share == pytest.approx(0.8)
    assert found.puts == pytest.approx(0.05)
    assert found.pool_calls == pytest.approx(1.8)


def test_two_gpus_wait_for_the_exchange_in_every_step() -> None:
    # 2 * 1/2 * 100 bytes at 200 a second: half a second a step, so 12 s a cycle.
    found = rates(replace(ALL_CACHED, gpus=2), COSTS)
    assert found.samples == pytest.approx(2 * 16 / 12)
    assert found.candidates == pytest.approx(2 / 12)


def test_network_carries_gradients_rewards_images_and_views() -> None:
    job = replace(ALL_CACHED, gpus=2)
    found = rates(job, COSTS)
    rewards = found.samples * replaced_since(job, COSTS)  # the cache holds the others
    carried = (rewards + found.candidates * 1.5) * 20 + found.candidates * 10
    assert found.network_share == pytest.approx((4 * 100 / 12 + carried / 2) / 200)


@pytest.mark.parametrize(("cache", "share"), [(0, 1.0), (2500, 0.75), (1e4, 0.0), (1e9, 0.0)])
def test_a_cache_answers_for_what_it_holds(cache: float, share: float) -> None:
    assert missed(cache, images=100, decoded_bytes=100) == pytest.approx(share)


def test_without_caches_every_sample_reads_a_reward_and_two_images() -> None:
    found = rates(replace(ALL_CACHED, reward_cache=0, image_cache=0), COSTS)
    assert found.gets == pytest.approx(3 * found.samples + found.candidates)


def test_a_reward_is_likelier_to_be_replaced_the_rarer_a_worker_meets_it() -> None:
    # One candidate in 16 samples, half of them enter.
    assert replaced_since(ALL_CACHED, COSTS) == pytest.approx(1 / 32)
    assert replaced_since(replace(ALL_CACHED, gpus=2), COSTS) == pytest.approx(1 - (31 / 32) ** 2)


def test_loads_are_demand_over_what_one_can_do() -> None:
    found = loads(ALL_CACHED, COSTS)
    assert set(found) == set(PARTS)
    assert found["scorer"] == pytest.approx(0.1 / 4)
    assert found["Redis"] == pytest.approx(1.8 / 36)
    assert found["pool service"] == pytest.approx(0.2)
    assert found["object store PUTs"] == pytest.approx(0.5)
    assert found["Redis memory"] == pytest.approx(0.02)
    assert fullest(ALL_CACHED, COSTS) == ("object store PUTs", pytest.approx(0.5))


def test_needed_parts_are_whole_and_at_least_one() -> None:
    job = replace(ALL_CACHED, images=12_000)
    assert needed(job, COSTS)["Redis memory"] == 3  # 2.4 MB in servers of 1 MB
    assert needed(job, COSTS)["scorer"] == 1


def test_the_least_number_of_gpus_beyond_a_part() -> None:
    without_exchange = replace(COSTS, gradient_bytes=0)
    assert saturates_at(100, "pool service", without_exchange, 64) == 6  # 1.8 calls a GPU and second, of 9
    assert saturates_at(100, "pool service", without_exchange, 5) is None


def test_a_pass_takes_longer_with_more_images_and_as_many_samples_on_any_machines() -> None:
    assert pass_seconds(ALL_CACHED, COSTS) == pytest.approx(1000)
    assert pass_samples(ALL_CACHED) == pass_samples(replace(ALL_CACHED, gpus=7)) == 1600


def test_one_server_holds_what_fits_its_memory() -> None:
    assert largest_pool(COSTS) == 5000

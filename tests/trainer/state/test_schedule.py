import pytest

from trainer.config import ScheduleSettings
from trainer.state.schedule import Progress, learning_rate


@pytest.mark.parametrize(("samples", "rate"), [(0, 1.0), (25, 0.8536), (50, 0.5), (100, 0.0), (104, 0.0)])
def test_cosine_falls_from_one_to_nothing(samples: int, rate: float):
    schedule = ScheduleSettings(samples=100, learning_rate="cosine")
    assert learning_rate(schedule, Progress(samples=samples)) == pytest.approx(rate, abs=1e-4)


def test_cosine_follows_time_where_time_ends_the_run():
    schedule = ScheduleSettings(samples=10**6, seconds=60, learning_rate="cosine")
    assert learning_rate(schedule, Progress(samples=10, seconds=30)) == pytest.approx(0.5)


def test_constant_by_default():
    assert learning_rate(ScheduleSettings(samples=100), Progress(samples=99)) == 1

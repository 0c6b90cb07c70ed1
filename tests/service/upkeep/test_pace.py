"""The pace is that of the last half minute, and what nobody can tell is not told."""

import pytest

from perdure.service.upkeep.pace import SAMPLE_MS, WINDOW_MS, Pace


def paced(*samples):
    pace = Pace()
    for sample in samples:
        pace.note(*sample)
    return pace


@pytest.mark.parametrize(
    "samples",
    [[], [(0, 0)], [(0, 0), (1000, 0)], [(0, 5), (0, 9)], [(0, 5), (SAMPLE_MS - 1, 9)], [(0, 9), (1000, 9)]],
    ids=["none", "one", "nothing done", "same moment", "too close", "at a standstill"],
)
def test_nobody_can_tell_yet(samples):
    pace = paced(*samples)
    assert pace.per_s() is None
    assert pace.left_s(100) is None


def test_the_rest_at_this_pace_rounded_up():
    pace = paced((0, 0), (2000, 30))
    assert pace.per_s() == 15
    assert [pace.left_s(left) for left in (0, 1, 15, 16, 150)] == [0, 1, 1, 2, 10]


def test_a_slow_beginning_is_forgotten():
    slow = [(ms, ms // 1000) for ms in range(0, 600_000, 1000)]
    fast = [(600_000 + ms, 600 + ms) for ms in range(0, WINDOW_MS + 2000, 1000)]
    assert paced(*slow).per_s() == 1
    assert paced(*slow, *fast).per_s() == 1000


def test_a_standstill_shows_within_the_window():
    assert paced((0, 0), (1000, 1000), *((ms, 1000) for ms in range(2000, 2 * WINDOW_MS, 1000))).per_s() is None


def test_one_step_in_a_window_is_still_a_pace():
    """A low limit makes steps that are further apart than the window."""
    assert paced((0, 0), (WINDOW_MS * 2, 256)).per_s() == pytest.approx(256 / 60)


def test_however_often_it_is_told_it_keeps_few_samples():
    pace = paced(*((ms, ms) for ms in range(100_000)))
    assert len(pace._samples) <= WINDOW_MS // SAMPLE_MS + 2
    assert pace.per_s() == 1000

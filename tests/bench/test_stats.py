"""Medians, and ratios that are taken in each round before the median."""

import pytest

from bench import stats
from tests.bench.samples import run


def test_a_ratio_is_taken_within_each_round_and_not_between_medians():
    runs = {"w": {"a": [run(100), run(10), run(30)], "b": [run(50), run(5), run(90)]}}
    assert stats.ratio(runs, "w", "a", "b", "iops") == 2
    assert stats.median(runs, "w", "a", "iops") / stats.median(runs, "w", "b", "iops") == 0.6


def test_a_round_in_which_one_of_the_two_is_missing_counts_for_neither():
    runs = {"w": {"a": [run(100), run(10)], "b": [None, run(5)]}}
    assert stats.ratio(runs, "w", "a", "b", "iops") == 2


def test_nothing_measured_is_none_and_no_error():
    runs = {"w": {"a": [None], "b": [run(5)]}}
    assert stats.ratio(runs, "w", "a", "b", "iops") is None
    assert stats.ratio(runs, "w", "b", "nobody", "iops") is None
    assert stats.ratio(runs, "other", "a", "b", "iops") is None
    assert stats.median(runs, "w", "a", "iops") is None
    assert stats.median(runs, "w", "b", "no such key") is None


def test_a_peer_that_did_nothing_gives_no_ratio():
    assert stats.ratios([1.0, 1.0], [0.0, 2.0]) == [None, 0.5]


def test_ratios_between_two_kinds_of_work():
    runs = {"w": {"a": [run(100)]}, "v": {"b": [run(50)]}}
    assert stats.ratio(runs, "w", "a", "b", "iops", their_work="v") == 2


def test_medians_have_every_value_of_any_round():
    assert stats.medians([{"x": 1.0}, None, {"x": 3.0, "y": 5.0}]) == {"x": 2.0, "y": 5.0}
    assert stats.medians([None]) == {}


def test_percentiles_are_of_what_was_measured():
    ordered = [float(value) for value in range(1, 101)]
    assert (stats.percentile(ordered, 50), stats.percentile(ordered, 99), stats.percentile(ordered, 100)) == (
        50,
        99,
        100,
    )
    assert stats.percentile([7.0], 1) == 7.0
    with pytest.raises(ValueError, match="nothing"):
        stats.percentile([], 50)

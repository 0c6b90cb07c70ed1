"""docs/sizing.md: its tables are computed, its formulas are right, and its words agree with them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from docs import make_sizing
from docs.make_sizing import SHAPES, chance_at_once, chance_in_a_year, hours_to_loss, zones_survived

ROOT = Path(__file__).parents[2]


def test_the_tables_are_those_that_are_computed_now() -> None:
    text = make_sizing.PAGE.read_text()
    assert make_sizing.with_tables(text) == text, "run: make docs"


def test_the_plot_is_the_one_that_is_drawn_now(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    make_sizing.plot(tmp_path / "loss.svg")
    assert (tmp_path / "loss.svg").read_text() == make_sizing.PLOT.read_text(), "run: make docs"


@pytest.mark.parametrize(("k", "n"), SHAPES)
def test_the_mean_time_to_loss_is_that_of_the_chain_solved_as_equations(k: int, n: int) -> None:
    life, mend, states = 40.0, 5.0, n - k + 1
    rates = np.zeros((states, states))
    for gone in range(states):
        rates[gone, gone] -= (n - gone) / life
        if gone + 1 < states:
            rates[gone, gone + 1] = (n - gone) / life
        if gone:
            rates[gone, gone] -= 1 / mend
            rates[gone, gone - 1] = 1 / mend
    # The mean times until absorption t solve: rates t = -1.
    expected = np.linalg.solve(rates, -np.ones(states))[0]
    assert hours_to_loss(k, n, life, mend) == pytest.approx(expected, rel=1e-9)


def test_the_mean_time_to_loss_of_two_of_three_is_the_textbooks() -> None:
    failing, mending = 1 / 1000, 1 / 10
    assert hours_to_loss(2, 3, 1000, 10) == pytest.approx((5 * failing + mending) / (6 * failing**2))


def test_the_chance_of_too_many_at_once_is_what_drawing_gives() -> None:
    rng, count = random.Random(1), 100_000
    lost = sum(sum(rng.random() < 0.2 for _ in range(5)) > 2 for _ in range(count)) / count
    assert chance_at_once(3, 5, 0.2) == pytest.approx(lost, rel=0.05)
    assert chance_at_once(3, 5, 0.0) == 0
    assert chance_at_once(3, 5, 1.0) == 1


def test_no_shape_survives_a_zone_of_two_and_the_good_starts_survive_one_of_three() -> None:
    assert all(zones_survived(k, n, 2) == 0 for k, n in SHAPES)
    assert zones_survived(2, 3, 3) == zones_survived(3, 5, 3) == zones_survived(4, 6, 3) == zones_survived(5, 9, 3) == 1
    assert zones_survived(4, 7, 3) == 1
    assert zones_survived(5, 8, 3) == 1
    assert zones_survived(3, 5, 5) == 2


def test_a_day_instead_of_an_hour_costs_two_losses_a_factor_of_more_than_500() -> None:
    hour, day = (chance_in_a_year(3, 5, 180 * 24, mend) for mend in (1, 24))
    assert day / hour > 500


def test_a_figure_that_was_measured_is_the_benchmarks() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    assert f"| {make_sizing.rebuild_mib_s():g} |" in text
    (sentence,) = make_sizing.wire()
    assert any(
        f": perdure, TCP | {sentence.partition('included: ')[2].split()[0]} |" in line for line in text.splitlines()
    )


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(SystemExit, match="no place for the table shapes"):
        make_sizing.with_tables("# nothing here")

"""The simulator has teeth: defects put in by hand are found, each within a few seeds. `make sim-bugs` runs them all."""

from __future__ import annotations

import pytest

from perdure.sim.plan import FREEZES_EVERY, LEAKS_EVERY, SERVED_EVERY
from perdure.sim.run import describe, shortest, tell
from tests.sim import bugs

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # tasks that a crash ended early
SLOW = {
    bugs.a_flush_does_not_wait_for_what_is_behind,
    bugs.acknowledged_while_a_vote_is_under_way,
    bugs.applied_before_commit,
    bugs.a_link_of_any_seq_is_accepted,
    bugs.links_are_not_checked,
    bugs.a_spare_that_failed_is_never_tried_for_another_seat,
    bugs.spares_are_not_looked_for_by_a_mount,
}
SEEDS = 60
SERVED = range(SERVED_EVERY - 1, SEEDS * SERVED_EVERY, SERVED_EVERY)
FREEZES = range(FREEZES_EVERY - 1, SEEDS * FREEZES_EVERY, FREEZES_EVERY)
STORIES = {
    bugs.links_are_taken_for_evidence: range(LEAKS_EVERY - 1, SEEDS * LEAKS_EVERY, LEAKS_EVERY),
    bugs.a_record_is_said_to_be_kept_before_it_is_durable: SERVED,
    bugs.every_record_stands_at_the_start_of_the_ring: SERVED,
    bugs.a_mount_counts_records_anew: SERVED,
    bugs.the_oldest_records_are_looked_for_first: SERVED,
    bugs.a_spare_takes_the_seat_of_a_disk_that_is_offline: SERVED,
    bugs.silence_alone_ends_a_frozen_array: FREEZES,
    bugs.a_frozen_array_acknowledges_what_is_on_the_disks_that_answer: FREEZES,
    bugs.a_stop_does_not_give_in: FREEZES,
}
"""Where a defect needs stories that are few among the first."""


@pytest.mark.parametrize("bug", [bug for bug in bugs.BUGS if bug not in SLOW], ids=lambda bug: bug.__name__)
def test_a_bug_is_found(bug: bugs.Bug) -> None:
    _, outcome = bugs.first_failure(bug, STORIES.get(bug, range(SEEDS)))
    assert outcome is not None, f"{SEEDS} seeds passed"


def test_a_failing_seed_shrinks_to_a_few_lines_that_fail_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, outcome = bugs.first_failure(bugs.acknowledged_before_evidence, range(SEEDS))
    assert outcome is not None
    bugs.acknowledged_before_evidence(monkeypatch)
    numbers = shortest(outcome)
    again = tell(outcome.plan.only(numbers))
    lines = describe(outcome, numbers)
    assert again.failure is not None
    assert 0 < len(numbers) <= 8 < len(outcome.plan.steps) / 4, lines
    assert f"--only {','.join(map(str, numbers))} " in lines[-1]
    assert all(line.startswith("  t=") for line in lines[2:-1])

"""The simulator has teeth: defects put in by hand are found, each within a few seeds. `make sim-bugs` runs them all."""

from __future__ import annotations

import pytest

from perdure.sim.run import describe, shortest, tell
from tests.sim import bugs

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # tasks that a crash ended early
SLOW = {
    bugs.a_flush_does_not_wait_for_what_is_behind,
    bugs.acknowledged_while_a_vote_is_under_way,
    bugs.applied_before_commit,
}
SEEDS = 60


@pytest.mark.parametrize("bug", [bug for bug in bugs.BUGS if bug not in SLOW], ids=lambda bug: bug.__name__)
def test_a_bug_is_found(bug: bugs.Bug) -> None:
    _, outcome = bugs.first_failure(bug, range(SEEDS))
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

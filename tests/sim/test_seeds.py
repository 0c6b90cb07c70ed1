"""Seeds of the simulator: every promise holds, a seed is one story, and the stories hold what they should."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from perdure.sim.coverage import Coverage
from perdure.sim.plan import FAULTS, GEOMETRIES, REAL_EVIDENCE_EVERY, draw
from perdure.sim.run import Outcome, describe, run_seed
from perdure.sim.story import Story

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # tasks that a crash ended early
SEEDS = 100


@pytest.fixture(scope="module")
def outcomes() -> dict[int, Outcome]:
    return {}


@pytest.mark.parametrize("first", range(len(GEOMETRIES)), ids=lambda at: "{}-of-{}".format(*GEOMETRIES[at]))
def test_every_promise_holds(first: int, outcomes: dict[int, Outcome]) -> None:
    for seed in range(first, SEEDS, len(GEOMETRIES)):
        outcomes[seed] = outcome = run_seed(seed)
        # `make sim ARGS="--seed N"` makes it short.
        assert outcome.failure is None, "\n".join(describe(outcome, range(len(outcome.plan.steps))))


def test_the_seeds_above_saw_every_fault_and_nearly_all_pairs(outcomes: dict[int, Outcome]) -> None:
    if len(outcomes) < SEEDS:
        pytest.skip("not all seeds ran")
    coverage = Coverage(FAULTS)
    for outcome in outcomes.values():
        coverage.add(outcome.seen)
    assert set(FAULTS) == coverage.alone.keys()
    pairs = len(FAULTS) * (len(FAULTS) - 1) // 2
    assert len(coverage.never) < pairs // 20, coverage.summary()


def test_a_third_of_the_seeds_let_a_disk_join_and_some_erase_and_scrub(outcomes: dict[int, Outcome]) -> None:
    if len(outcomes) < SEEDS:
        pytest.skip("not all seeds ran")
    told = Counter(kind for outcome in outcomes.values() for kind in outcome.told)
    begun = sum("join" in outcome.seen for outcome in outcomes.values())
    assert begun >= 0.3 * SEEDS
    assert told["joined"] >= 0.2 * SEEDS
    assert told["erasures"] >= 0.03 * SEEDS  # 0.08 over 500 seeds, but few among the first
    assert told["scrubs"] >= 0.03 * SEEDS


def test_the_history_spares_and_freezing_come_into_the_seeds_above(outcomes: dict[int, Outcome]) -> None:
    """Of 50 stories as a service has them, 25 freeze."""
    if len(outcomes) < SEEDS:
        pytest.skip("not all seeds ran")
    told = Counter(kind for outcome in outcomes.values() for kind in outcome.told)
    seen = Counter(kind for outcome in outcomes.values() for kind in outcome.seen)
    assert told["records kept"] >= 40
    assert told["records found"] >= 40
    assert told["histories that went round"] >= 15
    assert seen["spare"] >= 25
    assert told["replace done"] >= 25
    assert seen["taken offline"] >= 5
    assert told["rejoin done"] >= 3
    assert seen["freeze"] >= 10
    assert told["operations that outlasted a freeze"] >= 5
    assert told["fenced while frozen"] >= 1
    assert seen["stop while frozen"] >= 1


def test_an_array_that_keeps_no_history_has_neither_spares_nor_an_operator() -> None:
    """So these stories are what they were before there was any of it."""
    plain, served = draw(0).setup, draw(1).setup
    assert (plain.ring, plain.spares, plain.freezes) == (0, 0, False)
    assert served.ring >= 8
    assert served.spares
    assert [seed for seed in range(12) if draw(seed).setup.freezes] == [3, 7, 11]


@pytest.mark.parametrize("seed", [3, 4])
def test_a_seed_replays_exactly(seed: int) -> None:
    first, second = run_seed(seed), run_seed(seed)
    assert first.digest == second.digest
    assert len(first.trace) > 50


def test_a_seed_is_the_same_story_in_every_process() -> None:
    command = [sys.executable, "-m", "perdure.sim.run", "--seed", "7"]
    runs = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1
    assert "1 passed, 0 failed" in runs.pop()


def test_a_plan_is_drawn_before_anything_happens_and_reads_as_sentences() -> None:
    plan = draw(1)
    assert plan == draw(1)
    assert [timed.at_ms for timed in plan.steps] == sorted(timed.at_ms for timed in plan.steps)
    assert all(str(timed).startswith("t=") and " object at " not in str(timed) for timed in plan.steps)


def test_some_stories_have_documents_in_the_real_format_and_are_the_same_each_time() -> None:
    seed = REAL_EVIDENCE_EVERY - 1
    plan = draw(seed)
    assert plan.setup.real_evidence
    traces = []
    for _ in range(2):
        story = Story(plan.setup, plan.steps)
        story.run()
        traces.append(story.trace)
        assert len(story.proofs.believed) > 20
        assert all(document[:1] in b"\xd2\x84" and len(document) > 1000 for document in story.proofs.believed)
    assert traces[0] == traces[1]

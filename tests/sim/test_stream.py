"""Stories as lines of JSON, for `perdure simulate`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from perdure.sim.plan import CHAINS_EVERY, FAULTS, draw
from perdure.sim.run import Outcome, run_seed
from perdure.sim.stream import CRASHES, LIES, LOSSES, NETWORK, seeds, to_json

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # tasks that a crash ended early
NEITHER = {
    *("join", "erase", "scrub", "two mains", "hidden disks", "late evidence", "acknowledgement chains"),
    *("spare", "taken offline", "brought online", "freeze", "stop while frozen"),
}
"""What happens in stories and is no fault, or is counted elsewhere."""


def run(*words: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perdure.sim.stream", *words]
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=100)


def test_every_kind_of_fault_is_counted_once() -> None:
    kinds = [*CRASHES, *LOSSES, *LIES, *NETWORK, *NEITHER]
    assert sorted(kinds) == sorted(FAULTS)


def test_a_story_is_a_line_of_numbers() -> None:
    outcome = run_seed(7)
    value = json.loads(json.dumps(to_json(outcome)))
    assert (value["seed"], value["failure"]) == (7, None)
    assert value["mounts"] == outcome.told["mounts"] > 0
    assert value["crashes"] == sum(outcome.seen[kind] for kind in CRASHES)


def test_a_failure_is_in_its_line() -> None:
    outcome = run_seed(7)
    broken = Outcome(outcome.plan, "Violation: P1", [], "", outcome.seen, outcome.told, outcome.reached)
    assert to_json(broken)["failure"] == "Violation: P1"


def test_with_chains_every_story_has_them_and_keeps_its_seed() -> None:
    first = [seed for seed, _ in zip(seeds(10, chains=True), range(5), strict=False)]
    assert first == [11, 14, 17, 20, 23]
    assert all(draw(seed).setup.has_chains for seed in first)
    assert next(seeds(10, chains=False)) == 10
    assert CHAINS_EVERY == 3


def test_so_many_stories_are_told_and_are_the_same_each_time() -> None:
    once, again = run("--first", "3", "--count", "2"), run("--first", "3", "--count", "2")
    assert once.returncode == 0
    assert once.stdout == again.stdout
    assert [json.loads(line)["seed"] for line in once.stdout.splitlines()] == [3, 4]


def test_without_a_fixed_order_of_hashes_nothing_is_told() -> None:
    done = run("--count", "1", hash_seed="1")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "PYTHONHASHSEED" in done.stderr

"""Seeds of the simulator: every promise holds, and a seed is one story."""

from __future__ import annotations

from collections import Counter

import pytest

from perdure.sim.run import run_seed
from perdure.sim.world import GEOMETRIES

SEEDS = 60


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    return Counter()


@pytest.mark.parametrize("first", range(len(GEOMETRIES)), ids=lambda at: "{}-of-{}".format(*GEOMETRIES[at]))
def test_every_promise_holds(first: int, seen: Counter[str]) -> None:
    for seed in range(first, SEEDS, len(GEOMETRIES)):
        outcome = run_seed(seed)
        trace = "\n".join(outcome.trace[-60:])
        assert outcome.failure is None, f"seed {seed}: {outcome.failure}\n{trace}"
        seen.update(outcome.seen.keys())


def test_the_seeds_above_saw_trouble_of_every_kind(seen: Counter[str]) -> None:
    if not seen:
        pytest.skip("the seeds did not run")
    kinds = {
        "mounts", "flushes", "operations", "crash", "crash after FLUSH", "two mains", "pause", "silence", "dead disk",
        "broken connection", "blank restart", "altered replies", "lost replies", "repeated replies", "forged refusals",
        "forged plain answers", "replayed commands", "rewind by replay", "clone", "withheld disk", "hide at mount",
        "slow disk",
    }  # fmt: skip
    assert kinds <= seen.keys(), kinds - seen.keys()


@pytest.mark.parametrize("seed", [3, 4])
def test_a_seed_replays_exactly(seed: int) -> None:
    first, second = run_seed(seed), run_seed(seed)
    assert first.digest == second.digest
    assert len(first.trace) > 50

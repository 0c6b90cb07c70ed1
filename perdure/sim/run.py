"""`python -m perdure.sim.run --seeds 1000`: many seeds, and what was seen; `--seed N --trace`: one, to read.

The last line is `N passed, N failed`; exit code 1 when one failed. A failing seed is made short: its plan is printed
with all steps left out that the failure does not need, and how to tell it again.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import click

from perdure.sim.coverage import Coverage
from perdure.sim.plan import FAULTS, GEOMETRIES, Plan, draw
from perdure.sim.shrink import shrink
from perdure.sim.story import Story, small_everything

PROGRESS_SEEDS = 500


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one story came to; `failure` is None when every promise held."""

    plan: Plan
    failure: str | None
    trace: list[str]
    digest: str
    seen: Counter[str]
    told: Counter[str]
    reached: int
    """How many steps had been told when it ended."""


def tell(plan: Plan) -> Outcome:
    """One story, from the first disk to the last look."""
    failure = None
    with small_everything():
        story = Story(plan.setup, plan.steps)
        try:
            story.run()
        except Exception as error:  # whatever it is, it is this seed's failure
            where = traceback.extract_tb(error.__traceback__)[-1]
            failure = f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"
    return Outcome(plan, failure, story.trace, story.digest, story.seen, story.told, story.reached)


def run_seed(seed: int) -> Outcome:
    """The whole story of a seed."""
    return tell(draw(seed))


def shortest(outcome: Outcome) -> list[int]:
    """The numbers of the steps that a failing story needs to fail with the same kind of error."""
    assert outcome.failure is not None
    kind = outcome.failure.partition(":")[0]

    def fails(numbers: list[int]) -> bool:
        again = tell(outcome.plan.only(numbers)).failure
        return again is not None and again.startswith(kind)

    told = outcome.reached  # what comes later in the plan had not begun; as a rule it is not needed
    return shrink(told if fails(list(range(told))) else len(outcome.plan.steps), fails)


def describe(outcome: Outcome, numbers: Sequence[int]) -> list[str]:
    """A short failing plan, to read, and how to tell it again."""
    plan = outcome.plan
    k, n = plan.setup.k, plan.setup.n
    again = tell(plan.only(list(numbers)))
    only = ",".join(map(str, numbers)) or "none"
    return [
        f"seed {plan.setup.seed}, {k} of {n}: {again.failure}",
        f"{len(numbers)} of {len(plan.steps)} steps are enough:",
        *(f"  {plan.steps[at]}" for at in numbers),
        f'again: make sim ARGS="--seed {plan.setup.seed} --only {only} --trace"',
    ]


class Report:
    """What a run of many seeds has seen."""

    def __init__(self) -> None:
        self.coverage = Coverage(FAULTS)
        self.told: Counter[str] = Counter()
        self.stories_with: Counter[str] = Counter()
        self.times: Counter[str] = Counter()
        self.by_geometry: Counter[tuple[int, int]] = Counter()
        self.failed = 0
        self._start = time.process_time()

    @property
    def count(self) -> int:
        """Stories so far."""
        return self.by_geometry.total()

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.failed += outcome.failure is not None
        self.by_geometry[outcome.plan.setup.k, outcome.plan.setup.n] += 1
        self.told.update(outcome.told)
        self.stories_with.update(outcome.told.keys())
        self.times.update(outcome.seen)
        self.coverage.add(outcome.seen)

    def speed(self) -> str:
        """How fast it goes."""
        seconds = time.process_time() - self._start
        rates = ", ".join(f"{self.told[kind] / seconds:.0f} {kind}/s" for kind in ("mounts", "operations", "flushes"))
        return f"{self.count / seconds * 60:.0f} seeds a minute: {rates}, of processor time"

    def lines(self) -> list[str]:
        """The whole report."""
        told = sorted(self.told.items())
        return [
            *(
                f"{kind:36} in {self.coverage.alone[kind]:6} seeds, {self.times[kind]:7} times"
                for kind in sorted(FAULTS)
            ),
            *(f"{kind:36} in {self.stories_with[kind]:6} seeds, {count:7} times" for kind, count in told),
            *(f"{'{} of {}'.format(*geometry):36}    {self.by_geometry[geometry]:6} seeds" for geometry in GEOMETRIES),
            *self.coverage.summary(),
            self.speed(),
        ]


@click.command()
@click.option("--seeds", default=1000, help="How many.")
@click.option("--first", default=0, help="The first of them.")
@click.option("--seed", default=None, type=int, help="This one only.")
@click.option("--only", default="", help="With --seed: these steps of its plan only, by number; or `none`.")
@click.option("--trace", is_flag=True, help="Print plan and trace even when all is well.")
@click.option("--coverage", is_flag=True, help="Print for every pair of faults how many stories had both.")
@click.option("--shrink/--no-shrink", "shrinks", default=True, help="Make failing plans short.")
def main(seeds: int, first: int, seed: int | None, only: str, *, trace: bool, coverage: bool, shrinks: bool) -> None:
    """Run seeds of the simulator."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of bytes is part of a run
        os.execve(sys.executable, [sys.executable, "-m", "perdure.sim.run", *sys.argv[1:]], _repeatable())  # noqa: S606
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # tasks that a crash ended before they began
    report = Report()
    for one in range(first, first + seeds) if seed is None else (seed,):
        plan = draw(one)
        outcome = tell(plan.only([int(at) for at in only.split(",") if at != "none"]) if only else plan)
        report.add(outcome)
        if trace:
            click.echo("\n".join([*(f"{at:4} {timed}" for at, timed in enumerate(plan.steps)), *outcome.trace]))
        if outcome.failure is not None:
            click.echo(f"seed {one}: {outcome.failure}")
            if shrinks and not only:
                click.echo("\n".join(describe(outcome, shortest(outcome))))
        elif seed is not None:
            click.echo(f"seed {one}, trace {outcome.digest[:16]}: passed")
        if report.count % PROGRESS_SEEDS == 0:
            click.echo(f"{report.count} seeds, {report.failed} failed; {report.speed()}")
            sys.stdout.flush()
    if seed is None:
        click.echo("\n".join([*(report.coverage.table() if coverage else []), *report.lines()]))
    click.echo(f"{report.count - report.failed} passed, {report.failed} failed")
    sys.exit(1 if report.failed else 0)


def _repeatable() -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": "0"}


if __name__ == "__main__":
    main()

"""`python -m perdure.sim.run --seeds 1000`: many seeds, and what was seen; `--seed N --trace`: one, to read.

The last line is `N passed, N failed`; exit code 1 when one failed. A failing seed prints its number and its trace.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass

import click

from perdure.sim.faults import Trouble
from perdure.sim.world import GEOMETRIES, Simulation, small_entries


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed came to; `failure` is None when every promise held."""

    seed: int
    geometry: tuple[int, int]
    failure: str | None
    trace: list[str]
    digest: str
    seen: Counter[str]


def run_seed(seed: int) -> Outcome:
    """One story, from the first disk to the last look. The geometry follows from the seed too."""
    geometry = GEOMETRIES[seed % len(GEOMETRIES)]
    with small_entries():
        sim = Simulation(seed, *geometry)
        failure = None
        try:
            sim.run(Trouble(sim).story())
        except Exception as error:  # whatever it is, it is this seed's failure
            where = traceback.extract_tb(error.__traceback__)[-1]
            failure = f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"
    return Outcome(seed, geometry, failure, sim.trace, sim.digest, sim.seen)


def report(outcomes: int, seeds_with: Counter[str], totals: Counter[str], seconds: float) -> None:
    """How many seeds saw what, and how fast it went."""
    for kind, count in sorted(seeds_with.items()):
        click.echo(f"{kind:24} in {count:6} of {outcomes} seeds, {totals[kind]:8} times")
    rates = ", ".join(f"{totals[kind] / seconds:.0f} {kind}" for kind in ("mounts", "operations", "flushes"))
    click.echo(f"{outcomes / seconds * 60:.0f} seeds a minute; each second {rates}")


@click.command()
@click.option("--seeds", default=1000, help="How many.")
@click.option("--first", default=0, help="The first of them.")
@click.option("--seed", default=None, type=int, help="This one only.")
@click.option("--trace", is_flag=True, help="Print the trace even when all is well.")
def main(seeds: int, first: int, seed: int | None, trace: bool) -> None:
    """Run seeds of the simulator."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of bytes is part of a run
        os.execve(sys.executable, [sys.executable, "-m", "perdure.sim.run", *sys.argv[1:]], _repeatable())  # noqa: S606
    seeds_with, totals, failed = Counter[str](), Counter[str](), 0
    chosen = range(first, first + seeds) if seed is None else range(seed, seed + 1)
    start = time.monotonic()
    for one in chosen:
        outcome = run_seed(one)
        seeds_with.update(outcome.seen.keys())
        totals.update(outcome.seen)
        if outcome.failure is not None or trace:
            failed += outcome.failure is not None
            k, n = outcome.geometry
            click.echo("\n".join(outcome.trace))
            click.echo(f"seed {one} ({k} of {n}, trace {outcome.digest[:16]}): {outcome.failure or 'passed'}")
    report(len(chosen), seeds_with, totals, time.monotonic() - start)
    click.echo(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


def _repeatable() -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": "0"}


if __name__ == "__main__":
    main()

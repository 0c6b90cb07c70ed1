"""`python -m perdure.sim.stream --first N`: stories one after another, a line of JSON for each, as they are told.

For `perdure simulate`, which starts it: the product does not import its simulator. It ends after `--count` stories, or
when it is told to. The order of sets of bytes is part of a story, so PYTHONHASHSEED must be 0.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import count as numbers_from
from itertools import islice
from typing import Any, Final

import click

from perdure.sim.hosts import BlankRestart, Clones, Death, ReplayCommands, Rewind, ShowAgain, Withhold
from perdure.sim.liars import Duplicate, FlipBits, ForgePlainAnswers, ForgeRefusals, LeakedSecret, ReplayReplies
from perdure.sim.lives import Pause, When
from perdure.sim.network import BreakConnections, Delay, LoseReplies, Partition, Reorder, Silence
from perdure.sim.plan import CHAINS_EVERY
from perdure.sim.run import Outcome, run_seed

CRASHES: Final = frozenset(when.value for when in When)
LOSSES: Final = frozenset(one.kind for one in (BlankRestart, Death))
FORGERIES: Final = (Duplicate, FlipBits, ForgePlainAnswers, ForgeRefusals, LeakedSecret, ReplayReplies)
LIES: Final = frozenset(one.kind for one in (*FORGERIES, Clones, ReplayCommands, Rewind, ShowAgain, Withhold))
"""What hosts do that honest ones would not."""
NETWORK: Final = frozenset(
    one.kind for one in (BreakConnections, Delay, LoseReplies, Partition, Pause, Reorder, Silence)
)


def to_json(outcome: Outcome) -> dict[str, Any]:
    """One story in numbers: what happened in it, and how it failed, None if every promise held."""
    seen, told, setup = outcome.seen, outcome.told, outcome.plan.setup
    return {
        "seed": setup.seed,
        "k": setup.k,
        "n": setup.n,
        "failure": outcome.failure,
        **{name: told[name] for name in ("mounts", "operations", "flushes")},
        "crashes": _sum(seen, CRASHES),
        "losses": _sum(seen, LOSSES),
        "lies": _sum(seen, LIES),
        "network_faults": _sum(seen, NETWORK),
    }


def _sum(seen: Counter[str], kinds: frozenset[str]) -> int:
    return sum(seen[kind] for kind in kinds)


def seeds(first: int, *, chains: bool) -> Iterator[int]:
    """All from `first` on; with `chains` those whose FLUSHes may rest on acknowledgement chains."""
    return (seed for seed in numbers_from(first) if not chains or seed % CHAINS_EVERY == CHAINS_EVERY - 1)


@click.command()
@click.option("--first", default=0, help="The first seed.")
@click.option("--count", default=None, type=int, help="How many; without it there is no end.")
@click.option("--chains", is_flag=True, help="Only stories with acknowledgement chains.")
def main(first: int, count: int | None, *, chains: bool) -> None:
    """Tell stories."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        sys.exit("perdure.sim.stream: PYTHONHASHSEED must be 0, or no story could be told again")
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # tasks that a crash ended before they began
    for seed in islice(seeds(first, chains=chains), count):
        print(json.dumps(to_json(run_seed(seed))), flush=True)


if __name__ == "__main__":
    main()

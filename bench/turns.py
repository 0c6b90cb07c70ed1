"""Rounds in which every target does the same work in turn, so that whatever slows the machine slows all of them.

Nobody is always first: the order moves on by one each round. A target that cannot do a piece of work is left out
of it, by name, and the others go on.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack

from bench import processes, wire
from bench.model import Skip, Target, Values, Work, flat

Runs = dict[str, dict[str, list[Values | None]]]
Starters = Mapping[str, Callable[[], AbstractContextManager[Target]]]
FAILURES = (RuntimeError, OSError, subprocess.SubprocessError)
OVERHEAD_S = 0.8
"""What starting a client takes beside the time that it measures; only for saying how long is left."""


class Progress:
    """Lines on standard error: what runs, and about how long is left."""

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s

    def say(self, what: str, takes_s: float = 0) -> None:
        """Now comes `what`, which takes about so long."""
        left_s = max(self.left_s, takes_s)
        left = f"{left_s / 60:.0f} min" if left_s >= 90 else f"{left_s:.0f} s"
        print(f"[{left:>6} left] {what}", file=sys.stderr, flush=True)
        self.left_s -= takes_s


class Session:
    """What is started stays until the block ends; what cannot start is in `skipped`, with the reason."""

    def __init__(self, progress: Progress, skipped: dict[str, str]) -> None:
        self._stack = ExitStack()
        self._progress = progress
        self.skipped = skipped
        self.targets: list[Target] = []

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, starters: Starters) -> None:
        """Start each target, or note why not."""
        for name, starter in starters.items():
            self._progress.say(f"starting {name}")
            try:
                self.targets.append(self._stack.enter_context(starter()))
            except (Skip, *FAILURES) as error:
                skip(self.skipped, name, error)


def skip(skipped: dict[str, str], name: str, error: BaseException) -> None:
    """Note, and say, that something did not run."""
    skipped[name] = str(error)
    print(f"SKIPPED: {name}: {error}", file=sys.stderr, flush=True)


def duration_s(targets: Sequence[Target], works: Sequence[Work], rounds: int, seconds: float) -> float:
    """About how long `measure` takes."""
    return sum(target.takes(work) for target in targets for work in works) * rounds * (seconds + OVERHEAD_S)


def measure(
    session: Session,
    works: Sequence[Work],
    *,
    rounds: int,
    seconds: float,
    progress: Progress,
    each_round: Callable[[], None] = lambda: None,
) -> tuple[Runs, dict[str, dict[str, int]]]:
    """All rounds. The runs by work and target, and the memory of each target's roles at the end, in bytes."""
    runs: Runs = {}
    order = list(session.targets)
    for number in range(rounds):
        each_round()
        for work in works:
            for target in order:
                if target.takes(work) and f"{target.name}: {work.title}" not in session.skipped:
                    progress.say(f"round {number + 1} of {rounds}: {work.title}: {target.name}", seconds + OVERHEAD_S)
                    by_target = runs.setdefault(work.name, {})
                    by_target.setdefault(target.name, []).append(_run(session, target, work, seconds))
        order = order[1:] + order[:1]
    for by_target in runs.values():
        for results in by_target.values():
            results.extend([None] * (rounds - len(results)))  # left out after a failure
    return runs, {target.name: _memory(target) for target in session.targets}


def _run(session: Session, target: Target, work: Work, seconds: float) -> Values | None:
    roles = target.processes()
    before, links = _cpu(roles), _sent(target, roles)
    try:
        result = target.do(work, seconds)
    except (Skip, *FAILURES) as error:
        skip(session.skipped, f"{target.name}: {work.title}", error)
        return None
    after, now = _cpu(roles), _sent(target, roles)
    used = {role: after[role] - before[role] for role in roles}
    return flat(result, used, None if links is None or now is None else wire.between(links, now))


def _cpu(roles: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {role: processes.cpu_s(pids) for role, pids in roles.items()}


def _sent(target: Target, roles: Mapping[str, Sequence[int]]) -> dict[wire.Link, int] | None:
    if not target.has_tcp:
        return None
    try:
        return wire.sent(pid for pids in roles.values() for pid in pids)
    except (Skip, *FAILURES):
        return None


def _memory(target: Target) -> dict[str, int]:
    try:
        return {role: processes.rss_bytes(pids) for role, pids in target.processes().items()}
    except FAILURES:
        return {}


def timed(work: Callable[[], object]) -> float:
    """How many seconds it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

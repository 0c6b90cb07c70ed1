"""Breadth first over all states of a case, so that the first violation found has a shortest trace.

A state that was seen is remembered by its 64-bit hash only. Two states of one hash would be taken for one: with two
million states the odds of a single such pair are about one in ten million.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from model.decide import Decision
from model.network import Case
from model.promises import Violation, check, settle
from model.state import State, canonical, initial
from model.steps import Shown, Step, decisions, following

Decided = list[tuple[Shown, Decision | None]]


@dataclass
class Outcome:
    """What a search came to. Unless it is complete, `cut` states were seen that it did not go on from."""

    case: Case
    states: int = 0
    depth: int = 0
    cut: int = 0
    seconds: float = 0.0
    violation: Violation | None = None
    trace: list[tuple[Step, State]] = field(default_factory=list)
    """Steps, and the state after each; both in the numbers that disks had at the start."""

    @property
    def is_complete(self) -> bool:
        """Whether every state of the case was looked at."""
        return self.violation is None and not self.cut


class Search:
    """One case, one run."""

    def __init__(self, case: Case, states_max: int) -> None:
        self.case = case
        self.states_max = states_max
        self.first = initial(case.n, case.spares, degraded=case.degraded, admitted=case.admitted)
        self.parents: dict[int, int] = {hash(self.first): 0}
        self._unsettled: set[int] = set()
        self._decided: dict[int, tuple[Decided, Violation | None]] = {}

    def run(self) -> Outcome:
        """Look at every state, up to `states_max` of them, or up to the first violation."""
        started = time.monotonic()
        outcome = Outcome(self.case)
        violated = self._explore(outcome)
        if violated is not None:
            state, violation = violated
            outcome.trace, names = self._trace(hash(state))
            outcome.violation = violation._replace(disks=tuple(sorted(names[at] for at in violation.disks)))
        outcome.seconds = time.monotonic() - started
        return outcome

    def _explore(self, outcome: Outcome) -> tuple[State, Violation] | None:
        waiting = deque([(self.first, 0)])
        while waiting:
            state, outcome.depth = waiting.popleft()
            outcome.states += 1
            decided, violation = self._decide(state)
            if violation is not None:
                return state, violation
            own = hash(state)
            for _, raw in following(self.case, state, _different(state, decided)):
                before = canonical(raw)
                if (key := hash(before)) in self._unsettled:
                    continue
                self._unsettled.add(key)
                settled, violation = settle(self.case, before)
                after = canonical(settled)
                key = hash(after)
                if key in self.parents:
                    continue
                self.parents[key] = own
                if violation is not None:
                    return after, violation
                if len(self.parents) <= self.states_max:
                    waiting.append((after, outcome.depth + 1))
                else:
                    outcome.cut += 1
        return None

    def _decide(self, state: State) -> tuple[Decided, Violation | None]:
        """What mounts decide, and whether that is right; once for all states that show the same disks."""
        views = tuple([(disk.epoch > 0, *disk[1:6]) for disk in state.disks])
        key = hash((views, state.rosters, state.served, state.acked))
        if key not in self._decided:
            decided = list(decisions(self.case, state))
            self._decided[key] = decided, check(self.case, state, decided)
        return self._decided[key]

    def _trace(self, last: int) -> tuple[list[tuple[Step, State]], list[int]]:
        """The way to a state, and which of the first disks stands where in it."""
        path = [last]
        while self.parents[path[-1]]:
            path.append(self.parents[path[-1]])
        state, names, trace = self.first, list(range(len(self.first.disks))), []
        for key in path[-2::-1]:
            step, settled = self._step_to(state, key)
            disks = tuple(names[at] for at in step.disks)
            by_name = tuple(settled.disks[names.index(at)] for at in range(len(names)))
            trace.append((step._replace(disks=disks), settled._replace(disks=by_name)))
            order = sorted(range(len(names)), key=lambda at: settled.disks[at])
            names = [names[at] for at in order]
            state = canonical(settled)
        return trace, names

    def _step_to(self, state: State, key: int) -> tuple[Step, State]:
        decided, _ = self._decide(state)
        for step, raw in following(self.case, state, _different(state, decided)):
            settled, _ = settle(self.case, raw)
            if hash(canonical(settled)) == key:
                return step, settled
        raise AssertionError("a step cannot be found again")


def _different(state: State, decided: Decided) -> Iterable[tuple[Shown, Decision]]:
    """Each decision once that differs in more than the order of equal disks."""
    seen = set()
    for shown, decision in decided:
        kind = tuple([state.disks[at] for at in shown])
        if decision is not None and kind not in seen:
            seen.add(kind)
            yield shown, decision


def search(case: Case, *, states_max: int = 1 << 40) -> Outcome:
    """Look at every state of `case`, or at the first `states_max`."""
    return Search(case, states_max).run()

"""Every state of the labels that a few main programs can leave behind, and what the rules decide in each.

Main programs mount, propose, activate and remove as the rules say; each stops, or is slow, at any step, and its
commands reach a disk until a later one has opened that disk. In every state that comes of it, and for every set of
disks that a host may show, the real `choose_base` and `require_quorum` decide. What is checked:

- no decision starts from a roster older than one that was in force and may have acknowledged writes
- no roster comes into force after a newer one did, but one that the newer had adopted (then its owner is late: it
  learns that it activated, and can commit nothing)
- any k members of the roster last in force can mount, unless one of the disks shown was part of a newer roster's
  activation (the case that the rules leave stuck, rightly); and all disks together always can

A PROPOSE is taken to write the base as `current` beside the proposal as `next`. Without that, two mounts that crash
while they activate can leave an array that refuses to open though no disk is missing: the last test shows it.

Disks are interchangeable, so states that differ only by their order are one. Adding disks is not covered here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import pytest

from perdure.array.roster import Label, Roster, Version, choose_base, require_quorum
from perdure.errors import Unavailable

Number = tuple[int, int]
"""A roster's version: epoch and counter."""
Decide = Callable[[dict[bytes, Label], int], Roster]

GENESIS: Number = (1, 0)


class Disk(NamedTuple):
    epoch: int
    current: Number
    next: Number | None


class Main(NamedTuple):
    """A main program; `target` is what it proposes or activates, `acked` who answered in this phase."""

    epoch: int
    base: Number
    target: Number
    phase: str
    acked: frozenset[int]


class Shape(NamedTuple):
    """A roster: the rosters it comes from, its predecessor last, and its members."""

    line: tuple[Number, ...]
    members: frozenset[int]


class State(NamedTuple):
    disks: tuple[Disk, ...]
    mains: tuple[Main, ...]
    rosters: tuple[tuple[Number, Shape], ...]
    served: Number

    def shape(self, number: Number) -> Shape:
        return dict(self.rosters)[number]

    def signature(self, disk: int) -> tuple[object, ...]:
        """All that tells one disk from another."""
        member_of = tuple(disk in shape.members for _, shape in self.rosters)
        state = self.disks[disk]
        acked = tuple(disk in main.acked for main in self.mains)
        return state.epoch, state.current, state.next or (0, 0), member_of, acked

    def key(self) -> tuple[object, ...]:
        """The same for all states that differ only by the order of the disks."""
        rosters = tuple((number, shape.line) for number, shape in self.rosters)
        mains = tuple(main._replace(acked=frozenset()) for main in self.mains)
        return tuple(sorted(map(self.signature, range(len(self.disks))))), mains, rosters, self.served


def instance(disk: int) -> bytes:
    return bytes([disk + 1]) * 32


def version(number: Number) -> Version:
    return Version(number[0].to_bytes(16, "big"), number[1])


@lru_cache(maxsize=1 << 14)
def real_roster(number: Number, shape: Shape, n: int) -> Roster:
    seats = tuple(instance(disk) if disk in shape.members else None for disk in range(n))
    return Roster(version(number), version(shape.line[-1]), 0, 0, seats)


def labels_of(state: State) -> list[Label]:
    real = {number: real_roster(number, shape, len(state.disks)) for number, shape in state.rosters}
    return [Label(real[disk.current], real[disk.next] if disk.next else None) for disk in state.disks]


def by_the_rules(labels: dict[bytes, Label], k: int) -> Roster:
    base = choose_base(labels)
    require_quorum(base, labels, k)
    return base


class Violation(Exception):
    """A state in which a promise does not hold."""


class Exploration:
    """All states reachable with `mains_max` main programs after the creator, each removing `removals_max` times."""

    def __init__(
        self,
        k: int,
        n: int,
        mains_max: int,
        removals_max: int,
        *,
        decide: Decide = by_the_rules,
        writes_base: bool = True,
    ) -> None:
        self.k, self.n = k, n
        self.mains_max, self.removals_max = mains_max, removals_max
        self.decide = decide
        self.writes_base = writes_base
        self.visited: set[object] = set()
        self.refused = self.void = 0
        """How often a decision was to refuse, and how often it passed over a newer roster."""

    def run(self) -> int:
        """How many states there are. Raises Violation."""
        everyone = frozenset(range(self.n))
        creator = Main(1, GENESIS, GENESIS, "serve", frozenset())
        disks = (Disk(1, GENESIS, None),) * self.n
        waiting = [State(disks, (creator,), ((GENESIS, Shape(((0, 0),), everyone)),), GENESIS)]
        self.visited = {waiting[0].key()}
        while waiting:
            state = waiting.pop()
            bases = self.check(state)
            for following in self.steps(state, bases):
                key = following.key()
                if key not in self.visited:
                    self.visited.add(key)
                    waiting.append(following)
        return len(self.visited)

    # What must hold in every state ------------------------------------------------------------------------

    def check(self, state: State) -> dict[tuple[int, ...], Number]:
        """The base that each set of shown disks leads to, where it leads to one."""
        bases: dict[tuple[int, ...], Number] = {}
        numbers = {version(number): number for number, _ in state.rosters}
        labels = labels_of(state)
        signatures = [state.signature(disk) for disk in range(self.n)]
        seen: set[object] = set()
        for count in range(1, self.n + 1):
            for shown in combinations(range(self.n), count):
                kind = tuple(sorted(signatures[disk] for disk in shown))
                if kind in seen:
                    continue
                seen.add(kind)
                try:
                    base = self.decide({instance(disk): labels[disk] for disk in shown}, self.k)
                    bases[shown] = numbers[base.version]
                except Unavailable:
                    self.refused += 1
                    self.check_refusal(state, shown)
                else:
                    self.check_base(state, shown, bases[shown])
        return bases

    def check_base(self, state: State, shown: tuple[int, ...], base: Number) -> None:
        self.void += base < max(max(state.disks[d].current, state.disks[d].next or (0, 0)) for d in shown)
        if base < state.served:
            raise Violation(f"{shown} start from {base}, but {state.served} was in force: {state}")

    def check_refusal(self, state: State, shown: tuple[int, ...]) -> None:
        enough = len(state.shape(state.served).members & set(shown)) >= self.k
        activating = any(state.disks[disk].current > state.served for disk in shown)
        if len(shown) == self.n or (enough and not activating):
            raise Violation(f"{shown} cannot mount, though {state.served} was in force: {state}")

    # What main programs do --------------------------------------------------------------------------------

    def steps(self, state: State, bases: dict[tuple[int, ...], Number]) -> Iterator[State]:
        for at, main in enumerate(state.mains):
            if main.phase != "serve":
                yield from self.deliveries(state, at, main)
            yield from self.removals(state, at, main)
        if len(state.mains) <= self.mains_max:
            for shown, base in bases.items():
                yield self.mount(state, shown, base)

    def mount(self, state: State, shown: tuple[int, ...], base: Number) -> State:
        epoch = len(state.mains) + 1
        disks = tuple(disk._replace(epoch=epoch) if at in shown else disk for at, disk in enumerate(state.disks))
        shape = state.shape(base)
        new = Shape((*shape.line, base), shape.members & frozenset(shown))
        main = Main(epoch, base, (epoch, 0), "propose", frozenset())
        return self.tidy(state._replace(disks=disks), (*state.mains, main), ((epoch, 0), new))

    def deliveries(self, state: State, at: int, main: Main) -> Iterator[State]:
        """One command reaches one disk that nobody has opened since, and the answer comes back."""
        members = state.shape(main.target).members
        for number in members - main.acked:
            disk = state.disks[number]
            if disk.epoch != main.epoch:
                continue
            proposing = main.phase == "propose"
            if proposing and main.target[1] and disk.current != main.base:
                raise Violation(f"a main program that serves finds another roster than its own in force: {state}")
            current = main.base if self.writes_base else disk.current
            disk = Disk(main.epoch, current, main.target) if proposing else Disk(main.epoch, main.target, None)
            now = main._replace(acked=main.acked | {number})
            served = state.served
            if now.acked == members and proposing:
                now = main._replace(phase="activate", acked=frozenset())
            elif now.acked == members:
                now = Main(main.epoch, main.target, main.target, "serve", frozenset())
                served = max(main.target, state.served)
                if served != main.target and main.target not in state.shape(served).line:
                    raise Violation(f"{main.target} comes into force after {served}: {state}")
            disks = (*state.disks[:number], disk, *state.disks[number + 1 :])
            mains = (*state.mains[:at], now, *state.mains[at + 1 :])
            yield self.tidy(state._replace(disks=disks, served=served), mains)

    def removals(self, state: State, at: int, main: Main) -> Iterator[State]:
        """Give up some members: while serving, or because they died while they were asked to propose or activate."""
        counter = main.target[1]
        if counter == self.removals_max or (main.phase != "serve" and main.target[1] == 0):
            return  # a mount that loses a disk begins again, as another main program
        base = main.base if main.phase == "propose" else main.target
        members = state.shape(base).members
        for count in range(1, len(members) - self.k + 1):
            for gone in map(frozenset, combinations(sorted(members), count)):
                left = members - gone
                if main.phase != "serve" and not (main.acked >= left & state.shape(main.target).members):
                    continue  # it waits for all that still live
                target = (main.epoch, counter + 1)
                now = Main(main.epoch, base, target, "propose", frozenset())
                new = Shape((*state.shape(base).line, base), left)
                yield self.tidy(state, (*state.mains[:at], now, *state.mains[at + 1 :]), (target, new))

    def tidy(self, state: State, mains: tuple[Main, ...], *new: tuple[Number, Shape]) -> State:
        """Forget the rosters that nobody holds any more."""
        known = dict(state.rosters) | dict(new)
        held = {number for disk in state.disks for number in (disk.current, disk.next)} | {state.served}
        held |= {number for main in mains for number in (main.base, main.target)}
        rosters = tuple(sorted((number, shape) for number, shape in known.items() if number in held))
        return State(state.disks, mains, rosters, state.served)


@pytest.mark.parametrize(
    ("k", "n", "mains_max", "removals_max", "states_min"),
    [(2, 3, 2, 1, 9000), (3, 5, 1, 1, 4000), (3, 5, 2, 0, 2000)],
)
def test_no_state_leads_to_an_older_roster_or_closes_an_array_that_could_be_opened(
    k: int, n: int, mains_max: int, removals_max: int, states_min: int
) -> None:
    exploration = Exploration(k, n, mains_max, removals_max)
    assert exploration.run() > states_min
    assert exploration.refused
    assert exploration.void


def with_one_disk_less(labels: dict[bytes, Label], k: int) -> Roster:
    return by_the_rules(labels, k - 1)


def with_the_newest_never_void(labels: dict[bytes, Label], k: int) -> Roster:
    rosters = [roster for label in labels.values() for roster in (label.current, label.next) if roster is not None]
    base = max(rosters, key=lambda roster: roster.version)
    require_quorum(base, labels, k)
    return base


def with_the_oldest_in_force(labels: dict[bytes, Label], k: int) -> Roster:
    base = min((label.current for label in labels.values() if label.current), key=lambda roster: roster.version)
    require_quorum(base, labels, k)
    return base


@pytest.mark.parametrize("decide", [with_one_disk_less, with_the_newest_never_void, with_the_oldest_in_force])
def test_the_exploration_finds_what_is_wrong_with_a_weaker_rule(decide: Decide) -> None:
    with pytest.raises(Violation):
        Exploration(2, 3, 2, 1, decide=decide).run()


@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5)])
def test_a_proposal_that_leaves_void_rosters_in_place_can_close_a_whole_array(k: int, n: int) -> None:
    """B activates on disk 0 alone, C on all but disk 0: then both are void, and what they came from is forgotten."""
    everyone = tuple(range(n))
    with pytest.raises(Violation, match=re.escape(f"{everyone} cannot mount")):
        Exploration(k, n, 2, 0, writes_base=False).run()

"""What a mount decides from what disks show: the product's own functions, on rosters and heads made from a state."""

from __future__ import annotations

from enum import Enum
from functools import cache, lru_cache
from typing import Any, NamedTuple, cast

from model.state import COUNTERS, Disk, Log
from perdure.array import mount
from perdure.array.journal import EntryHeader, Head
from perdure.array.roster import Label, Roster, Version, choose_base, require_quorum
from perdure.errors import Unavailable


class Weak(Enum):
    """The rules, each weakened. Every one of these must make the search find a violation."""

    READ_BEFORE_OPEN = "what decides is read before OPEN"
    ONE_STEP = "a roster counts as soon as one disk has it: no proposal comes first"
    SERVE_AFTER_PROPOSE = "a main program serves once its roster is proposed everywhere"
    ACK_BY_K = "an entry is acknowledged when k members have it"
    ACK_DURING_CHANGE = "entries are acknowledged by the rest while a roster change is under way"
    APPLY_AT_PROPOSE = "a mount applies entries with its PROPOSE"
    APPLY_UNPROVED = "entries are applied on plain answers, which a host can forge"
    SWAP = "one change adds a disk and removes another"
    NO_INSTANCE = "a clone that replays our log counts as the disk"
    NO_EVIDENCE = "FLUSH returns on plain answers, which a host can forge"
    LONGEST = "the longest journal wins"
    DROP = "entries in rings are always dropped"
    NEWEST = "the newest roster seen is the base, never void"
    STRANGERS = "journals of disks that are no members count"
    FEWER_THAN_K = "a roster of k-1 members may be proposed"
    QUORUM_LESS_ONE = "k-1 members of the base are enough to mount"
    HALF = "k is n/2"
    BASE_UNNAMED = "PROPOSE does not write the base beside the proposal"
    UNBUILT = "a joiner is a member before it is rebuilt"
    NO_LOOK = "a joiner's label is not looked at after its OPEN"


class View(NamedTuple):
    """What a disk shows that decides."""

    current: int
    next: int
    log: Log
    applied: int
    member_of: tuple[int, ...]


class Decision(NamedTuple):
    """The base, who of the disks shown is present (by place), and the history."""

    base: int
    present: tuple[int, ...]
    history: Log


Predecessors = tuple[tuple[int, int], ...]


def view(disk: Disk) -> View:
    """What `disk` shows."""
    return View(disk.current, disk.next, disk.log, disk.applied, disk.member_of)


@lru_cache(maxsize=1 << 18)
def decide(shown: tuple[View, ...], rosters: Predecessors, k: int, weak: Weak | None) -> Decision | None:
    """What the product decides from these disks; None when it refuses to mount."""
    predecessors = dict(rosters)
    labels = {_instance(at): _label(one, shown, predecessors) for at, one in enumerate(shown)}
    members = {_instance(at): _member(one) for at, one in enumerate(shown)}
    try:
        base = _newest(labels) if weak is Weak.NEWEST else choose_base(labels)
        while True:
            in_sync = require_quorum(base, members, k - (weak is Weak.QUORUM_LESS_ONE))
            present = {instance: one for instance, one in members.items() if instance in in_sync}
            counted = members if weak is Weak.STRANGERS else present
            last = _last(list(counted.values()), k, weak)
            behind = {instance for instance, one in present.items() if mount._is_behind(one, present, last)}
            if not behind:
                break
            for instance in behind:
                del members[instance]
    except Unavailable:
        return None
    number = int.from_bytes(base.version.epoch, "big") * COUNTERS + base.version.counter
    places = tuple(at for at in range(len(shown)) if _instance(at) in present)
    logs = [shown[at] for at in range(len(shown)) if _instance(at) in counted]
    return Decision(number, places, _history(logs, last))


def _history(holders: list[View], last: int) -> Log:
    """Entries 1 to `last`, each as the first holder has it, or as whoever has it at home."""
    history = []
    for at in range(last):
        having = [one for one in holders if len(one.log) > at]
        history.append(next((one.log[at] for one in having if at < one.applied), having[0].log[at] if having else 0))
    return tuple(history)


def _last(members: list[mount.Member], k: int, weak: Weak | None) -> int:
    if weak is Weak.LONGEST:
        return max(member.head.last for member in members)
    if weak is Weak.DROP:
        return max(member.head.applied for member in members)
    return mount.last_entry(members, k)


def _newest(labels: dict[bytes, Label]) -> Roster:
    rosters = [roster for label in labels.values() for roster in (label.current, label.next) if roster is not None]
    if not rosters:
        raise Unavailable("no roster")
    return max(rosters, key=lambda roster: roster.version)


@cache
def _instance(at: int) -> bytes:
    return bytes([at + 1]) * 32


def _version(number: int) -> Version:
    return Version((number // COUNTERS).to_bytes(16, "big"), number % COUNTERS)


def _label(one: View, shown: tuple[View, ...], predecessors: dict[int, int]) -> Label:
    def roster(number: int) -> Roster | None:
        if not number:
            return None
        seats = tuple(_instance(at) if number in other.member_of else None for at, other in enumerate(shown))
        return Roster(_version(number), _version(predecessors[number]), 0, 0, seats)

    return Label(roster(one.current), roster(one.next))


def _header(number: int, content: int) -> EntryHeader:
    return EntryHeader(1, 0, number, b"", bytes([content]))


def _member(one: View) -> mount.Member:
    headers = {at + 1: _header(at + 1, one.log[at]) for at in range(one.applied, len(one.log))}
    return mount.Member(cast(Any, None), Label(None, None), Head(len(one.log), one.applied), headers)

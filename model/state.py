"""What there is in one moment: disks, main programs, and what is under way between them. Tuples of small integers.

A disk is one *column*: its memory, who counts it as a member, and for each main program what that one has sent it and
it has not carried out yet. So disks are interchangeable: states that differ only by their order are one state, the one
in which the columns are sorted.

- An *epoch* is a small integer. A roster's *version* is `16 * epoch + counter`; 0 is no roster.
- An *entry* is known by the epoch of the main program that wrote it and by its place. A *log* is the entries that a
  disk holds, the first at index 0: those below `applied` are home, the rest stand in the ring. 0 is a hole: an entry
  that counts as applied and is not there, because the disk was not rebuilt.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

Log = tuple[int, ...]
Command = tuple[Any, ...]
"""Its kind, then what it carries (see `Kind`)."""

COUNTERS = 16


class Kind(IntEnum):
    """What a command does to a disk."""

    PROPOSE = 0
    """base, target, history: current := base, next := target, and the entries of the history that it lacks."""
    ACTIVATE = 1
    """target, cut, history: current := target, next := none, the log ends at `cut`."""
    EXECUTE = 2
    """entry or 0, applied: applies up to `applied`, then holds the entry."""
    WELCOME = 3
    """log: no proposal, an empty ring, and this log at home."""
    STUCK = 9
    """landed: a later OPEN came first, so nothing more of this main program lands; it had `landed` entries by then."""


class Role(IntEnum):
    """What a disk is to a main program that talks to it."""

    MEMBER = 0
    LOST = 1
    JOINER = 2
    MET = 3
    """Greeted, at the epoch in `session`; not opened yet."""
    NONE = 4


class Phase(IntEnum):
    """Where a main program stands."""

    PROPOSE = 0
    ACTIVATE = 1
    SERVE = 2
    READ = 3
    """Has read what decides, and not opened anything yet: only in a mutant."""
    DEAD = 4
    """Nothing that it may still do changes anything."""


class Change(IntEnum):
    """Which roster change is under way."""

    MOUNT = 0
    REMOVE = 1
    ADD = 2
    NAME = 3


class Link(NamedTuple):
    """One main program's session with one disk: the epoch it opened it at, and the commands on their way."""

    session: int
    role: int
    queue: tuple[Command, ...]


NO_LINK = Link(0, Role.NONE, ())


class Disk(NamedTuple):
    """One column. `member_of` are the versions of the rosters that seat it, `saved` the earlier state of its clone."""

    epoch: int
    current: int
    next: int
    log: Log
    applied: int
    member_of: tuple[int, ...]
    links: tuple[Link, ...]
    saved: tuple[Any, ...] = ()


class Main(NamedTuple):
    """One main program. `base` is the roster it stands on, `target` the one that it proposes or activates."""

    epoch: int
    phase: int
    change: int
    base: int
    target: int
    history: Log
    moving: int
    """Up to here it has sent the applying of entries."""
    counter: int


class State(NamedTuple):
    """Everything. `served` is the newest roster that was in force, `acked` the longest history acknowledged."""

    disks: tuple[Disk, ...]
    mains: tuple[Main, ...]
    rosters: tuple[tuple[int, int], ...]
    """Version and predecessor's, of each roster that a disk or a main program holds."""
    served: int
    acked: Log
    joins: int


def initial(n: int, spares: int, *, degraded: bool = False, admitted: bool = False) -> State:
    """Genesis in force on n disks, its creator serving, and blank disks beside them; or a while after that.

    `degraded`: the creator has voted off one member. `admitted`: it has opened a spare and rebuilt it.
    """
    now = genesis = COUNTERS
    link = Link(1, Role.MEMBER, ())
    member = Disk(1, genesis, 0, (), 0, (genesis,), (link,))
    spare = Disk(0, 0, 0, (), 0, (), (NO_LINK,))
    rosters: tuple[tuple[int, int], ...] = ((genesis, 0),)
    others = [spare] * spares
    if admitted:
        others[0] = spare._replace(epoch=2, links=(Link(2, Role.JOINER, ()),))
    if degraded:
        now, rosters = genesis + 1, ((genesis, 0), (genesis + 1, genesis))
        others.append(member._replace(links=(NO_LINK,)))
        member = Disk(1, now, 0, (), 0, (genesis, now), (link,))
    creator = Main(1, Phase.SERVE, Change.REMOVE if degraded else Change.MOUNT, now, now, (), 0, now - genesis)
    disks = (member,) * (n - degraded) + tuple(others)
    return canonical(State(disks, (creator,), rosters, now, (), 0))


def canonical(state: State) -> State:
    """The one state that stands for all that differ by the order of disks."""
    return state._replace(disks=tuple(sorted(state.disks)))


def epoch_of(version: int) -> int:
    """The epoch of the mount that proposed the roster."""
    return version // COUNTERS


def is_prefix(short: Log, long: Log) -> bool:
    """Whether history `long` begins with `short`."""
    return long[: len(short)] == short


def landed(link: Link, sent: int) -> int:
    """How many of the `sent` entries of a main program the disk behind `link` has carried out."""
    if link.queue and link.queue[0][0] == Kind.STUCK:
        return int(link.queue[0][1])
    return sent - sum(1 for command in link.queue if command[0] == Kind.EXECUTE and command[1])

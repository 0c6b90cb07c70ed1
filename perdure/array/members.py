"""The disks of the roster in force, which of them to ask, and whether one of them can be spared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from perdure.array.roster import Roster
from perdure.array.session import Health, Session
from perdure.errors import PerdureError, TakenOffline


@dataclass(slots=True)
class Errors:
    """What `status` counts for one disk."""

    read: int = 0
    write: int = 0
    checksum: int = 0


@dataclass(slots=True)
class Members:
    """Sessions by instance, and the roster that says which of them count. Only a roster change alters it."""

    roster: Roster
    sessions: dict[bytes, Session]
    errors: dict[bytes, Errors] = field(default_factory=dict)
    lost: dict[bytes, PerdureError] = field(default_factory=dict)
    """Given up by their sessions; members until they are voted off."""
    on_lost: Callable[[], None] = lambda: None
    """Called when a member is given up: the committer votes it off."""
    least: int = 0
    """How many silence alone must leave: k where the array waits for disks rather than fail, else 0."""

    def __post_init__(self) -> None:
        for session in self.sessions.values():
            self.add(session)

    def add(self, session: Session) -> None:
        """Know one more; a roster change makes it a member."""
        self.sessions[session.instance] = session
        session.can_be_spared = lambda: self.can_spare(session)

    def __iter__(self) -> Iterator[tuple[int, Session]]:
        """Seat and session of each member."""
        for seat, instance in enumerate(self.roster.seats):
            if instance is not None:
                yield seat, self.sessions[instance]

    def to_ask(self) -> list[tuple[int, Session]]:
        """Members in the order in which a read should ask them: healthy before suspect, data before parity."""
        alive = [(seat, session) for seat, session in self if session.lost is None]
        return sorted(alive, key=lambda pair: (pair[1].health is not Health.ONLINE, pair[0]))

    def can_spare(self, session: Session) -> bool:
        """Whether silence alone may cost the array this disk, a member or a joiner.

        Where `least` is set, at least so many other members must be there: not suspect for as long as a disk may be
        silent, and with evidence from after this one fell silent. So when all links break at once, nobody is given up,
        and when they are mended, nobody is given up for being the last to come back.
        """
        since_ms = session.silent_since_ms
        return sum(other.has_been_there(since_ms) for _, other in self if other is not session) >= self.least

    @property
    def is_waiting(self) -> bool:
        """Whether a read shall wait until enough answer: silence ends nothing, and evidence has left enough members."""
        return 0 < self.least <= sum(session.lost is None for _, session in self)

    @property
    def is_suspended(self) -> bool:
        """Whether too few members answer for anything to go on, and the array waits for them."""
        return sum(session.health is Health.ONLINE for _, session in self) < self.least

    def counted(self, instance: bytes) -> Errors:
        """The error counters of a disk."""
        return self.errors.setdefault(instance, Errors())

    def report_lost(self, session: Session, verdict: PerdureError) -> None:
        """A session has given its disk up; an earlier session of a disk that has come back says nothing any more."""
        instance = session.instance
        if self.sessions.get(instance) is not session:
            return
        if instance in self.roster.members and instance not in self.lost:
            self.lost[instance] = verdict
            if not isinstance(verdict, TakenOffline):  # nothing is wrong with that one
                self.counted(instance).write += 1
            self.on_lost()

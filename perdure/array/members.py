"""The disks of the roster in force, and which of them to ask."""

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

    def __iter__(self) -> Iterator[tuple[int, Session]]:
        """Seat and session of each member."""
        for seat, instance in enumerate(self.roster.seats):
            if instance is not None:
                yield seat, self.sessions[instance]

    def to_ask(self) -> list[tuple[int, Session]]:
        """Members in the order in which a read should ask them: healthy before suspect, data before parity."""
        alive = [(seat, session) for seat, session in self if session.lost is None]
        return sorted(alive, key=lambda pair: (pair[1].health is not Health.ONLINE, pair[0]))

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

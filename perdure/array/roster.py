"""Rosters and the rules by which one of them is in force (docs/design.md, "Rules"; the numbers below are theirs).

A roster says which instance holds which seat, and which instances have died and what they last held. A disk's label
holds `current` and `next`. Everything here is a pure decision over labels that were read with evidence after OPEN.

    magic 4 "PRST" | seats u8 | departed u8 | release u16 | version 24 | predecessor 24 | last u64 | applied u64 |
    a member's instance of 32 for each seat (zeros: none) | departed: seat u8, zeros 7, last u64, instance 32 | zeros |
    program, the last 40 bytes of the area: version u64, manifest digest 32 (zeros: none)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from perdure.array.geometry import ROSTER_AREA, SEATS_MAX
from perdure.disk.wire import DISK_SECTOR_BYTES
from perdure.errors import Corrupt, Unavailable

_MAGIC = b"PRST"
_HEADER = Struct(">4sBBH16sQ16sQQQ")
_DEPARTED = Struct(">B7xQ32s")
_NOBODY = bytes(32)
ANY_ENTRY = (1 << 64) - 1
DEPARTED_MAX = 128
AREA_BYTES = ROSTER_AREA * DISK_SECTOR_BYTES
_PROGRAM = Struct(">Q32s")
_PROGRAM_START = AREA_BYTES - _PROGRAM.size
assert _HEADER.size + SEATS_MAX * 32 + DEPARTED_MAX * _DEPARTED.size <= _PROGRAM_START


class Version(NamedTuple):
    """Orders rosters: the epoch of the mount that proposed it, then a counter within that mount."""

    epoch: bytes
    counter: int


class Departed(NamedTuple):
    """An instance that is no member and may hold fragments of `seat`: voted off, or joining, or failed to join."""

    seat: int
    last: int
    """It may hold entries up to this one, and none of those that came later; ANY_ENTRY while it may get more."""
    instance: bytes


class Program(NamedTuple):
    """Which main program: the version of the manifest that its developers signed, and that manifest's digest."""

    version: int
    """From 1; 0 where no manifest stands behind a program."""
    manifest: bytes


NO_PROGRAM = Program(0, bytes(32))


@dataclass(frozen=True, slots=True)
class Roster:
    """Who is a member. `seats[i]` is the instance that holds fragment i, or None while the seat is empty."""

    version: Version
    predecessor: Version
    last: int
    """The last journal entry that counted when this roster was proposed."""
    applied: int
    seats: tuple[bytes | None, ...]
    departed: tuple[Departed, ...] = ()
    release: int = 0
    """Of the newest main program that has mounted the array; an older one refuses to."""
    program: Program = NO_PROGRAM
    """The newest that was accepted; neither an older one nor another of the same version follows it."""

    @property
    def members(self) -> frozenset[bytes]:
        """The instances that are in sync."""
        return frozenset(instance for instance in self.seats if instance is not None)

    def without(
        self, gone: Iterable[bytes], version: Version, last: int, applied: int, joining: Iterable[bytes] = ()
    ) -> Roster:
        """The successor in which `gone` are dead and nothing else has changed (rule 9: removals never add).

        `joining` are those that still get entries; to everyone else who is no member, `last` was the last.
        """
        dead = frozenset(gone)
        seats = tuple(None if seat in dead else seat for seat in self.seats)
        newly = tuple(
            Departed(at, last, seat) for at, seat in enumerate(self.seats) if seat is not None and seat in dead
        )
        departed = (*self._departed_by(last, joining), *newly)[-DEPARTED_MAX:]
        return Roster(version, self.version, last, applied, seats, departed, self.release, self.program)

    def naming(
        self, seat: int, instance: bytes, version: Version, last: int, applied: int, joining: Iterable[bytes] = ()
    ) -> Roster:
        """The successor that names who is about to be rebuilt on the empty `seat`; the members stay (rule 11)."""
        assert self.seats[seat] is None
        others = tuple(gone for gone in self._departed_by(last, joining) if gone.instance != instance)
        departed = (*others, Departed(seat, ANY_ENTRY, instance))[-DEPARTED_MAX:]
        return Roster(version, self.version, last, applied, self.seats, departed, self.release, self.program)

    def with_member(
        self, seat: int, instance: bytes, version: Version, last: int, applied: int, joining: Iterable[bytes] = ()
    ) -> Roster:
        """The successor in which `instance` holds the empty `seat` and nothing else has changed (rule 11)."""
        assert self.seats[seat] is None
        seats = (*self.seats[:seat], instance, *self.seats[seat + 1 :])
        departed = tuple(gone for gone in self._departed_by(last, joining) if gone.instance != instance)
        return Roster(version, self.version, last, applied, seats, departed, self.release, self.program)

    def _departed_by(self, last: int, joining: Iterable[bytes]) -> tuple[Departed, ...]:
        """Those who are no members, now that `last` is the last entry that any but the `joining` can have got."""
        going_on = frozenset(joining)
        return tuple(
            gone if gone.instance in going_on else gone._replace(last=min(gone.last, last)) for gone in self.departed
        )

    def encode(self) -> bytes:
        """The one encoding, filled with zeros to the whole area on the disk."""
        counts = (len(self.seats), len(self.departed), self.release)
        head = _HEADER.pack(_MAGIC, *counts, *self.version, *self.predecessor, self.last, self.applied)
        seats = b"".join(seat or _NOBODY for seat in self.seats)
        filled = (head + seats + b"".join(_DEPARTED.pack(*gone) for gone in self.departed)).ljust(_PROGRAM_START, b"\0")
        return filled + _PROGRAM.pack(*self.program)

    @classmethod
    def decode(cls, data: bytes) -> Roster | None:
        """The roster in an area, None when the area is all zero. Raises Corrupt."""
        if len(data) == AREA_BYTES and not any(data):
            return None
        if len(data) != AREA_BYTES or data[:4] != _MAGIC:
            raise Corrupt("there is no roster here")
        _, seat_count, departed_count, release, epoch, counter, *rest = _HEADER.unpack_from(data)
        old_epoch, old_counter, last, applied = rest
        # A roster comes after its predecessor: else the search for the base could go round in circles.
        if seat_count > SEATS_MAX or departed_count > DEPARTED_MAX or (epoch, counter) <= (old_epoch, old_counter):
            raise Corrupt("a roster is damaged")
        at = _HEADER.size + 32 * seat_count
        seats = tuple(bytes(data[i : i + 32]) for i in range(_HEADER.size, at, 32))
        departed = tuple(Departed(*_DEPARTED.unpack_from(data, at + i * _DEPARTED.size)) for i in range(departed_count))
        roster = cls(
            Version(epoch, counter),
            Version(old_epoch, old_counter),
            last,
            applied,
            tuple(None if seat == _NOBODY else seat for seat in seats),
            departed,
            release,
            Program(*_PROGRAM.unpack_from(data, _PROGRAM_START)),
        )
        if roster.encode() != data or (roster.program.version == 0 and roster.program != NO_PROGRAM):
            raise Corrupt("a roster is damaged")
        return roster


@dataclass(frozen=True, slots=True)
class Label:
    """What one disk says of the array."""

    current: Roster | None
    next: Roster | None


def choose_base(labels: Mapping[bytes, Label]) -> Roster:
    """Rule 2: the newest roster seen on any fenced disk; while it is void, its predecessor.

    A roster is void while some fenced member of it still has an older `current`: its activation never completed, so
    it never served. Raises Unavailable when the predecessor stands on none of these disks.
    """
    rosters = (roster for label in labels.values() for roster in (label.current, label.next) if roster is not None)
    seen = {roster.version: roster for roster in rosters}
    base = seen[max(seen)] if seen else None
    while base is not None and _is_void(base, labels):
        base = seen.get(base.predecessor)
    if base is None:
        raise Unavailable(
            "none of the disks that answer holds a roster that was in force; nothing was changed. "
            "Bring back more of the array's disks."
        )
    return base


def _is_void(roster: Roster, labels: Mapping[bytes, Label]) -> bool:
    for instance in roster.members & labels.keys():
        current = labels[instance].current
        if current is None or current.version < roster.version:
            return True
    return False


def require_quorum(base: Roster, fenced: Iterable[bytes], k: int) -> frozenset[bytes]:
    """Rule 3: the members of `base` that this mount fenced, at least k of them. Raises Unavailable, naming the rest."""
    present = base.members & frozenset(fenced)
    if len(present) < k:
        missing = [
            f"seat {at} (instance {seat.hex()[:16]})"
            for at, seat in enumerate(base.seats)
            if seat not in present and seat
        ]
        raise Unavailable(
            f"only {len(present)} of the {k} disks that the array needs are here; missing: {', '.join(missing)}. "
            "Nothing acknowledged is lost while they keep running, and nothing older is served. Bring one back, or the "
            "array stays closed."
        )
    return present

"""The rig of `test_every_death.py`: a small array in which some disks, and the main program, die at one chosen effect.

An *effect* is a command that arrives at a disk or a reply that arrives at the main program. Just before effect number
`moment` of the operation the `dead` seats die together: what they had under way is lost, their connections break. If
`is_main_too`, the main program dies at that moment as well, and what it had sent and has not arrived never does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from perdure.array.engine import Array
from perdure.array.geometry import SECTOR_BYTES
from perdure.array.join import Progress
from perdure.array.journal import EntryHeader
from perdure.array.mount import mount
from perdure.array.ports import Lane
from perdure.disk.core import DiskCore
from perdure.errors import DiskLost, PerdureError, Unavailable
from perdure.sim.disks import SimChannel, SimDisk
from perdure.sim.loop import Future
from tests.array.world import POLICY, Owner, SimArray, outcome

SECTORS = 4
SEAT = 1
"""The seat that is empty before a rebuild."""
FIRST = 0
"""The seat whose death a removal is about."""
FIRST_VALUES = [10, 20, 30, 40]
"""What the sectors hold, and is flushed, before any operation."""
Values = list[int]


def content(value: int) -> bytes:
    """A sector full of one byte."""
    return bytes([value]) * SECTOR_BYTES


@dataclass(frozen=True)
class Case:
    """Who dies when. With `moment` 0 nobody does; one above the number of effects is right after the operation."""

    operation: str
    k: int
    n: int
    dead: tuple[int, ...] = ()
    moment: int = 0
    is_main_too: bool = False
    has_chains: bool = False

    @property
    def is_join(self) -> bool:
        """Whether seat SEAT is empty when the operation begins, and a disk is to take it."""
        return self.operation in ("rebuild", "copy", "return")

    def must_serve(self, *, is_done: bool) -> bool:
        """P2: no more than n - k disks are lost, so nothing excuses the array. A disk that joins counts when it has."""
        gone = set(self.dead)
        if self.operation == "removal":
            gone.add(FIRST)
        if self.is_join and not is_done:
            gone.add(SEAT)
        return len(gone) <= self.n - self.k


class WarmDisk(SimDisk):
    """A disk over memory that has been used before: the kernel need not find 8 MB of new pages for each."""

    spare: list[bytearray] = []
    zeros = b""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig.loop, rig.authority.public_key, 64)
        size = rig.geometry.disk_bytes
        if len(self.zeros) != size:
            WarmDisk.zeros = bytearray(size)
            self.spare.clear()
        self.memory = self.spare.pop() if self.spare else bytearray(size)
        self.memory[:] = self.zeros
        self.core = DiskCore(memoryview(self.memory), self.core.instance, rig.authority.public_key, rig.loop.random)

    def words(self) -> frozenset[int]:
        """Every 8 bytes that stand anywhere in its memory, zeros aside."""
        held = np.frombuffer(self.memory, np.uint64)
        return frozenset(held[held != 0].tolist())


class Watched(SimChannel):
    """A channel that tells the rig of every effect before it happens.

    Of commands that are sent together each is answered before the next arrives, so that between any two effects the
    disks differ the most: some have carried out a command and answered, the others have yet to hear of it.
    """

    def __init__(self, rig: Rig, at: int) -> None:
        super().__init__(rig.loop, f"disk-{at}", lambda: rig.disks[at])
        self.at, self._rig, self._owner = at, rig, rig.owner
        self.latency_ms = (0.1 * 2.5**at, 0.1 * 2.5**at)

    def _arrive(self, lane: Lane, command: bytes, future: Future[memoryview]) -> None:
        disk = self._rig.disks[self.at]
        if self._owner is self._rig.dead_main:
            return
        if not future.done and disk is not None and disk.is_alive:
            self._rig.effect()
            if self._owner is self._rig.dead_main:
                return
        super()._arrive(lane, command, future)

    def _answer(self, lane: Lane, future: Future[memoryview], reply: bytes) -> None:
        if not future.done and self._owner is not self._rig.dead_main:
            self._rig.effect()
        super()._answer(lane, future, reply)


class Rig(SimArray):
    """One small array and one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.dead_main: object = None
        self.effects = 0
        self.is_armed = self.has_struck = False
        self.open_channels: list[Watched] = []
        self.secrets: list[frozenset[int]] = []
        super().__init__(k=case.k, n=case.n, sectors=SECTORS, dead_after_ms=200, has_chains=case.has_chains)

    def new_disk(self, authority: bytes | None = None) -> SimDisk:
        return WarmDisk(self)

    def new_channels(self) -> list[SimChannel]:
        channels = [Watched(self, at) for at in range(self.geometry.n)]
        self.open_channels += channels
        return list(channels)

    def recycle(self) -> None:
        """Give the memory of all disks to the next rig."""
        self.crash()
        for disk in self.disks:
            assert disk is not None
            WarmDisk.spare.append(disk.memory)

    def effect(self) -> None:
        """Something is about to happen; at the case's moment somebody dies first."""
        if not self.is_armed:
            return
        self.effects += 1
        if self.effects == self.case.moment:
            self.strike()

    def strike(self) -> None:
        """The case's disks die, and the main program if it has to."""
        self.is_armed, self.has_struck = False, True
        self.kill(*self.case.dead)
        for channel in self.open_channels:
            if channel.at in self.case.dead:
                channel.close()
        if self.case.is_main_too:
            self.end_main()

    def end_main(self) -> None:
        """The main program dies, and what it had sent is lost on its way."""
        self.dead_main = self.owner
        self.crash()

    @property
    def has_main(self) -> bool:
        """Whether there is a main program that has the array."""
        return self.array is not None and self.owner is not self.dead_main

    def remount(self) -> None:
        """A new main program, unless it dies while it mounts."""
        self.array = None
        self.owner = Owner()
        self.channels = self.new_channels()
        opened = self.run(mount(self.world(), self.channels, self.array_id, POLICY))
        if self.owner is not self.dead_main:
            self._start(opened)

    def join(self, *, reseal: bool) -> None:
        """Rebuild the disk that stands at SEAT, with a member's rights in the end."""
        assert self.array is not None
        self.run(self.array.join(self.new_channels()[SEAT], SEAT, Progress(SECTORS), reseal=reseal))

    def erase(self) -> None:
        """Sector 1."""
        assert self.array is not None
        self.run(self.array.erase(SECTOR_BYTES, SECTOR_BYTES))

    def values(self) -> Values:
        """What the sectors read as; each must be whole."""
        got = self.read(0, SECTORS)
        parts = [got[at : at + SECTOR_BYTES] for at in range(0, len(got), SECTOR_BYTES)]
        values = [part[0] for part in parts]
        assert parts == [content(value) for value in values], "a torn sector"
        return values

    def put(self, index: int, value: int) -> None:
        """A durable write."""
        assert self.array is not None
        self.run(self.array.pwrite(index * SECTOR_BYTES, content(value), fua=True))

    def note_secrets(self) -> None:
        """For each seat, what its disk holds of sector 1: home, and alone in the newest slot; and the plaintexts."""
        shape = self.geometry
        assert self.array is not None
        slot = shape.slot_start(self.array.committer.last)
        for disk in self.disks:
            assert disk is not None
            header = EntryHeader.decode(bytes(disk.memory[slot * 64 : (slot + 1) * 64]))
            fragments = (shape.fragment_start(1), slot + header.sectors_before_fragments())
            tags = (shape.tag_start(1), slot + header.sectors_before_fragments() - 1)
            pieces = [bytes(disk.memory[place * 64 :][: shape.fragment_bytes // 2]) for place in fragments]
            pieces += [bytes(disk.memory[place * 64 :][:56]) for place in tags]
            words = [set(np.frombuffer(piece, np.uint64).tolist()) for piece in [*pieces, content(20), content(21)]]
            assert all(word - {0} for word in words)
            self.secrets.append(frozenset().union(*words) - {0})

    def assert_nothing_left(self) -> None:
        """P6: no living disk holds 8 bytes of a fragment or a tag of what was erased, nor of the plaintext."""
        for disk, secrets in zip(self.disks, self.secrets, strict=True):
            assert isinstance(disk, WarmDisk)
            assert not disk.is_alive or secrets.isdisjoint(disk.words()), "something of what was erased is left"


# Operations: each prepares the rig, up to the moment before the first effect that counts.


@dataclass(frozen=True)
class Prepared:
    """An operation that is about to be done, and what the sectors may hold once it is."""

    work: Callable[[], object]
    after: list[Values]
    before: list[Values]


def _filled(rig: Rig) -> Array:
    """Four sectors; the last one's newest version is flushed and in the ring, so that the next command applies it."""
    array = rig.create()
    for index, value in enumerate([*FIRST_VALUES[:3], 39]):
        rig.run(array.pwrite(index * SECTOR_BYTES, content(value)))
    rig.settle()
    rig.put(3, FIRST_VALUES[3])
    return array


def _write(rig: Rig) -> Prepared:
    _filled(rig)
    return Prepared(lambda: rig.put(0, 11), [[11, 20, 30, 40]], [FIRST_VALUES])


def _flush(rig: Rig) -> Prepared:
    """While an earlier one is under way: two entries are in flight, and the second command may apply nothing yet."""
    array = _filled(rig)

    def both() -> None:
        rig.run(array.pwrite(0, content(11)))
        rig.spawn(outcome(array.flush()))
        rig.run(array.pwrite(SECTOR_BYTES, content(21)))
        rig.run(array.trim(2 * SECTOR_BYTES, SECTOR_BYTES))
        rig.flush()

    return Prepared(both, [[11, 21, 0, 40]], [FIRST_VALUES, [11, 20, 30, 40]])


def _erase(rig: Rig) -> Prepared:
    """Of a sector of which one version is home and a newer one in the ring."""
    _filled(rig)
    rig.settle()
    rig.put(1, 21)
    rig.note_secrets()
    return Prepared(rig.erase, [[10, 0, 30, 40]], [[10, 21, 30, 40]])


def _removal(rig: Rig) -> Prepared:
    """A durable write that finds one disk dead: PROPOSE and ACTIVATE among the others."""
    _filled(rig)
    rig.kill(FIRST)
    return Prepared(lambda: rig.put(0, 11), [[11, 20, 30, 40]], [FIRST_VALUES])


def _mount(rig: Rig) -> Prepared:
    """After a main program that died while a write was on its way: k disks have it."""
    array = _filled(rig)
    before = {disk: disk.core.seq for disk in rig.disks if disk}
    rig.spawn(outcome(array.pwrite(0, content(11), fua=True)))
    while sum(disk.core.seq > seq for disk, seq in before.items()) < rig.case.k:
        rig.loop.step()
    rig.end_main()
    return Prepared(rig.remount, [[11, 20, 30, 40], FIRST_VALUES], [])


def _degraded(rig: Rig) -> None:
    """Seat SEAT is voted off, and has missed a write since; one more is in the ring."""
    array = _filled(rig)
    rig.kill(SEAT)
    rig.put(2, 29)
    assert array.members.roster.seats[SEAT] is None
    rig.put(2, FIRST_VALUES[2])


def _join(rig: Rig, *, is_fresh: bool, reseal: bool = True) -> Prepared:
    _degraded(rig)
    disk = rig.disks[SEAT]
    assert disk is not None
    disk.is_alive = True
    if is_fresh:
        WarmDisk.spare.append(disk.memory)
        rig.disks[SEAT] = rig.new_disk()
    return Prepared(lambda: rig.join(reseal=reseal), [FIRST_VALUES], [])


OPERATIONS: dict[str, Callable[[Rig], Prepared]] = {
    "write": _write,
    "flush": _flush,
    "erase": _erase,
    "removal": _removal,
    "mount": _mount,
    "rebuild": lambda rig: _join(rig, is_fresh=True),
    "copy": lambda rig: _join(rig, is_fresh=True, reseal=False),
    "return": lambda rig: _join(rig, is_fresh=False),
}


# Carrying out and judging -----------------------------------------------------------------------------------------


def cases(operation: str, k: int, n: int, *, is_main_too: bool, has_chains: bool = False) -> Iterator[Case]:
    """Every subset of 1 to n - k disks (for the main program's death also none), at every effect and right after.

    For a rebuild: of the members, each subset alone and together with the disk that joins, and that one alone.
    """
    whole = Case(operation, k, n, has_chains=has_chains)
    effects = run(whole)
    seats = [at for at in range(n) if not ((whole.is_join and at == SEAT) or (operation == "removal" and at == FIRST))]
    subsets = [dead for count in range(n - k + 1) for dead in combinations(seats, count)]
    if whole.is_join:
        subsets += [(*dead, SEAT) for dead in subsets]
    for dead in subsets:
        if dead or is_main_too:
            for moment in range(1, effects + 2):
                yield replace(whole, dead=dead, moment=moment, is_main_too=is_main_too)


def run(case: Case) -> int:
    """Carry out one case and judge it; how many effects there were before anybody died."""
    rig = Rig(case)
    try:
        _carry_out(rig, case)
    except BaseException as error:
        error.add_note(f"in {case}")
        raise
    finally:
        rig.recycle()
    return rig.effects


def _carry_out(rig: Rig, case: Case) -> None:
    prepared = OPERATIONS[case.operation](rig)
    rig.is_armed = True
    error = _error_of(prepared.work)
    is_done = error is None and not (case.is_main_too and rig.has_struck)
    if case.moment and not rig.has_struck:
        assert case.moment == rig.effects + 1
        rig.strike()
    rig.is_armed = False
    must_serve = case.must_serve(is_done=is_done)
    if error is not None:
        is_joiner_dead = case.is_join and SEAT in case.dead and isinstance(error, DiskLost)
        assert is_joiner_dead or (isinstance(error, Unavailable) and not must_serve), repr(error)
    if is_done and rig.secrets:
        rig.assert_nothing_left()
    allowed = prepared.after if is_done else prepared.after + prepared.before
    if rig.has_main:
        allowed = _go_on(rig, allowed, must_serve=must_serve)
        rig.end_main()
    if _is_excused(rig.remount, must_serve=must_serve):
        return
    allowed = _go_on(rig, allowed, must_serve=must_serve)
    if rig.secrets and not _is_excused(rig.erase, must_serve=must_serve):
        rig.assert_nothing_left()


def _go_on(rig: Rig, allowed: list[Values], *, must_serve: bool) -> list[Values]:
    """Read everything, write something else, read again. What the sectors may hold from now on."""
    found: list[Values] = []
    if _is_excused(lambda: found.append(rig.values()), must_serve=must_serve):
        return allowed
    assert found[0] in allowed, f"{found[0]}, not one of {allowed}"
    fresh = max(found[0]) + 100
    changed = [*found[0][:3], fresh]
    if _is_excused(lambda: rig.put(3, fresh), must_serve=must_serve):
        return [found[0], changed]
    found.clear()
    if not _is_excused(lambda: found.append(rig.values()), must_serve=must_serve):
        assert found == [changed]
    return [changed]


def _is_excused(work: Callable[[], object], *, must_serve: bool) -> bool:
    """Do `work`; whether it was refused, as it may be once more than n - k disks are lost, and only so."""
    error = _error_of(work)
    if error is None:
        return False
    assert isinstance(error, Unavailable), repr(error)
    assert not must_serve, f"no more than n - k disks are lost, and yet: {error}"
    return True


def _error_of(work: Callable[[], object]) -> PerdureError | None:
    try:
        work()
    except PerdureError as error:
        return error
    return None

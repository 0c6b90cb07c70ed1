"""The array against a byte array, in the manner of fsx: anything at any offset, while mains crash and disks die.

Hypothesis draws the steps and shrinks what fails; `tests/array/byte_array.py` says what a crash may leave.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from perdure.array import cache
from perdure.array.engine import Array
from perdure.array.geometry import ENTRY_SECTORS_MAX, SECTOR_BYTES
from perdure.array.join import Progress
from perdure.sim.loop import Task
from tests.array.byte_array import ByteArray
from tests.array.world import SimArray, outcome

SECTORS = 40
SIZE = SECTORS * SECTOR_BYTES
SHAPES = [(2, 2), (2, 3), (3, 4), (3, 5)]

_near = st.builds(lambda at, by: min(max(at * SECTOR_BYTES + by, 0), SIZE), st.integers(0, SECTORS), st.integers(-2, 2))
OFFSETS = st.one_of(_near, st.integers(0, SIZE))
LENGTHS = st.one_of(st.integers(0, 2 * SECTOR_BYTES), st.integers(0, SIZE), st.just(SIZE))
KINDS = st.sampled_from(["write", "write", "write", "write_zeroes", "trim", "flush"])
CHANGES = st.tuples(KINDS, OFFSETS, LENGTHS, st.sampled_from([False, False, True]))
MOMENTS = st.integers(0, 60)
"""In hundredths of a virtual millisecond: a FLUSH takes about half of one."""
SEATS = st.integers(0, 9)
Change = tuple[str, int, int, bool]


class ArrayBesideBytes(RuleBasedStateMachine):
    """The product's own array and disks in virtual time; up to n-k disks are missing at any time.

    Entries have few sectors, so that what is drawn is cut into many of them and their order counts.
    """

    @initialize(
        shape=st.sampled_from(SHAPES),
        seed=st.integers(0, 1 << 30),
        has_chains=st.booleans(),
        entry=st.sampled_from([3, ENTRY_SECTORS_MAX]),
    )
    def begin(self, shape: tuple[int, int], seed: int, has_chains: bool, entry: int) -> None:
        cache.ENTRY_SECTORS_MAX = entry
        self.sim = SimArray(*shape, SECTORS, seed, dead_after_ms=200, has_chains=has_chains)
        self.sim.create()
        self.bytes = ByteArray(SIZE)
        self.count = 0
        self.joining: dict[int, Task[Any]] = {}

    @property
    def array(self) -> Array:
        assert self.sim.array is not None
        return self.sim.array

    # What clients ask for ---------------------------------------------------------------------------------

    @rule(change=CHANGES)
    def change(self, change: Change) -> None:
        self.sim.run(self._carry_out(change))

    @rule(offset=OFFSETS, length=LENGTHS)
    def read(self, offset: int, length: int) -> None:
        length = min(length, SIZE - offset)
        assert self.sim.run(self.array.pread(offset, length)) == self.bytes.now[offset : offset + length]

    @rule(ms=st.integers(0, 40))
    def wait(self, ms: int) -> None:
        """What nobody flushed may come home meanwhile; a tick is 25 ms."""
        self.sim.loop.run_for(ms)

    async def _carry_out(self, *changes: Change) -> None:
        """One after another. The bytes know of each before it begins, and that it is durable once that is promised."""
        for kind, offset, wanted, fua in changes:
            length = min(wanted, SIZE - offset)
            if kind == "flush":
                await self.array.flush()
            elif kind == "write":
                self.count += 1
                data = random.Random(self.count).randbytes(length)
                self.bytes.write(offset, data)
                await self.array.pwrite(offset, data, fua=fua)
            else:
                self.bytes.zero(offset, length)
                await getattr(self.array, kind)(offset, length, fua=fua)
            if fua or kind == "flush":
                self.bytes.flushed()

    # The end of a main program ----------------------------------------------------------------------------

    @rule(changes=st.lists(CHANGES, min_size=1, max_size=8), moment=MOMENTS, is_machine=st.booleans())
    def crash_in_a_burst(self, changes: list[Change], moment: int, is_machine: bool) -> None:
        """The main program dies; or its machine, and with it what it had sent and no disk has received."""
        self.sim.spawn(self._carry_out(*changes))
        self.sim.loop.run_for(moment / 100)
        self.sim.crash()
        for channel in self.sim.channels if is_machine else ():
            channel.cut()
        self.joining.clear()
        self.sim.mount()
        self.bytes.crashed(self.sim.read(0, SECTORS))

    @rule()
    def remount(self) -> None:
        self.let_rebuilds_finish()
        self.sim.run(self.array.close())
        self.sim.mount()
        self.bytes.flushed()

    # Disks ------------------------------------------------------------------------------------------------

    @property
    def _whole(self) -> list[int]:
        """Seats whose disk is a member and alive."""
        seats = self.array.members.roster.seats
        disks = zip(seats, self.sim.disks, strict=True)
        return [at for at, (who, disk) in enumerate(disks) if who and disk and disk.is_alive and disk.instance == who]

    @precondition(lambda self: len(self._whole) > self.sim.geometry.k)
    @rule(draw=SEATS)
    def kill(self, draw: int) -> None:
        self.sim.kill(self._whole[draw % len(self._whole)])

    @precondition(lambda self: len(self._whole) + len(self.joining) < self.sim.geometry.n)
    @rule(draw=SEATS, is_back=st.booleans())
    def rebuild(self, draw: int, is_back: bool) -> None:
        """A fresh disk, or the same one after a while, begins to join; steps go on meanwhile."""
        self.change(("flush", 0, 0, True))  # which votes off what is dead
        empty = [at for at in range(self.sim.geometry.n) if at not in self._whole and at not in self.joining]
        seat = empty[draw % len(empty)]
        disk = self.sim.disks[seat]
        if is_back and disk is not None:
            disk.is_alive = True
        else:
            self.sim.disks[seat] = self.sim.new_disk()
        self.joining[seat] = self.sim.spawn(self._join(seat))

    async def _join(self, seat: int) -> Exception | None:
        return await outcome(self.array.join(self.sim.new_channels()[seat], seat, Progress(SECTORS)))

    @rule()
    def let_rebuilds_finish(self) -> None:
        for seat, task in self.joining.items():
            assert self.sim.run(_result(task)) is None, f"seat {seat} was not rebuilt: {task}"
        self.joining.clear()

    def teardown(self) -> None:
        cache.ENTRY_SECTORS_MAX = ENTRY_SECTORS_MAX
        if hasattr(self, "bytes"):
            assert self.sim.read(0, SECTORS) == self.bytes.now
            self.sim.loop.check()


async def _result(task: Task[Any]) -> Any:
    return await task


def test_it_holds_what_a_byte_array_holds_through_crashes_deaths_and_rebuilds() -> None:
    run_state_machine_as_test(
        ArrayBesideBytes, settings=settings(max_examples=25, stateful_step_count=30, deadline=None)
    )


# The byte array itself ------------------------------------------------------------------------------------


def test_a_crash_may_leave_any_prefix_of_the_steps_and_nothing_else() -> None:
    for kept in range(4):
        model = ByteArray(4 * SECTOR_BYTES)
        model.write(100, b"a" * 2 * SECTOR_BYTES)
        left = bytearray(model.size_bytes)
        left[100 : min(100 + 2 * SECTOR_BYTES, kept * SECTOR_BYTES)] = model.now[100 : kept * SECTOR_BYTES][
            : 2 * SECTOR_BYTES
        ]
        model.crashed(bytes(left))
        assert model.now == left


def test_a_later_step_without_an_earlier_one_is_found() -> None:
    model = ByteArray(2 * SECTOR_BYTES)
    model.write(0, b"a" * SECTOR_BYTES)
    model.zero(0, 1)
    model.write(SECTOR_BYTES, b"b")
    with pytest.raises(AssertionError, match="no prefix of the 3 steps"):
        model.crashed(bytes(SECTOR_BYTES) + b"b" + bytes(SECTOR_BYTES - 1))


def test_a_torn_sector_and_a_lost_flush_are_found() -> None:
    model = ByteArray(2 * SECTOR_BYTES)
    model.write(0, b"a" * SECTOR_BYTES)
    torn = b"a" * 2000 + bytes(2 * SECTOR_BYTES - 2000)
    with pytest.raises(AssertionError, match=r"sectors \[0\] hold neither"):
        model.crashed(torn)
    model.flushed()
    with pytest.raises(AssertionError, match=r"sectors \[0\] hold neither"):
        model.crashed(bytes(2 * SECTOR_BYTES))

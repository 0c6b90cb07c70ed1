"""The ring when one disk is as far behind the others as it can be."""

from __future__ import annotations

import pytest

from perdure.array.engine import Array
from perdure.array.geometry import ENTRY_TRIMS_MAX, SLOTS, Run
from perdure.array.ports import Lane
from perdure.disk import wire
from perdure.disk.wire import Opcode
from tests.array.world import SimArray, sector

BATCHES = SLOTS + 12


def stop_before(sim: SimArray, seat: int, stop: int) -> None:
    """Nothing reaches a disk from its EXECUTE of seq `stop` on, and no answer comes back."""
    channel = sim.channels[seat]

    def intercept(lane: Lane, command: bytes) -> bytes | None:
        _, opcode, _, _, _, seq, _ = wire.COMMAND_HEADER.unpack_from(command, 64)
        if opcode == Opcode.EXECUTE and seq == stop:
            channel.is_silent = True
            return b""
        return None

    channel.intercept = intercept


async def send_batches(array: Array) -> None:
    """Small batches that are full, so that they go out as they are, as fast as answers come."""
    for value in range(1, BATCHES):
        array.cache.write(0, sector(value))
        for at in range(ENTRY_TRIMS_MAX):
            array.cache.trim(Run(1 + at, 1))
    array.committer.pump()


@pytest.mark.parametrize("slow", [0, 2])
def test_a_disk_that_is_as_far_behind_as_it_can_be_is_no_stray_after_a_crash(slow: int) -> None:
    """Spec 9.3: a slot is used again only once its entry is home on every disk, the slowest too.

    One disk stops at each command in turn; the others go on as far as they may; the main program dies; the next mount
    has the disk again, and must not take it for one whose host lied.
    """
    for stop in range(2, BATCHES + 4):
        sim = SimArray(k=2, n=3, sectors=1 + ENTRY_TRIMS_MAX, seed=stop)
        array = sim.create()
        stop_before(sim, slow, stop)
        sim.run(send_batches(array))
        sim.loop.run_for(10)
        assert array.members.lost == {}, "it is not given up yet"
        sim.crash()
        opened = sim.mount().opened
        assert [str(stray.why) for stray in opened.strays] == [], f"stopped before command {stop}"
        assert int.from_bytes(sim.read(0)[:8], "big") == opened.last

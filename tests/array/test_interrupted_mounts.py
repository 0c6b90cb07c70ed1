"""Mounts that are cut off between their steps, disks that die then, and disks that are shown again afterwards."""

from __future__ import annotations

import pytest

from perdure.array.mount import mount
from perdure.array.ports import Lane
from perdure.disk import wire
from perdure.disk.wire import Opcode
from tests.array.world import POLICY, Owner, SimArray, outcome, sector

PROPOSE, ACTIVATE = 1, 2
"""Their seq, where no entry is in the ring."""


@pytest.fixture
def sim() -> SimArray:
    world = SimArray(k=2, n=3, sectors=4)
    world.create()
    world.write(0, 1)
    world.settle()
    world.crash()
    return world


def cut_off(sim: SimArray, stop: dict[int, int]) -> None:
    """A mount whose EXECUTE of seq `stop[seat]` does not reach that disk; then the main program dies."""
    sim.owner = Owner()
    channels = sim.new_channels()
    for seat, last in stop.items():

        def intercept(lane: Lane, command: bytes, seat: int = seat, last: int = last) -> bytes | None:
            _, opcode, _, _, _, seq, _ = wire.COMMAND_HEADER.unpack_from(command, 64)
            if opcode == Opcode.EXECUTE and seq >= last:
                channels[seat].is_silent = True
                return b""
            return None

        channels[seat].intercept = intercept
    sim.spawn(outcome(mount(sim.world(), channels, sim.array_id, POLICY)))
    sim.loop.run_for(1300)  # a disk that is not there is waited for during 1000; a silent one is given up after 1500
    sim.crash()


def test_two_mounts_cut_off_while_they_activate_leave_an_array_that_opens(sim: SimArray) -> None:
    """Spec 8.2, step 11: the second proposal names the base, else only the first, which is void, would stand there."""
    cut_off(sim, {1: ACTIVATE, 2: ACTIVATE})
    cut_off(sim, {0: ACTIVATE})
    array = sim.mount()
    assert len(array.members.roster.members) == 3
    assert sim.read(0) == sector(1)


def test_a_death_while_a_mount_proposes_leaves_the_base_in_force(sim: SimArray) -> None:
    """Rule 5: nobody activates before all have the proposal; else the disk that was hidden could never come back."""
    hidden, sim.disks[2] = sim.disks[2], None
    cut_off(sim, {1: PROPOSE})
    sim.disks[1], sim.disks[2] = None, hidden
    array = sim.mount()
    assert len(array.members.roster.members) == 2
    assert sim.read(0) == sector(1)

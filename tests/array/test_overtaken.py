"""A mount that meets a later one at a single disk."""

from __future__ import annotations

from perdure.array.mount import mount
from perdure.array.ports import Lane
from perdure.disk import wire
from perdure.errors import Fenced
from tests.array.world import POLICY, Owner, SimArray, outcome


def test_a_mount_that_is_overtaken_at_one_disk_ends_and_votes_nobody_off() -> None:
    """Spec 8.2, step 4: between our HELLO and our OPEN another main program opens one disk at a later epoch."""
    sim = SimArray()
    sim.create()
    sim.crash()
    sim.owner = Owner()
    channels = sim.new_channels()
    disk = sim.disks[2]
    assert disk is not None

    def overtake(lane: Lane, command: bytes) -> bytes | None:
        if command[65] == wire.Opcode.OPEN:
            disk.core.epoch = b"\xff" * 16
        return None

    channels[2].intercept = overtake
    result = sim.run(outcome(mount(sim.world(), channels, sim.array_id, POLICY)))
    assert isinstance(result, Fenced)
    labels = slice(sim.geometry.current_start * 64, sim.geometry.head_start * 64)
    assert len({bytes(disk.memory[labels]) for disk in sim.disks if disk}) == 1, "no roster was proposed"

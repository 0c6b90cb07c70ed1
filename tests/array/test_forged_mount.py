"""What a host gains that answers in a disk's name while a main program mounts."""

from __future__ import annotations

import pytest

from perdure.array.engine import Array
from perdure.array.geometry import ENTRY_TRIMS_MAX, Run
from perdure.array.journal import Head
from perdure.array.mount import mount
from perdure.array.ports import Lane
from perdure.array.roster import AREA_BYTES
from perdure.disk import wire
from perdure.errors import PerdureError
from tests.array.world import POLICY, Owner, SimArray, assert_proposed_before_activated, outcome, sector


def forge_plain_answers(sim: SimArray, channel: object, seat: int) -> None:
    """Drop every EXECUTE that asks for no evidence, and say that it was carried out."""
    disk = sim.disks[seat]
    assert disk is not None
    core = disk.core

    def intercept(lane: Lane, command: bytes) -> bytes | None:
        _, opcode, wanted, _, epoch, seq, _ = wire.COMMAND_HEADER.unpack_from(command, 64)
        if opcode != wire.Opcode.EXECUTE or wanted:
            return None
        result = wire.RESULT.pack(core.instance, epoch, seq, core.size)
        return wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result

    channel.intercept = intercept  # type: ignore[attr-defined]


async def send_batches(array: Array, count: int) -> None:
    """Small batches that are full, so that they go out as they are."""
    for value in range(1, count + 1):
        array.cache.write(0, sector(value))
        for at in range(ENTRY_TRIMS_MAX):
            array.cache.trim(Run(1 + at, 1))
    array.committer.pump()


@pytest.mark.parametrize("entries", [0, 1, 6])
def test_when_a_mount_has_returned_every_member_holds_the_roster_and_has_applied_the_journal(entries: int) -> None:
    """A3, rules 4, 5 and 7: whatever a host answers itself, it is not taken for done."""
    sim = SimArray(sectors=1 + ENTRY_TRIMS_MAX)
    array = sim.create()
    sim.run(send_batches(array, entries))
    sim.loop.run_for(5)  # all disks have them, and no round that applies them has gone out yet
    sim.crash()
    sim.owner = Owner()
    channels = sim.new_channels()
    forge_plain_answers(sim, channels[0], 0)
    opened = sim.run(outcome(mount(sim.world(), channels, sim.array_id, POLICY)))
    assert not isinstance(opened, PerdureError), opened
    ring = slice(sim.geometry.slot_start(0) * 64, sim.geometry.tags_start * 64)
    for disk in sim.disks:
        assert disk is not None
        if disk.instance in opened.roster.members:
            labels = bytes(disk.memory[sim.geometry.current_start * 64 :][: 2 * AREA_BYTES])
            assert labels == opened.roster.encode() + bytes(AREA_BYTES)
            head = bytes(disk.memory[sim.geometry.head_start * 64 :][:64])
            assert Head.decode(head) == Head(opened.last, opened.last)
            assert not any(disk.memory[ring])
    assert opened.last == entries


@pytest.mark.parametrize("answer", [wire.REPLY_HEADER.pack(wire.REFUSAL, wire.Reason.WRONG_SEQ), b"\1"])
def test_one_host_that_lets_nothing_be_executed_costs_its_own_disk_and_not_the_mount(answer: bytes) -> None:
    """P2: it answers HELLO and READ truthfully, so it is found and fenced each time; n - k such hosts are borne."""
    sim = SimArray()
    sim.create()
    sim.crash()
    sim.owner = Owner()
    channels = sim.new_channels()
    channels[0].intercept = lambda lane, command: answer if command[65] == wire.Opcode.EXECUTE else None
    opened = sim.run(outcome(mount(sim.world(), channels, sim.array_id, POLICY)))
    assert not isinstance(opened, PerdureError), opened
    assert len(opened.roster.members) == 4


def test_nobody_activates_before_every_member_proved_to_have_the_proposal() -> None:
    """Rules 4 and 5: a host that answers PROPOSE itself must not bring the others to activate."""
    sim = SimArray()
    sim.create()
    sim.crash()
    sim.owner = Owner()
    channels = sim.new_channels()
    forge_plain_answers(sim, channels[0], 0)
    checked = 0

    def check(lane: Lane, command: bytes, reply: bytes) -> bytes:
        nonlocal checked
        checked += 1
        assert_proposed_before_activated(sim)
        return reply

    for channel in channels:
        channel.tamper = check
    sim.run(mount(sim.world(), channels, sim.array_id, POLICY))
    assert checked > 20

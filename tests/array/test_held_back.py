"""What a host achieves by patience: it holds an answer or a command back until the world has changed."""

from __future__ import annotations

import copy

import pytest

from perdure.array.geometry import SECTOR_BYTES
from perdure.array.join import Join, Progress
from perdure.array.mount import mount
from perdure.array.ports import Lane
from perdure.disk.wire import Opcode
from perdure.errors import Fenced, Misuse
from perdure.sim.disks import SimDisk
from perdure.sim.loop import Task
from tests.array.test_late_joiner import SEAT, _degraded, _mount
from tests.array.world import POLICY, Owner, SimArray, outcome

X = 5


# Answers to a scrub ---------------------------------------------------------------------------------------


def _slow_scrub(sim: SimArray, *, first_only: bool) -> Task[object]:
    """Tags are read 50 ms from now, fragments 150 ms, and the answers are there after 200."""
    assert sim.array is not None
    sim.read(X)
    for channel in sim.channels[: 4 if first_only else 5]:
        channel.lane_delay_ms[Lane.READ] = 50
    return sim.spawn(outcome(sim.array.scrub(Progress(8), sectors_per_s=16)))


@pytest.mark.parametrize("first_only", [False, True])
def test_a_slow_scrub_does_not_bring_back_what_was_written_and_trimmed_meanwhile(first_only: bool) -> None:
    """Never written, then written, then trimmed: the tag is what it was, and what was seen between counts no more."""
    sim = SimArray(sectors=8)
    array = sim.create()
    scrub = _slow_scrub(sim, first_only=first_only)
    sim.loop.run_for(5)
    sim.write(X, 77)
    sim.settle()
    sim.channels[4].lane_delay_ms[Lane.READ] = 50
    sim.loop.run_for(155 - sim.loop.time_ms)
    sim.run(array.trim(X * SECTOR_BYTES, SECTOR_BYTES))
    sim.settle()
    sim.loop.run_for(3000)
    assert scrub.done
    assert sim.read(X) == bytes(SECTOR_BYTES)


def test_a_slow_scrub_does_not_bring_back_what_was_erased_with_a_receipt() -> None:
    sim = SimArray(sectors=8)
    array = sim.create()
    scrub = _slow_scrub(sim, first_only=True)
    sim.loop.run_for(5)
    sim.write(X, 77)
    sim.settle()
    sim.loop.run_for(155 - sim.loop.time_ms)
    for channel in sim.channels:
        channel.lane_delay_ms[Lane.READ] = 0
    assert sim.run(array.erase(X * SECTOR_BYTES, SECTOR_BYTES)).is_beyond_recall
    sim.loop.run_for(3000)
    assert scrub.done
    sim.crash()
    sim.mount()
    assert sim.read(X) == bytes(SECTOR_BYTES)


# A joiner's greeting and OPEN -----------------------------------------------------------------------------


def _remembered(sim: SimArray, seat: int) -> SimDisk:
    """What a host can answer to a plain READ from what it saw go by."""
    disk = sim.disks[seat]
    assert disk is not None
    old = copy.copy(disk)
    old.memory = bytearray(disk.memory)
    old.core = copy.copy(disk.core)
    old.core.memory = memoryview(old.memory)
    old.commands = []
    return old


def test_a_joiner_that_was_written_to_between_its_greeting_and_its_open_is_not_taken_for_blank() -> None:
    """The earlier main's OPEN and copies land in between; the later one would believe the disk to be empty."""
    sim = SimArray(k=3, n=5, sectors=8, dead_after_ms=400)
    first, earlier, known = sim.create(), sim.owner, sim.channels
    sim.read(0, 8)
    sim.write(X, 77)
    sim.settle()
    sim.kill(0)
    sim.flush()
    sim.settle()
    blank = sim.disks[0] = sim.new_disk()
    slow = sim.new_channels()[0]
    slow.latency_ms = (40, 40)
    sim.spawn(outcome(first.join(slow, 0, Progress(8), reseal=False)))
    sim.loop.run_for(83)
    for seat in range(1, 5):
        old = _remembered(sim, seat)

        def answer(lane: Lane, command: bytes, old: SimDisk = old) -> bytes | None:
            is_plain_read = command[65] == Opcode.READ and not command[66]
            return old.core_reply(command) if is_plain_read else None

        known[seat].intercept = answer
    sim.owner = Owner()
    channels = sim.new_channels()
    second = sim._start(sim.run(mount(sim.world(), channels[1:], sim.array_id, POLICY)))
    sim.run(second.trim(X * SECTOR_BYTES, SECTOR_BYTES))
    sim.settle()
    channels[0].answer_ms_max = 5000

    def hold(lane: Lane, command: bytes, reply: bytes) -> bytes:
        channels[0].lane_delay_ms[Lane.WRITE] = 450 if command[65] == Opcode.HELLO else 0
        return reply

    channels[0].tamper = hold
    result = sim.run(outcome(second.join(channels[0], 0, Progress(8))))
    assert isinstance(result, Misuse)
    assert "blank a moment ago" in str(result)
    assert blank.instance not in second.members.roster.members
    sim.loop.kill(earlier)
    sim.crash()
    sim.mount()
    assert sim.read(X) == bytes(SECTOR_BYTES)


def test_a_late_mains_open_of_a_joiner_never_ends_the_mount_of_its_successor() -> None:
    """Every epoch that a main program gives to joiners is below those of all later mounts."""
    for seed in range(8):
        sim, first, owner = _degraded(seed)
        slow = sim.new_channels()[SEAT]
        slow.latency_ms = (100, 100)
        sim.spawn(outcome(first.join(slow, SEAT, Progress(8))))
        sim.loop.run_for(430)
        second = _mount(sim, 0, 1)
        sim.run(second.join(sim.new_channels()[SEAT], SEAT, Progress(8)))
        sim.write(0, 2)
        sim.flush()
        sim.loop.run_for(5000)
        assert second.committer.failure is None
        sim.loop.kill(owner)


def test_a_disk_that_a_later_mount_has_opened_is_left_to_it() -> None:
    sim, _, _ = _degraded(1)
    join = _join(sim, bytes(16))
    result = sim.run(outcome(join.run(sim.world().session(sim.new_channels()[SEAT]), SEAT, Progress(8))))
    assert isinstance(result, Misuse)
    assert "a later mount has opened this disk" in str(result)


def test_a_mount_without_epochs_left_takes_nobody_in() -> None:
    sim, first, _ = _degraded(2)
    join = _join(sim, first.opened.epoch[:8] + b"\xff" * 8)
    result = sim.run(outcome(join.run(sim.world().session(sim.new_channels()[SEAT]), SEAT, Progress(8))))
    assert isinstance(result, Misuse)
    assert "no epoch left" in str(result)


def test_a_joiner_whose_label_names_a_later_roster_is_not_written_to() -> None:
    """It cannot come about any more, since a later mount's epoch is above; the look is kept all the same."""
    sim, first, _ = _degraded(3)
    disk = sim.disks[SEAT]
    assert disk is not None
    join = _join(sim, bytes(16))
    join._own_epoch = lambda _greeting: b"\xff" * 16  # type: ignore[method-assign]
    result = sim.run(outcome(join.run(sim.world().session(sim.new_channels()[SEAT]), SEAT, Progress(8))))
    assert isinstance(result, Fenced)
    assert isinstance(first.committer.failure, Fenced)
    assert sum(command[65] == Opcode.EXECUTE for command in disk.commands[-3:]) == 0


def _join(sim: SimArray, epoch: bytes) -> Join:
    """A join by the mount under way, as if its epoch were another."""
    array = sim.array
    assert array is not None
    parts = (array.members, array.cache, array.reader, array.committer)
    return Join(sim.world(), array.opened.genesis, epoch, *parts)

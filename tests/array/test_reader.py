"""Verified reads when things go wrong: tags, fragments, sectors that change meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest

from perdure.array.geometry import SECTOR_BYTES, Run
from perdure.array.ports import Buffer, Lane
from perdure.disk import wire
from perdure.disk.wire import Opcode
from perdure.errors import Fenced, Fork, Rollback, Unavailable
from perdure.sim.disks import SimChannel
from tests.array.world import SimArray, outcome, sector


@pytest.fixture
def sim() -> SimArray:
    """Sectors 0 to 15 are home, and a fresh mount knows no tags."""
    world = SimArray()
    world.create()
    for index in range(16):
        world.write(index, index + 1)
    world.settle()
    world.crash()
    world.mount()
    return world


async def _wait(task: object) -> object:
    return await task  # type: ignore[misc]


def _reads(sim: SimArray, *, evidence: bool) -> int:
    commands = [command for disk in sim.disks if disk for command in disk.commands]
    return sum(command[65] == Opcode.READ and command[66] == evidence for command in commands)


def test_tags_are_read_once_with_evidence_and_then_known(sim: SimArray) -> None:
    assert sim.array is not None
    before = _reads(sim, evidence=True)
    tasks = [sim.spawn(sim.array.pread(index * SECTOR_BYTES, SECTOR_BYTES)) for index in range(16)]
    for index, task in enumerate(tasks):
        assert sim.run(_wait(task)) == sector(index + 1)
    assert _reads(sim, evidence=True) - before == 1, "all sixteen share one read of tags"
    assert sim.array.reader.tags.known_count == sim.geometry.sectors
    plain = _reads(sim, evidence=False)
    assert sim.read(3) == sector(4)
    assert _reads(sim, evidence=True) - before == 1
    assert _reads(sim, evidence=False) - plain == 3, "k fragments, no more"


def test_a_sector_never_written_costs_no_fragment(sim: SimArray) -> None:
    before = _reads(sim, evidence=False)
    assert sim.read(40) == bytes(SECTOR_BYTES)
    assert _reads(sim, evidence=False) == before


def test_tags_come_from_another_disk_when_the_first_is_dead(sim: SimArray) -> None:
    assert sim.array is not None
    sim.kill(0)
    assert sim.read(0) == sector(1)
    sim.loop.run_for(3000)
    assert sim.array.members.roster.seats[0] is None, "and the trouble was followed up"


def test_altered_tags_are_not_believed(sim: SimArray) -> None:
    """A8: the host moves one sector's tag to another in a reply; the evidence does not cover that reply."""

    def swap(lane: Lane, command: bytes, reply: bytes) -> bytes:
        if command[65] != Opcode.READ or not command[66] or len(reply) < 64 * 64:
            return reply
        start = wire.REPLY_HEADER.size + wire.RESULT.size
        return reply[:start] + reply[start + 64 : start + 128] + reply[start : start + 64] + reply[start + 128 :]

    sim.channels[0].tamper = swap
    assert sim.read(0, 2) == sector(1) + sector(2)


def test_when_no_disk_gives_tags_nothing_is_served(sim: SimArray) -> None:
    assert sim.array is not None
    for channel in sim.channels:
        channel.is_silent = True
    result = sim.run(outcome(sim.array.pread(0, 1)))
    assert isinstance(result, Unavailable)


def test_when_fewer_than_k_give_fragments_nothing_is_served(sim: SimArray) -> None:
    assert sim.array is not None
    sim.read(0)
    for channel in sim.channels[:3]:
        channel.is_silent = True
    result = sim.run(outcome(sim.array.pread(0, SECTOR_BYTES)))
    assert isinstance(result, Unavailable)
    assert "nothing older was served" in str(result)


@pytest.mark.parametrize("every_read", [False, True])
def test_evidence_of_a_rollback_met_while_reading_is_followed_up(every_read: bool) -> None:
    """The disk acknowledged through its host what it never had; a read with evidence shows it: loud, and voted off."""
    sim = SimArray(k=2, n=3, sectors=4)
    sim.create()
    sim.write(1, 1)
    sim.settle()
    sim.crash()
    array = sim.mount(every_read=every_read)
    if every_read:
        sim.read(1)  # tags first, so that the fragment's evidence is what shows it
    instance = array.members.roster.seats[0]
    assert instance is not None
    session = array.members.sessions[instance]
    session._answered_seq += 1  # what a forged plain answer leaves behind
    assert sim.run(array.pread(SECTOR_BYTES, SECTOR_BYTES)) == sector(1), "the others answer"
    assert isinstance(array.members.lost[instance], Rollback)
    sim.loop.run_for(100)
    assert array.members.roster.seats[0] is None
    assert sim.read(1) == sector(1)


def test_a_later_mount_met_while_reading_ends_this_one(sim: SimArray) -> None:
    assert sim.array is not None
    first, owner = sim.array, sim.owner
    sim.mount()
    sim.owner = owner
    assert isinstance(sim.run(outcome(first.pread(0, 1))), Unavailable | Fork)
    sim.loop.run_for(500)
    assert isinstance(first.committer.failure, Fork)


def test_a_lying_host_costs_a_second_look_but_no_write(sim: SimArray) -> None:
    """A7: bits flipped on the way, not on the disk: read again with evidence; nothing is rewritten."""
    assert sim.array is not None
    sim.read(0)
    sim.channels[1].tamper = lambda lane, command, reply: (
        reply[:-1] + bytes([reply[-1] ^ 1]) if command[65] == Opcode.READ and not command[66] else reply
    )
    assert sim.read(0, 16) == b"".join(sector(index + 1) for index in range(16))
    assert sim.array.cache.dirty_sectors == 0


def test_a_sector_overwritten_during_the_read_is_old_or_new_never_mixed(sim: SimArray) -> None:
    """The fragments come from both sides of an apply; the tag tells, and the read looks again."""
    assert sim.array is not None
    array = sim.array
    for value in range(100, 130):
        reading = sim.spawn(array.pread(0, SECTOR_BYTES))
        sim.loop.run_for(sim.loop.rng.random() * 0.3)
        sim.run(array.pwrite(0, sector(value)))
        sim.settle()
        got = int.from_bytes(bytes(sim.run(_wait(reading)))[:8], "big")  # type: ignore[call-overload]
        assert got in (1, value - 1, value)
        assert sim.read(0) == sector(value)


def test_a_second_look_finds_the_sector_in_the_cache(sim: SimArray) -> None:
    assert sim.array is not None
    array = sim.array
    sim.read(0)
    wrong = 0

    def overwrite(lane: Lane, command: bytes, reply: bytes) -> bytes:
        nonlocal wrong
        if command[65] == Opcode.READ and not wrong:
            wrong += 1
            array.cache.write(0, sector(77))
            return reply[:-1] + bytes([reply[-1] ^ 1])
        return reply

    sim.channels[0].tamper = overwrite
    assert sim.run(array.pread(0, SECTOR_BYTES)) == sector(77)


def test_a_second_look_that_finds_another_tag_looks_again(sim: SimArray) -> None:
    """While fragments are read anew the sector comes home in another version: a third look serves that."""
    assert sim.array is not None
    array = sim.array
    sim.read(0)
    looks = 0

    def flip_once(lane: Lane, command: bytes, reply: bytes) -> bytes:
        sim.channels[0].tamper = None
        return reply[:-1] + bytes([reply[-1] ^ 1])

    def held(channel: SimChannel) -> Callable[[Lane, Sequence[Buffer]], Awaitable[memoryview]]:
        """What is read with evidence arrives only after the new version is home everywhere."""
        send = channel.exchange

        def exchange(lane: Lane, parts: Sequence[Buffer]) -> Awaitable[memoryview]:
            nonlocal looks
            if lane is Lane.READ and parts[1][2]:
                looks += 1
                if looks == 1:
                    sim.loop.call_later(1, lambda: sim.spawn(_rewrite(sim)))
                if looks <= 5:
                    channel._arrives_ms[lane] = sim.loop.time_ms + 50
            return send(lane, parts)

        return exchange

    sim.channels[0].tamper = flip_once
    for channel in sim.channels:
        channel.exchange = held(channel)  # type: ignore[method-assign]
    assert sim.run(array.pread(0, SECTOR_BYTES)) == sector(500)
    assert looks == 10, "five disks, twice"


async def _rewrite(sim: SimArray) -> None:
    assert sim.array is not None
    await sim.array.pwrite(0, sector(500))
    await sim.array.committer.settle()


def test_a_wrong_fragment_is_not_written_anew_over_something_newer(sim: SimArray) -> None:
    assert sim.array is not None
    array = sim.array
    sim.read(0)
    tag = array.reader.tags.get(Run(0, 1))
    array.cache.write(0, sector(9))
    array.reader._repair(0, tag, memoryview(sector(1)))
    assert array.cache.find(0) == sector(9)


def test_a_disk_whose_reads_go_wrong_is_asked_last_for_a_while(sim: SimArray) -> None:
    """Its READ lane swallows everything: one read pays for that, the next ones do not."""
    assert sim.array is not None
    sim.read(0)
    slow = sim.channels[0]
    slow.tamper = lambda lane, command, reply: None if lane is Lane.READ else reply
    sim.read(1)
    start = sim.loop.time_ms
    for index in range(2, 12):
        assert sim.read(index) == sector(index + 1)
    assert sim.loop.time_ms - start < 20


def test_bits_flipped_on_the_way_are_counted_against_their_disk(sim: SimArray) -> None:
    assert sim.array is not None
    sim.read(0)
    sim.channels[1].tamper = lambda lane, command, reply: (
        reply[:-1] + bytes([reply[-1] ^ 1]) if command[65] == Opcode.READ and not command[66] else reply
    )
    before = sum(channel.exchange_count for channel in sim.channels)
    for index in range(16):
        assert sim.read(index) == sector(index + 1)
    assert sim.array.members.counted(sim.array.members.roster.seats[1]).checksum == 1  # type: ignore[arg-type]
    assert sum(channel.exchange_count for channel in sim.channels) - before < 16 * 3 + 10
    assert sim.array.cache.dirty_sectors == 0, "no disk holds a wrong fragment, so nothing is rewritten"


def test_evidence_of_a_later_mount_in_a_read_ends_the_read_and_the_mount(sim: SimArray) -> None:
    assert sim.array is not None
    _, session = next(iter(sim.array.members))
    with pytest.raises(Fenced):
        sim.array.reader._fetcher.fork(session, Fenced("another main program has mounted the array"))
    assert isinstance(sim.array.committer.failure, Fenced)


def test_a_wrong_fragment_of_a_disk_voted_off_meanwhile_is_nobodys(sim: SimArray) -> None:
    assert sim.array is not None
    reader = sim.array.reader
    columns = sim.run(reader._columns_of_all(Run(0, 1)))
    sim.kill(1)
    sim.flush()
    columns[1] = bytes(len(columns[1]))
    assert reader._blame(columns, {0, 2, 3}, {})
    assert all(errors.checksum == 0 for errors in sim.array.members.errors.values())


def test_reads_of_sectors_that_are_overwritten_meanwhile_accuse_nobody() -> None:
    sim = SimArray(k=3, n=5, sectors=64)
    array = sim.create()
    sim.write(0, 1, 64)
    sim.settle()
    sim.channels[0].lane_delay_ms[Lane.READ] = 5

    async def write() -> None:
        for value in range(50):
            await array.pwrite(0, sector(value + 2) * 8)
            await array.committer.settle()
            await sim.loop.sleep(3)

    async def read() -> None:
        for _ in range(100):
            await array.pread(0, 8 * SECTOR_BYTES)
            await sim.loop.sleep(0.7)

    tasks = [sim.spawn(write()), sim.spawn(read())]
    sim.loop.run_for(20_000)
    assert all(task.done for task in tasks)
    assert [array.members.counted(disk.instance).checksum for disk in sim.disks if disk] == [0] * 5


@pytest.mark.parametrize("is_known", [True, False])
def test_a_read_waits_through_a_short_break_as_a_write_does(is_known: bool) -> None:
    sim = SimArray(k=3, n=5, sectors=64, dead_after_ms=1000)
    sim.create()
    sim.write(0, 1, 64)
    sim.settle()
    if not is_known:
        sim.crash()
        sim.mount()
    assert sim.array is not None
    sim.kill(*range(3 if is_known else 5))
    reading = sim.spawn(sim.array.pread(0, SECTOR_BYTES))
    sim.loop.run_for(100)
    for disk in sim.disks:
        assert disk is not None
        disk.is_alive = True
    assert sim.run(_wait(reading)) == sector(1)

"""The commit pipeline: what a durable write costs, what FLUSH promises, what a lying host gains."""

from __future__ import annotations

import pytest

from perdure.array.geometry import ENTRY_SECTORS_MAX, SECTOR_BYTES, SLOTS
from perdure.array.ports import Lane
from perdure.disk import wire
from perdure.errors import Fenced, Rollback, Unavailable
from tests.array.world import Owner, SimArray, outcome, sector


@pytest.fixture(params=[False, True], ids=["evidence", "chains"])
def sim(request: pytest.FixtureRequest) -> SimArray:
    world = SimArray(has_chains=request.param)
    world.create()
    return world


def test_a_durable_write_is_one_round_trip_to_each_disk(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 1)
    sim.flush()
    before = [channel.exchange_count for channel in sim.channels]
    start = sim.loop.time_ms
    for at in range(50):
        sim.run(sim.array.pwrite(at * SECTOR_BYTES, sector(at), fua=True))
    elapsed = sim.loop.time_ms - start
    assert [channel.exchange_count - count for channel, count in zip(sim.channels, before, strict=True)] == [50] * 5
    slowest_round_trip_ms = 2 * 0.2
    assert elapsed <= 50 * slowest_round_trip_ms + 0.001


@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5), (4, 6), (4, 7), (5, 9)])
def test_bytes_on_the_wire_in_large_batches(k: int, n: int) -> None:
    """At most 1.15 n/k times 4,096 bytes for each sector, and a fixed header for each EXECUTE."""
    sim = SimArray(k=k, n=n, sectors=1 << 14)
    array = sim.create()
    before = sum(channel.sent_bytes for channel in sim.channels)
    sent = array.committer.sent_count
    order = list(range(0, 1 << 14, 7))[: 8 * ENTRY_SECTORS_MAX]  # no two neighbours: the dearest case
    for index in order:
        sim.write(index, index)
    sim.settle()
    executions = array.committer.sent_count - sent
    total = sum(channel.sent_bytes for channel in sim.channels) - before
    header = 4 + 64 + wire.COMMAND_HEADER.size + 1024
    assert total - executions * n * header <= 1.15 * n / k * SECTOR_BYTES * len(order)


def test_those_who_flush_meanwhile_share_one_round(sim: SimArray) -> None:
    assert sim.array is not None
    array = sim.array
    sim.write(0, 0)
    sim.flush()
    sent = array.committer.sent_count

    async def durable(at: int) -> None:
        await array.pwrite(at * SECTOR_BYTES, sector(at), fua=True)

    async def all_at_once() -> None:
        results = await sim.loop.gather(*(durable(at) for at in range(32)))
        assert results == [None] * 32

    sim.run(all_at_once())
    assert array.committer.sent_count - sent <= 4


def test_a_flush_is_not_starved_by_a_writer_that_never_stops() -> None:
    """The writer always finds the cache full and waits for room; a flush covers what came before it, and no more."""
    sim = SimArray(k=2, n=3, sectors=64 * ENTRY_SECTORS_MAX)
    array = sim.create()
    is_done = False

    async def writer() -> None:
        at = 0
        while not is_done:
            await array.pwrite(at % 64 * (ENTRY_SECTORS_MAX * SECTOR_BYTES), sector(at) * ENTRY_SECTORS_MAX)
            at += 1

    task = sim.spawn(outcome(writer()))
    sim.loop.run_for(2)
    assert array.cache.is_full
    start = sim.loop.time_ms
    sim.flush()
    assert sim.loop.time_ms - start < 20
    assert not array.cache.is_clean, "the writer has gone on all the time"
    is_done = True
    assert sim.run(_wait(task)) is None


async def _wait(task: object) -> object:
    return await task  # type: ignore[misc]


def test_a_full_journal_makes_writers_wait_and_loses_nothing(sim: SimArray) -> None:
    """Far more than ring and cache hold, without one flush: the writer is held back, memory stays bounded."""
    sim = SimArray(k=2, n=3, sectors=ENTRY_SECTORS_MAX * 4)
    array = sim.create()
    for channel in sim.channels:
        channel.is_silent = True
        channel.answer_ms_max = 1e9

    async def flood() -> None:
        for at in range(SLOTS * 5):
            await array.pwrite(0, sector(at) * ENTRY_SECTORS_MAX)

    task = sim.spawn(outcome(flood()))
    sim.loop.run_for(100)
    assert not task.done
    assert array.cache.is_full
    assert array.cache.dirty_sectors <= 33 * ENTRY_SECTORS_MAX
    for channel in sim.channels:
        channel.is_silent = False
        channel.close()
    assert sim.run(_wait(task)) is None
    assert sim.read(0) == sector(SLOTS * 5 - 1)
    sim.settle()
    assert sim.read(ENTRY_SECTORS_MAX - 1) == sector(SLOTS * 5 - 1)


def test_forged_acknowledgements_never_satisfy_a_flush(sim: SimArray) -> None:
    """A3: the host drops our writes and answers for the disk; the documents it would need it cannot make."""
    assert sim.array is not None
    for seat in range(3):
        _forge(sim, seat)
    sim.write(0, 1)
    result = sim.run(outcome(sim.array.flush()))
    assert isinstance(result, Unavailable)
    assert "3 are needed" in str(result)


def _forge(sim: SimArray, seat: int) -> None:
    """Drop every EXECUTE to a disk and answer in its name, with evidence kept from an earlier answer where asked."""
    disk = sim.disks[seat]
    assert disk is not None
    core = disk.core

    def intercept(lane: Lane, command: bytes) -> bytes | None:
        if command[65] != wire.Opcode.EXECUTE:
            return None
        fields = wire.COMMAND_HEADER.unpack_from(command, 64)
        result = wire.RESULT.pack(core.instance, fields[4], fields[5], core.size)
        reply = wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result
        return reply + (wire.PATH_HEADER.pack(0, 1) + bytes(96) if fields[2] else b"")

    sim.channels[seat].intercept = intercept


def test_forged_acknowledgements_never_make_us_overwrite_what_was_flushed() -> None:
    """Without evidence before COPY, n-k+1 forged disks would leave new fragments on few and old ones on too few.

    Whole batches go out without evidence; the host drops them on three disks and answers in their name.
    """
    sim = SimArray(sectors=ENTRY_SECTORS_MAX)
    array = sim.create()
    sim.run(array.pwrite(0, sector(1) * ENTRY_SECTORS_MAX, fua=True))
    sim.settle()
    for seat in range(3):
        _forge(sim, seat)
    for value in range(2, 5):
        sim.run(array.pwrite(0, sector(value) * ENTRY_SECTORS_MAX))
        sim.loop.run_for(2)
    assert array.members.lost == {}, "nobody has noticed yet"
    sim.crash()
    sim.mount()
    assert sim.read(0) == sector(1), "the last value that was flushed; nothing later was promised"


def test_a_disk_whose_host_forged_answers_is_voted_off_as_a_rollback(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 1)
    sim.flush()
    _forge(sim, 4)
    sim.write(0, 2)
    task = sim.spawn(outcome(sim.array.flush()))
    sim.loop.run_for(50)
    sim.channels[4].intercept = None
    assert sim.run(_wait(task)) is None
    assert sim.read(0) == sector(2)


def test_lost_plain_answers_are_noticed_as_a_rollback(sim: SimArray) -> None:
    """The host answers plain EXECUTEs itself, then lets evidence through: the disk proves it never had them."""
    sim = SimArray(k=2, n=3, sectors=ENTRY_SECTORS_MAX)
    array = sim.create()
    core = sim.disks[0].core  # type: ignore[union-attr]
    real_seq = 0

    def intercept(lane: Lane, command: bytes) -> bytes | None:
        fields = wire.COMMAND_HEADER.unpack_from(command, 64)
        if fields[1] != wire.Opcode.EXECUTE or fields[2]:
            return None
        result = wire.RESULT.pack(core.instance, fields[4], fields[5], core.size)
        return wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result

    sim.channels[0].intercept = intercept
    assert real_seq == 0
    for at in range(3):  # whole batches go out without evidence
        sim.run(array.pwrite(0, sector(at) * ENTRY_SECTORS_MAX))
    sim.flush()
    verdict = array.members.lost[sim.array.opened.roster.seats[0]]  # type: ignore[union-attr,index]
    assert isinstance(verdict, Rollback)
    assert "forged" in str(verdict)
    assert sim.read(0) == sector(2)


def test_a_flush_with_nothing_to_write_still_proves_ownership(sim: SimArray) -> None:
    """P4: an earlier main program is told by its next flush, even an empty one, that it has lost the array."""
    assert sim.array is not None
    first = sim.array
    sim.write(0, 1)
    sim.flush()
    first_owner = sim.owner
    second = sim.mount()
    assert second is not first
    sim.owner = first_owner
    with pytest.raises(Fenced, match="another main program"):
        sim.run(first.flush())
    for work in (first.pread(0, 1), first.pwrite(0, b"x"), first.flush(), first.trim(0, 4096)):
        with pytest.raises(Fenced):
            sim.run(work)
    sim.owner = Owner()
    assert sim.run(second.pread(0, SECTOR_BYTES)) == sector(1)


def test_an_earlier_main_program_writes_nothing_after_a_later_mount(sim: SimArray) -> None:
    assert sim.array is not None
    first, first_owner = sim.array, sim.owner
    sim.write(0, 1)
    sim.flush()
    second = sim.mount()
    second_owner = sim.owner
    sim.owner = first_owner
    sim.run(first.pwrite(0, sector(666)))
    assert isinstance(sim.run(outcome(first.flush())), Fenced)
    sim.owner = second_owner
    assert sim.run(second.pread(0, SECTOR_BYTES)) == sector(1)
    sim.run(second.pwrite(0, sector(3), fua=True))
    sim.crash()
    sim.mount()
    assert sim.read(0) == sector(3)


def test_what_a_crash_leaves_is_a_prefix_of_what_was_written() -> None:
    """Writes 1, 2, 3 ... to sectors in turn, a crash at every moment: if value v is there, so is everything before."""
    for moment in range(60):
        sim = SimArray(k=2, n=3, sectors=8, seed=moment)
        array = sim.create()

        async def writes(array=array) -> None:  # type: ignore[no-untyped-def]
            for value in range(1, 40):
                await array.pwrite(value % 8 * SECTOR_BYTES, sector(value), fua=value % 3 == 0)

        task = sim.spawn(outcome(writes()))
        sim.loop.run_for(moment * 0.1)
        sim.crash()
        assert task.done
        sim.mount()
        values = [int.from_bytes(sim.read(index)[:8], "big") for index in range(8)]
        last = max(values)
        expected = [max((v for v in range(1, last + 1) if v % 8 == index), default=0) for index in range(8)]
        assert values == expected, f"crash at {moment * 0.1} ms"

"""The array as its users see it, against a plain byte string, in a simulated world."""

from __future__ import annotations

import pytest

from perdure.array.geometry import SECTOR_BYTES
from perdure.errors import Misuse
from tests.array.world import SimArray, sector


@pytest.fixture(params=[False, True], ids=["evidence", "chains"])
def sim(request: pytest.FixtureRequest) -> SimArray:
    world = SimArray(has_chains=request.param)
    world.create()
    return world


def test_what_was_never_written_reads_as_zeros(sim: SimArray) -> None:
    assert sim.read(0, 64) == bytes(64 * SECTOR_BYTES)


def test_reads_what_was_last_written_from_cache_and_from_disks(sim: SimArray) -> None:
    sim.write(5, 1)
    sim.write(5, 2)
    assert sim.read(5) == sector(2)
    sim.settle()
    assert sim.array is not None
    assert sim.array.cache.find(5) is None, "the read below must come from the disks"
    assert sim.read(5) == sector(2)


def test_writes_need_no_alignment(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 7, count=3)
    sim.settle()
    sim.run(sim.array.pwrite(4000, b"x" * 4200))
    expected = bytearray(sector(7) * 3)
    expected[4000:8200] = b"x" * 4200
    assert sim.read(0, 3) == expected
    sim.settle()
    assert sim.read(0, 3) == expected
    assert sim.run(sim.array.pread(3999, 4202)) == expected[3999:8201]


def test_a_buffer_is_its_bytes_whatever_its_items_are(sim: SimArray) -> None:
    """Else a sector of another size than 4,096 bytes ends the mount, with what others had written beside it."""
    assert sim.array is not None
    sim.write(1, 7, count=2)
    words = memoryview(bytes(range(64)) * 3 * 32).cast("I")
    sim.run(sim.array.pwrite(0, words))
    for _ in range(2):
        assert sim.read(0, 3) == words.tobytes() + sector(7)[words.nbytes - SECTOR_BYTES :] + sector(7)
        sim.settle()
    with pytest.raises(Misuse):
        sim.run(sim.array.pwrite(sim.array.size_bytes - 4, memoryview(bytes(8)).cast("I")))


def test_partial_writes_to_one_sector_at_once_lose_nothing(sim: SimArray) -> None:
    """Both must read the sector first; neither may put back what the other replaced."""
    assert sim.array is not None
    sim.write(9, 1)
    sim.settle()
    array = sim.array
    array.reader.tags._known[:] = False  # so that each has to wait for evidence first
    base = 9 * SECTOR_BYTES
    tasks = [sim.spawn(array.pwrite(base + at * 16, bytes([at + 1]) * 16)) for at in range(8)]
    tasks.append(sim.spawn(array.pwrite(base + 4080, b"e" * 16)))
    for task in tasks:
        sim.run(_wait(task))
    got = sim.read(9)
    assert got[:128] == b"".join(bytes([at + 1]) * 16 for at in range(8))
    assert got[4080:] == b"e" * 16
    assert got[128:4080] == sector(1)[128:4080]


async def _wait(task: object) -> None:
    await task  # type: ignore[misc]


def test_trim_reads_as_zeros_and_wipes_the_disks(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(10, 3, count=10)
    sim.settle()
    sim.run(sim.array.trim(10 * SECTOR_BYTES + 100, 5 * SECTOR_BYTES))
    expected = bytearray(sector(3) * 10)
    expected[100 : 100 + 5 * SECTOR_BYTES] = bytes(5 * SECTOR_BYTES)
    assert sim.read(10, 10) == expected
    sim.settle()
    assert sim.read(10, 10) == expected
    shape = sim.geometry
    for disk in sim.disks:
        assert disk is not None
        for index in range(11, 15):  # whole sectors within the range
            assert not any(disk.memory[shape.tag_start(index) * 64 : (shape.tag_start(index) + 1) * 64])
            start = shape.fragment_start(index) * 64
            assert not any(disk.memory[start : start + shape.fragment_bytes])


def test_trim_and_write_in_one_batch_keep_their_order(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(1, 1, count=4)
    sim.run(sim.array.trim(2 * SECTOR_BYTES, 2 * SECTOR_BYTES))
    sim.write(3, 9)
    expected = sector(1) + bytes(SECTOR_BYTES) + sector(9) + sector(1)
    assert sim.read(1, 4) == expected
    sim.settle()
    assert sim.read(1, 4) == expected


def test_a_trim_longer_than_one_entry_may_trim_is_cut() -> None:
    sim = SimArray(k=2, n=3, sectors=70_000)
    array = sim.create()
    sim.write(0, 1)
    sim.write(69_999, 2)
    sim.settle()
    sim.run(array.trim(0, array.size_bytes))
    sim.settle()
    assert sim.read(0) == bytes(SECTOR_BYTES)
    assert sim.read(69_999) == bytes(SECTOR_BYTES)


def test_write_zeroes_within_one_sector(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 1)
    sim.run(sim.array.write_zeroes(8, 16, fua=True))
    assert sim.read(0) == sector(1)[:8] + bytes(16) + sector(1)[24:]


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 64 * SECTOR_BYTES + 1), (64 * SECTOR_BYTES, 1), (0, -1)])
def test_nothing_beyond_the_end(sim: SimArray, offset: int, length: int) -> None:
    assert sim.array is not None
    with pytest.raises(Misuse, match="not all within"):
        sim.run(sim.array.pread(offset, length))
    with pytest.raises(Misuse, match="not all within"):
        sim.run(sim.array.trim(offset, length))


def test_an_empty_read_and_write_are_allowed_anywhere(sim: SimArray) -> None:
    assert sim.array is not None
    assert sim.run(sim.array.pread(64 * SECTOR_BYTES, 0)) == b""
    sim.run(sim.array.pwrite(64 * SECTOR_BYTES, b""))


def test_after_close_nothing_works_and_everything_is_home(sim: SimArray) -> None:
    assert sim.array is not None
    array = sim.array
    sim.write(1, 5)
    sim.run(array.close())
    sim.run(array.close())
    for work in (array.pread(0, 1), array.pwrite(0, b"x"), array.flush()):
        with pytest.raises(Misuse, match="closed"):
            sim.run(work)
    for disk in sim.disks:
        assert disk is not None
        start, end = sim.geometry.slot_start(0) * 64, sim.geometry.tags_start * 64
        assert not any(disk.memory[start:end]), "the journal is wiped"
    sim.mount()
    assert sim.read(1) == sector(5)


def test_abandon_fails_who_waits_and_who_comes(sim: SimArray) -> None:
    assert sim.array is not None
    array = sim.array
    for channel in sim.channels:
        channel.is_silent = True
    task = sim.spawn(array.flush())
    sim.loop.run_for(1)
    array.abandon()
    with pytest.raises(Misuse, match="closed"):
        sim.run(_wait(task))


def test_what_nobody_flushes_comes_home_by_itself(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 1)
    sim.loop.run_for(500)
    assert sim.array.committer.is_idle
    assert sim.array.cache.dirty_sectors == 0
    assert sim.read(0) == sector(1)


def test_erase_leaves_nothing_on_any_live_disk(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(20, 1, count=4)
    sim.settle()
    homes = [bytes(disk.memory[sim.geometry.fragment_start(20) * 64 :][:1408]) for disk in sim.disks if disk]
    tags = [bytes(disk.memory[sim.geometry.tag_start(20) * 64 :][:64]) for disk in sim.disks if disk]
    assert all(any(home) for home in homes)
    erased = sim.run(sim.array.erase(20 * SECTOR_BYTES, 4 * SECTOR_BYTES))
    for disk, home, tag in zip(sim.disks, homes, tags, strict=True):
        assert disk is not None
        assert home not in bytes(disk.memory)
        assert tag not in bytes(disk.memory)
    assert erased.members == tuple(disk.instance for disk in sim.disks if disk)
    assert erased.departed == ()
    assert (erased.receipt.offset, erased.receipt.length) == (20 * SECTOR_BYTES, 4 * SECTOR_BYTES)
    assert sim.read(20, 4) == bytes(4 * SECTOR_BYTES)


def test_erase_names_the_dead_and_what_they_last_held(sim: SimArray) -> None:
    assert sim.array is not None
    dead = sim.disks[2]
    assert dead is not None
    sim.write(0, 1)
    sim.flush()
    last = sim.array.committer.last
    sim.kill(2)
    erased = sim.run(sim.array.erase(0, SECTOR_BYTES))
    assert [(gone.seat, gone.instance) for gone in erased.departed] == [(2, dead.instance)]
    assert erased.departed[0].last >= last


def test_attest_every_read_asks_for_evidence_with_each_fragment(sim: SimArray) -> None:
    sim.write(0, 1)
    sim.settle()
    sim.crash()
    sim.mount(every_read=True)
    assert sim.read(0) == sector(1)
    before = [len(disk.commands) for disk in sim.disks if disk]
    assert sim.read(0) == sector(1)
    asked = [disk.commands[count:] for disk, count in zip(sim.disks, before, strict=True) if disk]
    reads = [command for commands in asked for command in commands if command[65] == 4]
    assert len(reads) == 3
    assert all(command[66] == 1 for command in reads), "the flag that asks for evidence"

"""A scrub finds what is wrong on any disk, says whose it is, and mends it."""

from __future__ import annotations

import pytest

from perdure.array.cache import WriteCache
from perdure.array.geometry import SECTOR_BYTES, Run
from perdure.array.join import Progress
from perdure.array.ports import Buffer
from perdure.array.scrub import Scrub
from perdure.disk.wire import Opcode
from perdure.errors import Corrupt, Rollback
from tests.array.world import SimArray, outcome, sector

SECTORS = 300


@pytest.fixture
def sim() -> SimArray:
    world = SimArray(sectors=SECTORS, dead_after_ms=200)
    world.create()
    for index in range(0, SECTORS, 2):
        world.write(index, index + 1)
    world.settle()
    return world


def _scrub(sim: SimArray) -> Progress:
    assert sim.array is not None
    progress = Progress(SECTORS)
    sim.run(sim.array.scrub(progress))
    assert progress.done == SECTORS
    return progress


def _flip(sim: SimArray, seat: int, disk_sector: int) -> None:
    disk = sim.disks[seat]
    assert disk is not None
    disk.memory[disk_sector * 64 + 3] ^= 1


def _errors(sim: SimArray) -> list[int]:
    assert sim.array is not None
    return [sim.array.members.counted(disk.instance).checksum for disk in sim.disks if disk]


def test_a_clean_array_is_left_alone(sim: SimArray) -> None:
    assert sim.array is not None
    last = sim.array.committer.last
    assert _scrub(sim).mended == 0
    assert sim.array.committer.last == last
    assert _errors(sim) == [0] * 5


def test_wrong_fragments_and_tags_are_found_named_and_mended_on_every_seat(sim: SimArray) -> None:
    """Parity and data, in use and never written; reads would have noticed none of those on seats 3 and 4."""
    shape = sim.geometry
    _flip(sim, 0, shape.fragment_start(0))
    _flip(sim, 3, shape.fragment_start(2))
    _flip(sim, 4, shape.fragment_start(299))
    _flip(sim, 4, shape.tag_start(4))
    _flip(sim, 2, shape.tag_start(297))
    assert _scrub(sim).mended == 5
    assert _errors(sim) == [1, 0, 1, 1, 2]
    assert _scrub(sim).mended == 0
    for index in range(SECTORS):
        assert sim.read(index) == sector(index + 1 if index % 2 == 0 else 0)


def test_what_a_host_flips_on_the_way_is_not_taken_for_the_disks(sim: SimArray) -> None:
    sim.channels[1].tamper = lambda lane, command, reply: (
        reply[:-1] + bytes([reply[-1] ^ 1]) if command[65] == Opcode.READ and not command[66] else reply
    )
    assert _scrub(sim).mended == 0


def test_a_sector_that_nobody_can_rebuild_is_an_error(sim: SimArray) -> None:
    assert sim.array is not None
    for seat in range(3):
        _flip(sim, seat, sim.geometry.fragment_start(6))
    assert isinstance(sim.run(outcome(sim.array.scrub(Progress(SECTORS)))), Corrupt)


def test_writes_go_on_during_a_scrub(sim: SimArray) -> None:
    assert sim.array is not None
    scrubbing = sim.spawn(sim.array.scrub(Progress(SECTORS), sectors_per_s=3000))
    values = {}
    while not scrubbing.done:
        index = sim.loop.rng.randrange(SECTORS)
        values[index] = 5000 + len(values)
        sim.run(sim.array.pwrite(index * SECTOR_BYTES, sector(values[index])))
        sim.loop.run_for(0.5)
    assert len(values) > 50
    assert _errors(sim) == [0] * 5
    for index, value in values.items():
        assert sim.read(index) == sector(value)


def test_a_disk_that_dies_during_a_scrub_is_followed_up(sim: SimArray) -> None:
    assert sim.array is not None
    sim.kill(1)
    _scrub(sim)
    sim.loop.run_for(1000)
    assert sim.array.members.roster.seats[1] is None


def test_a_rollback_met_while_scrubbing_is_voted_off(sim: SimArray) -> None:
    assert sim.array is not None
    *_, (_, session) = sim.array.members
    session._answered_seq += 1  # what a forged plain answer leaves behind
    _scrub(sim)
    assert isinstance(sim.array.members.lost[session.instance], Rollback)


def test_a_sector_overwritten_while_it_is_scrubbed_is_left_to_its_writer(sim: SimArray) -> None:
    """Whether the write comes while the disks are read, or while room for the mended sector is waited for."""
    assert sim.array is not None
    array = sim.array
    _flip(sim, 4, sim.geometry.fragment_start(0))
    (wrong,) = sim.run(array.reader.differing(Run(0, 1)))
    array.cache.write(0, sector(77))
    assert sim.run(array.reader.differing(Run(0, 1))) == []
    scrub = Scrub(sim.geometry, array.members, array.cache, array.reader, array.committer, sim.loop)
    assert sim.run(scrub._mend(wrong)) == 0
    assert sim.read(0) == sector(77)


@pytest.mark.parametrize("spoilt", ["flipped", "zeros"])
@pytest.mark.parametrize("seat", range(5))
def test_a_wrong_tag_on_the_disk_that_is_believed_after_a_mount_is_found_and_mended(
    sim: SimArray, seat: int, spoilt: str
) -> None:
    """Tags are read from one member; when nothing opens under its tag, or another's opens, that one was wrong."""
    sim.crash()
    sim.mount()
    disk = sim.disks[seat]
    assert disk is not None
    place = sim.geometry.tag_start(4) * 64
    disk.memory[place : place + 64] = bytes(64) if spoilt == "zeros" else bytes([disk.memory[place] ^ 1] * 64)
    assert _scrub(sim).mended == 1
    assert [bool(count) for count in _errors(sim)] == [at == seat for at in range(5)]
    assert sim.read(4) == sector(5)
    assert _scrub(sim).mended == 0


def test_a_read_and_a_rebuild_do_not_end_at_one_disks_wrong_tag(sim: SimArray) -> None:
    for reading in (True, False):
        sim.crash()
        sim.mount()
        assert sim.array is not None
        disk = sim.disks[0]
        assert disk is not None
        disk.memory[sim.geometry.tag_start(4) * 64] ^= 1
        if reading:
            assert sim.read(4) == sector(5)
            sim.settle()
        else:
            sim.kill(4)
            sim.flush()
            sim.disks[4] = sim.new_disk()
            sim.run(sim.array.join(sim.new_channels()[4], 4, Progress(SECTORS), reseal=False))
        sim.settle()
        assert _scrub(sim).mended == 0
        assert sim.read(4) == sector(5)


def test_when_no_tag_opens_it_the_sector_is_corrupt_and_nothing_is_returned(sim: SimArray) -> None:
    sim.crash()
    sim.mount()
    assert sim.array is not None
    for disk in sim.disks:
        assert disk is not None
        disk.memory[sim.geometry.tag_start(4) * 64] ^= 1
    result = sim.run(outcome(sim.array.pread(4 * SECTOR_BYTES, SECTOR_BYTES)))
    assert isinstance(result, Corrupt)


def test_a_rebuild_that_meets_a_wrong_tag_while_the_cache_is_full_leaves_nothing_out(
    sim: SimArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.crash()
    disk = sim.disks[0]
    assert disk is not None
    disk.memory[sim.geometry.tag_start(4) * 64 + 3] ^= 1
    array = sim.mount()
    sim.kill(4)
    sim.flush()
    sim.disks[4] = sim.new_disk()
    again, real = array.reader._fragment_again, WriteCache.is_full.fget
    full = []

    async def while_full(index: int, seat: int) -> dict[int, Buffer]:
        full.append(index)
        try:
            return await again(index, seat)
        finally:
            full.pop()

    monkeypatch.setattr(WriteCache, "is_full", property(lambda cache: bool(full) or real(cache)))  # type: ignore[misc]
    monkeypatch.setattr(array.reader, "_fragment_again", while_full)
    sim.run(array.join(sim.new_channels()[4], 4, Progress(SECTORS), reseal=False))
    monkeypatch.undo()
    assert _scrub(sim).mended == 0
    sim.kill(0, 1)
    assert sim.read(4) == sector(5)


def test_wrong_tags_on_two_disks_are_both_passed_over(sim: SimArray) -> None:
    sim.crash()
    sim.mount()
    for seat in (0, 1):
        disk = sim.disks[seat]
        assert disk is not None
        place = sim.geometry.tag_start(4) * 64
        disk.memory[place : place + 2] = bytes([0, seat])
    assert sim.read(4) == sector(5)
    sim.settle()
    assert _scrub(sim).mended == 0


def test_a_rebuild_accuses_nobody_of_a_sector_that_changed_while_it_looked_again(
    sim: SimArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sim.array is not None
    array = sim.array
    sim.kill(4)
    sim.flush()
    sim.disks[4] = sim.new_disk()
    sim.read(4)
    look = array.reader._fetcher.columns

    async def spoilt(runs: list[Run], wanted: int, *, evidence: bool) -> dict[int, Buffer]:
        columns = await look(runs, wanted, evidence=evidence)
        if evidence:
            array.reader.tags._changes[runs[0].start] += 1
        else:
            columns = {seat: bytes(len(column)) for seat, column in columns.items()}
        return columns

    monkeypatch.setattr(array.reader._fetcher, "columns", spoilt)
    sim.run(array.join(sim.new_channels()[4], 4, Progress(SECTORS), reseal=False))
    monkeypatch.undo()
    assert _errors(sim) == [0] * 5
    assert _scrub(sim).mended == 0


@pytest.mark.parametrize("seat", range(5))
@pytest.mark.parametrize("where", ["a fragment", "a fragment never written", "a tag", "a tag never written"])
def test_one_wrong_thing_alone_is_found_wherever_it_is(sim: SimArray, seat: int, where: str) -> None:
    """Where everything else is as it must be, a whole run is looked at in one turn."""
    shape = sim.geometry
    index = 3 if "never" in where else 2
    _flip(sim, seat, shape.tag_start(index) if "tag" in where else shape.fragment_start(index))
    assert sim.array is not None
    if (seat, where) == (0, "a tag never written"):  # the one that told the tag: others' "never written" opens anything
        assert isinstance(sim.run(outcome(sim.array.reader.differing(Run(0, 16)))), Corrupt)
        return
    (wrong,) = sim.run(sim.array.reader.differing(Run(0, 16)))
    assert (wrong.index, wrong.content) == (index, sector(0 if "never" in where else index + 1))


def test_where_there_is_no_parity_a_wrong_fragment_shows_by_its_tag_alone() -> None:
    sim = SimArray(k=2, n=2, sectors=4)
    array = sim.create()
    sim.write(1, 1)
    sim.settle()
    _flip(sim, 0, sim.geometry.fragment_start(1))
    assert isinstance(sim.run(outcome(array.reader.differing(Run(0, 4)))), Corrupt)

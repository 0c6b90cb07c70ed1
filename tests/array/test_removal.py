"""Deaths while serving: votes, rosters, and every subset of n-k deaths at every moment."""

from __future__ import annotations

from itertools import combinations

import pytest

from perdure.array.geometry import SECTOR_BYTES
from perdure.array.members import Errors
from perdure.array.ports import Lane
from perdure.array.session import Health
from perdure.errors import Clone, DiskLost, Fork, Misuse, TakenOffline, Unavailable
from tests.array.world import SimArray, assert_proposed_before_activated, outcome, sector


@pytest.fixture(params=[False, True], ids=["evidence", "chains"])
def sim(request: pytest.FixtureRequest) -> SimArray:
    world = SimArray(has_chains=request.param)
    world.create()
    return world


async def _wait(task: object) -> object:
    return await task  # type: ignore[misc]


def test_a_dead_disk_is_voted_off_and_its_death_recorded(sim: SimArray) -> None:
    assert sim.array is not None
    dead = sim.disks[1]
    assert dead is not None
    sim.write(0, 1)
    sim.flush()
    sim.kill(1)
    sim.write(0, 2)
    sim.flush()
    roster = sim.array.members.roster
    assert roster.seats[1] is None
    assert [gone.instance for gone in roster.departed] == [dead.instance]
    for disk in sim.disks:
        assert disk is not None
        start = sim.geometry.current_start * 64
        is_recorded = bytes(disk.memory[start : start + 8192]) == roster.encode()
        assert is_recorded == disk.is_alive
        assert not any(disk.memory[sim.geometry.next_start * 64 :][:8192]) or not disk.is_alive


def test_an_idle_array_notices_a_death_by_itself(sim: SimArray) -> None:
    assert sim.array is not None
    sim.kill(0)
    sim.loop.run_for(5000)
    assert sim.array.members.roster.seats[0] is None


def test_a_disk_that_is_taken_offline_is_voted_off_and_not_accused_of_anything(sim: SimArray) -> None:
    assert sim.array is not None
    disk = sim.disks[1]
    assert disk is not None
    sim.write(0, 1)
    sim.run(sim.array.take_offline(1))
    assert sim.array.members.roster.seats[1] is None
    assert isinstance(sim.array.members.lost[disk.instance], TakenOffline)
    assert sim.array.members.counted(disk.instance) == Errors()
    assert sim.read(0) == sector(1)
    with pytest.raises(Misuse, match="seat 1 has no disk that could be taken offline"):
        sim.run(sim.array.take_offline(1))
    with pytest.raises(Misuse, match="without the disk in seat 2 no other could be lost any more: 3 would be left"):
        sim.run(sim.array.take_offline(2))
    assert len(sim.array.members.roster.members) == 4


def test_who_is_given_up_already_stays_given_up_for_the_first_reason(sim: SimArray) -> None:
    assert sim.array is not None
    session = dict(sim.array.members)[1]
    first = TakenOffline("first")
    session.give_up(first)
    session.give_up(TakenOffline("second"))
    assert session.lost is first


def test_a_silent_disk_is_suspect_before_it_is_dead(sim: SimArray) -> None:
    """One time-out is not a death: writes wait, and go on when it comes back in time."""
    assert sim.array is not None
    sim.write(0, 1)
    sim.flush()
    sim.channels[2].is_silent = True
    sim.write(0, 2)
    task = sim.spawn(outcome(sim.array.flush()))
    sim.loop.run_for(700)
    session = dict(sim.array.members)[2]
    assert session.health is Health.SUSPECT
    assert not task.done
    assert sim.read(0) == sector(2)
    sim.channels[2].is_silent = False
    assert sim.run(_wait(task)) is None
    assert session.health is Health.ONLINE
    assert len(sim.array.members.roster.members) == 5


def test_broken_connections_lose_no_command_and_repeat_none(sim: SimArray) -> None:
    """The stream breaks at every command in turn; each EXECUTE lands exactly once."""
    assert sim.array is not None
    for at in range(12):
        seat = at % 5
        channel = sim.channels[seat]

        def cut(lane: Lane, command: bytes, reply: bytes, channel=channel) -> bytes | None:  # type: ignore[no-untyped-def]
            channel.tamper = None
            channel.close()
            return None

        channel.tamper = cut
        sim.run(sim.array.pwrite(0, sector(at), fua=True))
        assert sim.read(0) == sector(at)
    assert len(sim.array.members.roster.members) == 5
    seqs = {disk.core.seq for disk in sim.disks if disk}
    assert len(seqs) == 1


def test_a_disk_that_comes_back_blank_is_dead_at_once(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 1)
    sim.flush()
    instance = sim.array.members.roster.seats[3]
    sim.disks[3] = sim.new_disk()
    sim.channels[3].close()
    start = sim.loop.time_ms
    sim.write(0, 2)
    sim.flush()
    assert sim.loop.time_ms - start < 100
    assert isinstance(sim.array.members.lost[instance], DiskLost)  # type: ignore[index]
    assert "blank" in str(sim.array.members.lost[instance])  # type: ignore[index]


def test_another_disk_in_a_members_place_is_a_clone(sim: SimArray) -> None:
    assert sim.array is not None
    other = SimArray(seed=9)
    other.create()
    instance = sim.array.members.roster.seats[3]
    sim.disks[3] = other.disks[0]
    sim.write(0, 2)
    sim.flush()
    verdict = sim.array.members.lost[instance]  # type: ignore[index]
    assert isinstance(verdict, Clone)
    assert verdict.exit_code == 3


def test_one_death_too_many_ends_the_mount_and_serves_nothing_old(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 1)
    sim.flush()
    sim.kill(0, 1, 2)
    sim.write(0, 2)
    result = sim.run(outcome(sim.array.flush()))
    assert isinstance(result, Unavailable)
    assert result.exit_code == 2
    assert "2 disks are left and 3 are needed" in str(result)
    for work in (sim.array.pread(0, 1), sim.array.pwrite(0, b"x"), sim.array.flush()):
        assert isinstance(sim.run(outcome(work)), Unavailable)
    sim.crash()
    with pytest.raises(Unavailable, match="only 2 of the 3"):
        sim.mount()


def test_a_reader_survives_deaths_and_wrong_fragments(sim: SimArray) -> None:
    assert sim.array is not None
    for index in range(32):
        sim.write(index, index + 1)
    sim.settle()
    sim.kill(0, 2)
    for index in range(32):
        assert sim.read(index) == sector(index + 1)
    roster = sim.array.members.roster
    assert sim.array.members.counted(roster.seats[1]).read == 0  # type: ignore[arg-type]


def test_a_wrong_fragment_is_named_and_mended(sim: SimArray) -> None:
    """A7, A8: a disk's memory, or its host, gives other bytes; the array says whose, and writes the sector anew."""
    assert sim.array is not None
    sim.write(7, 1)
    sim.settle()
    disk = sim.disks[1]
    assert disk is not None
    place = sim.geometry.fragment_start(7) * 64
    disk.memory[place + 5] ^= 0x40
    assert sim.read(7) == sector(1)
    assert sim.array.members.counted(disk.instance).checksum == 1
    sim.settle()
    disk_errors = sim.array.members.counted(disk.instance).checksum
    assert sim.read(7) == sector(1)
    assert sim.array.members.counted(disk.instance).checksum == disk_errors, "it is whole again"


def test_too_many_wrong_fragments_are_an_error_not_data(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(7, 1)
    sim.settle()
    for seat in range(3):
        disk = sim.disks[seat]
        assert disk is not None
        disk.memory[sim.geometry.fragment_start(7) * 64] ^= 1
    with pytest.raises(Exception, match="cannot be rebuilt"):
        sim.read(7)


def test_a_fragment_moved_to_another_sector_does_not_fit(sim: SimArray) -> None:
    """A8."""
    assert sim.array is not None
    sim.write(1, 1)
    sim.write(2, 2)
    sim.settle()
    for disk in sim.disks[:2]:
        assert disk is not None
        here, there = (sim.geometry.fragment_start(index) * 64 for index in (1, 2))
        size = sim.geometry.fragment_bytes
        disk.memory[here : here + size] = disk.memory[there : there + size]
    assert sim.read(1) == sector(1)


def _story(sim: SimArray, kill_at: int, dead: tuple[int, ...]) -> int:
    """Durable writes and an erase; `dead` die once `kill_at` commands reached disks. Returns how many did."""
    array = sim.create()
    acked: dict[int, int] = {}
    count = 0

    def watch(lane: Lane, command: bytes) -> bytes | None:
        nonlocal count
        count += 1
        if count == kill_at:
            sim.kill(*dead)
        return None

    for channel in sim.channels:
        channel.intercept = watch

    async def story() -> None:
        for value in range(1, 4):
            index = value % 2
            await array.pwrite(index * SECTOR_BYTES, sector(value), fua=True)
            acked[index] = value
        await array.erase(SECTOR_BYTES, SECTOR_BYTES)
        acked[1] = 0
        await array.pwrite(SECTOR_BYTES, sector(9))
        await array.flush()
        acked[1] = 9

    sim.run(story())
    for index, value in acked.items():
        assert sim.read(index) == sector(value), f"{dead} die at command {kill_at}, before the crash"
    sim.crash()
    sim.mount()
    for index, value in acked.items():
        assert sim.read(index) == sector(value), f"{dead} die at command {kill_at}, after the next mount"
    return count


@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5)])
def test_any_n_minus_k_deaths_at_any_moment_lose_nothing_acknowledged(k: int, n: int) -> None:
    """Every subset of n-k disks, killed together at every command of durable writes, flush and erase."""
    subsets = list(combinations(range(n), n - k))
    total = _story(SimArray(k=k, n=n, sectors=4, dead_after_ms=200), 0, ())
    assert total > 6 * n
    for moment in range(1, total + 1):
        for dead in subsets:
            _story(SimArray(k=k, n=n, sectors=4, dead_after_ms=200), moment, dead)


@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5)])
def test_deaths_one_after_another_during_the_vote_itself(k: int, n: int) -> None:
    """A18: one dies, and while it is voted off the next dies, at every moment."""
    for gap in range(1, 40):
        sim = SimArray(k=k, n=n, sectors=4, dead_after_ms=200)
        array = sim.create()
        sim.write(0, 1)
        sim.flush()
        sim.kill(0)
        count = 0

        def next_death(lane: Lane, command: bytes, sim: SimArray = sim, gap: int = gap) -> bytes | None:
            nonlocal count
            count += 1
            if n - k > 1 and count == gap:
                sim.kill(1)
            return None

        for channel in sim.channels:
            channel.intercept = next_death
        sim.run(array.pwrite(0, sector(2), fua=True))
        assert sim.read(0) == sector(2)
        sim.crash()
        sim.mount()
        assert sim.read(0) == sector(2)


@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5)])
def test_main_crashes_at_any_moment_of_a_vote(k: int, n: int) -> None:
    """A18: kill the main program after each command from the death on; the next mount has all that was acknowledged."""
    for stop in range(1, 60):
        sim = SimArray(k=k, n=n, sectors=4, dead_after_ms=200)
        array = sim.create()
        sim.write(0, 1)
        sim.flush()
        sim.kill(0)
        count = 0
        owner = sim.owner

        def crash(lane: Lane, command: bytes, sim: SimArray = sim, stop: int = stop, owner=owner) -> bytes | None:  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            assert_proposed_before_activated(sim)
            if count == stop:
                sim.loop.kill(owner)
            return None

        for channel in sim.channels:
            channel.intercept = crash
        task = sim.spawn(outcome(array.pwrite(0, sector(2), fua=True)))
        while not task.done:
            sim.loop.step()
        was_acknowledged = count < stop
        sim.mount()
        value = int.from_bytes(sim.read(0)[:8], "big")
        assert value in ({2} if was_acknowledged else {1, 2})
        if was_acknowledged:
            break
    else:
        pytest.fail("the vote never ended")


def test_answers_that_come_during_a_vote_count_once_it_is_over(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 1)
    sim.flush()
    sim.disks[3] = sim.new_disk()
    sim.channels[3].close()
    sim.channels[4].latency_ms = (30.0, 30.0)
    sim.run(sim.array.pwrite(0, sector(2), fua=True))
    assert sim.read(0) == sector(2)
    assert sim.array.members.roster.seats[3] is None
    assert sim.array.members.roster.seats[4] is not None


def test_too_few_disks_after_a_clone_is_a_fork_and_says_so(sim: SimArray) -> None:
    """P7: what evidence shows outweighs that disks are missing."""
    assert sim.array is not None
    other = SimArray(seed=9)
    other.create()
    sim.flush()
    sim.kill(0, 1)
    sim.disks[2] = other.disks[0]
    result = sim.run(outcome(sim.array.flush()))
    assert isinstance(result, Fork)
    assert result.exit_code == 3
    assert "another disk answers at disk-2" in str(result)


def test_endless_refusals_are_no_storm(sim: SimArray) -> None:
    """The host refuses every EXECUTE in the disk's name and lets HELLO through, until the disk is given up."""
    assert sim.array is not None
    sim.flush()
    before = sim.channels[0].exchange_count
    sim.channels[0].intercept = lambda lane, command: b"\2\0\0\0\5" if command[65] == 3 else None
    sim.run(sim.array.pwrite(0, sector(1), fua=True))
    assert sim.array.members.roster.seats[0] is None
    assert sim.channels[0].exchange_count - before < 60

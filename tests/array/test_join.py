"""A disk joins while writes go on: fresh, or back after a while; and everything that can go wrong meanwhile."""

from __future__ import annotations

import pytest

from perdure.array.erasure import Code
from perdure.array.geometry import SECTOR_BYTES
from perdure.array.join import Progress
from perdure.array.mount import mount
from perdure.array.ports import Lane
from perdure.errors import Corrupt, DiskLost, Fenced, Misuse, Unavailable
from perdure.sim.disks import SimChannel, SimDisk
from tests.array.world import POLICY, SimArray, outcome, sector

SECTORS = 600


async def _wait(task: object) -> object:
    return await task  # type: ignore[misc]


def _degraded(seed: int = 0, k: int = 3, n: int = 5, dead: int = 2) -> SimArray:
    """An array with data in it, and seat `dead` voted off."""
    sim = SimArray(k=k, n=n, sectors=SECTORS, seed=seed, dead_after_ms=200)
    sim.create()
    for index in range(0, SECTORS, 3):
        sim.write(index, index + 1)
    sim.settle()
    sim.kill(dead)
    sim.flush()
    assert sim.array is not None
    assert sim.array.members.roster.seats[dead] is None
    return sim


def _replace(sim: SimArray, seat: int) -> SimChannel:
    """A fresh disk at the seat's address."""
    sim.disks[seat] = sim.new_disk()
    return sim.new_channels()[seat]


def _expect(sim: SimArray, changes: dict[int, int]) -> None:
    for index in range(SECTORS):
        value = changes.get(index, index + 1 if index % 3 == 0 else 0)
        assert sim.read(index) == sector(value), f"sector {index}"


def test_a_fresh_disk_takes_a_dead_ones_seat_while_writes_flow() -> None:
    sim = _degraded()
    assert sim.array is not None
    array = sim.array
    changes: dict[int, int] = {}
    progress = Progress(SECTORS)
    joining = sim.spawn(array.join(_replace(sim, 2), 2, progress))
    value = 10_000
    while not joining.done:
        index = sim.loop.rng.randrange(SECTORS)
        if sim.loop.rng.random() < 0.2:
            sim.run(array.trim(index * SECTOR_BYTES, SECTOR_BYTES))
            changes[index] = 0
        else:
            value += 1
            sim.run(array.pwrite(index * SECTOR_BYTES, sector(value), fua=sim.loop.rng.random() < 0.3))
            changes[index] = value
        sim.loop.run_for(sim.loop.rng.random() * 0.2)
    sim.run(_wait(joining))
    assert progress.done == SECTORS
    assert len(array.members.roster.members) == 5
    _expect(sim, changes)
    sim.flush()
    sim.kill(0, 1)  # now every read needs the new disk
    _expect(sim, changes)
    sim.crash()
    sim.mount()
    _expect(sim, changes)


@pytest.mark.parametrize("reseal", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_the_new_disk_holds_exactly_what_its_seat_must(seed: int, reseal: bool) -> None:
    sim = _degraded(seed)
    assert sim.array is not None
    for index in range(0, SECTORS, 7):
        sim.write(index, seed + index)
    sim.run(sim.array.join(_replace(sim, 2), 2, Progress(SECTORS), reseal=reseal))
    sim.settle()
    for index in range(SECTORS):
        assert _held(sim, index, 2) == _expected_fragment(sim, index, 2), f"sector {index}"


def _held(sim: SimArray, index: int, seat: int) -> bytes:
    """What a disk's memory holds of a sector."""
    disk = sim.disks[seat]
    assert disk is not None
    start = sim.geometry.fragment_start(index) * 64
    return bytes(disk.memory[start : start + sim.geometry.fragment_bytes])


def _expected_fragment(sim: SimArray, index: int, seat: int) -> bytes:
    """What it must hold, coded from three others."""
    code = Code(sim.geometry.k, sim.geometry.n)
    data = code.decode({other: _held(sim, index, other) for other in (0, 1, 3)})
    return bytes(code.encode(b"".join(bytes(part) for part in data))[seat])


def test_a_disk_that_comes_back_gets_only_what_it_missed() -> None:
    sim = _degraded(dead=4)
    assert sim.array is not None
    changes = {}
    for index in range(0, 60, 5):
        sim.write(index, 7000 + index)
        changes[index] = 7000 + index
    sim.run(sim.array.trim(90 * SECTOR_BYTES, 30 * SECTOR_BYTES))
    changes |= dict.fromkeys(range(90, 120), 0)
    sim.settle()
    disk = sim.disks[4]
    assert disk is not None
    disk.is_alive = True
    progress = Progress(SECTORS)
    channel = sim.new_channels()[4]
    sim.run(sim.array.join(channel, 4, progress))
    assert progress.mended == 12 + 10, "twelve written, ten of the trimmed ones were in use"
    assert channel.sent_bytes < 100_000
    assert sim.array.members.roster.departed == ()
    sim.kill(0, 1)
    _expect(sim, changes)


@pytest.mark.parametrize("is_back", [True, False])
def test_a_member_never_lacks_what_was_on_its_way_while_it_was_rebuilt(is_back: bool) -> None:
    """A dirty sector is left out of the rebuild; if its new version dies with main, the old one must be there."""
    for delay in range(30):
        sim = _degraded(seed=delay, dead=4)
        assert sim.array is not None
        sim.write(0, 500)  # the disk that is away has an older version, and this one counts
        sim.settle()
        if is_back:
            disk = sim.disks[4]
            assert disk is not None
            disk.is_alive = True
        channel = sim.new_channels()[4] if is_back else _replace(sim, 4)
        joining = sim.spawn(outcome(sim.array.join(channel, 4, Progress(SECTORS), reseal=False)))
        sim.loop.run_for(delay)
        sim.run(outcome(sim.array.pwrite(0, sector(501))))
        while not joining.done:
            sim.loop.run_for(0.1)
        sim.crash()
        sim.disks[0], sim.disks[1] = None, None  # all that is left must know the newest version
        sim.mount()
        assert sim.read(0) in (sector(500), sector(501))


def test_a_disk_that_comes_back_is_refused_on_any_other_seat() -> None:
    """Equal tags mean equal fragments on one seat only; half a rebuild elsewhere would make them lie."""
    sim = _degraded(dead=4)
    assert sim.array is not None
    sim.kill(3)
    sim.flush()
    disk = sim.disks[4]
    assert disk is not None
    disk.is_alive = True
    result = sim.run(outcome(sim.array.join(sim.new_channels()[4], 3, Progress(SECTORS))))
    assert isinstance(result, Misuse)
    assert "seat 4" in str(result)
    sim.run(sim.array.join(sim.new_channels()[4], 4, Progress(SECTORS)))
    sim.kill(0)
    _expect(sim, {})


def test_refuses_a_taken_seat_a_member_a_small_disk_and_a_strange_one() -> None:
    sim = _degraded()
    assert sim.array is not None
    join = sim.array.join
    fresh = _replace(sim, 2)
    assert "is taken" in str(sim.run(outcome(join(fresh, 1, Progress(SECTORS)))))
    assert "member already" in str(sim.run(outcome(join(sim.new_channels()[0], 2, Progress(SECTORS)))))
    small = SimArray(k=3, n=5, sectors=8)
    small.loop = sim.loop
    sim.disks[2] = small.new_disk()
    assert "lends" in str(sim.run(outcome(join(sim.new_channels()[2], 2, Progress(SECTORS)))))
    other = SimArray(k=3, n=5, sectors=SECTORS, seed=5)
    other.create()
    sim.disks[2] = other.disks[0]
    result = sim.run(outcome(join(sim.new_channels()[2], 2, Progress(SECTORS))))
    assert isinstance(result, Misuse)
    assert "another array" in str(result)
    assert len(sim.array.members.roster.members) == 4


def test_a_joiner_that_dies_changes_nothing_at_any_moment() -> None:
    for moment in range(1, 40, 3):
        sim = _degraded()
        assert sim.array is not None
        channel = _replace(sim, 2)
        count = 0

        def die(lane: Lane, command: bytes, sim: SimArray = sim, moment: int = moment) -> bytes | None:
            nonlocal count
            count += 1
            if count == moment:
                sim.kill(2)
            return None

        channel.intercept = die
        result = sim.run(outcome(sim.array.join(channel, 2, Progress(SECTORS))))
        if count < moment:
            assert result is None
            break
        assert isinstance(result, DiskLost), result
        sim.write(0, 5)
        sim.flush()
        assert sim.array.members.roster.seats[2] is None
        sim.run(sim.array.join(_replace(sim, 2), 2, Progress(SECTORS)))
        _expect(sim, {0: 5})
    assert moment > 8


def test_a_member_that_dies_during_the_rebuild_is_voted_off_and_the_rebuild_goes_on() -> None:
    for moment in range(1, 60, 7):
        sim = _degraded()
        assert sim.array is not None
        channel = _replace(sim, 2)
        count = 0

        def die(lane: Lane, command: bytes, sim: SimArray = sim, moment: int = moment) -> bytes | None:
            nonlocal count
            count += 1
            if count == moment:
                sim.kill(0)
            return None

        for each in [channel, *sim.channels]:
            each.intercept = die
        sim.run(sim.array.join(channel, 2, Progress(SECTORS)))
        sim.run(sim.array.pwrite(0, sector(8), fua=True))
        seats = sim.array.members.roster.seats
        assert seats[2] is not None
        assert sum(seat is not None for seat in seats) == 4 + (count < moment)
        _expect(sim, {0: 8})
        sim.crash()
        sim.mount()
        _expect(sim, {0: 8})


def test_main_crashes_at_any_moment_of_a_rebuild() -> None:
    """The next mount has everything; what was half rebuilt is no member, and can be rebuilt again."""
    for stop in range(1, 90, 9):
        sim = _degraded()
        assert sim.array is not None
        channel = _replace(sim, 2)
        count = 0
        owner = sim.owner

        def crash(
            lane: Lane, command: bytes, sim: SimArray = sim, stop: int = stop, owner: object = owner
        ) -> bytes | None:
            nonlocal count
            count += 1
            if count == stop:
                sim.loop.kill(owner)
            return None

        for each in [channel, *sim.channels]:
            each.intercept = crash
        task = sim.spawn(outcome(sim.array.join(channel, 2, Progress(SECTORS))))
        while not task.done:
            sim.loop.step()
        sim.crash()
        array = sim.mount()
        _expect(sim, {})
        if array.members.roster.seats[2] is None:
            sim.run(array.join(sim.new_channels()[2], 2, Progress(SECTORS)))
        sim.kill(0, 1)
        _expect(sim, {})


def test_the_speed_of_a_rebuild_can_be_limited() -> None:
    sim = _degraded()
    assert sim.array is not None
    start = sim.loop.now_ms()
    sim.run(sim.array.join(_replace(sim, 2), 2, Progress(SECTORS), sectors_per_s=1000))
    assert 500 <= sim.loop.now_ms() - start <= 1500


def test_a_later_mount_ends_a_rebuild() -> None:
    sim = _degraded()
    assert sim.array is not None
    first, owner = sim.array, sim.owner
    joining = sim.spawn(outcome(first.join(_replace(sim, 2), 2, Progress(SECTORS), sectors_per_s=1000)))
    sim.loop.run_for(100)
    sim.mount()
    sim.owner = owner
    result = sim.run(_wait(joining))
    assert isinstance(result, Fenced | Unavailable), result


def test_every_disk_replaced_in_turn_again_and_again_loses_nothing() -> None:
    """A21: the host keeps every old disk running and shows them all; they are not the array any more."""
    sim = SimArray(k=2, n=3, sectors=30, dead_after_ms=200)
    array = sim.create()
    for index in range(30):
        sim.write(index, index + 1)
    sim.settle()
    old = []
    for turn in range(7):
        seat = turn % 3
        old.append(sim.disks[seat])
        channel = _replace(sim, seat)
        sim.channels[seat].close()
        sim.write(seat, 100 + turn)
        sim.flush()
        sim.run(array.join(channel, seat, Progress(30)))
        sim.channels[seat] = channel
    assert len(array.members.roster.departed) == 7
    sim.crash()
    newest = list(sim.disks)
    sim.disks = [*old[-4:], None, None]  # type: ignore[list-item]
    result = sim.run(outcome(_mount_of(sim)))
    assert isinstance(result, Unavailable), "no two of the old ones may pass for the array"
    sim.disks = newest
    sim.mount()
    assert [int.from_bytes(sim.read(index)[:8], "big") for index in range(3)] == [106, 104, 105]


async def _mount_of(sim: SimArray) -> object:
    return await mount(sim.world(), sim.new_channels(), sim.array_id, POLICY)


def test_a_host_that_flips_bits_does_not_get_them_into_a_rebuild() -> None:
    sim = _degraded()
    assert sim.array is not None
    flipped = 0

    def flip(lane: Lane, command: bytes, reply: bytes) -> bytes:
        nonlocal flipped
        if lane is not Lane.READ or command[66]:
            return reply
        flipped += 1
        return reply[:-1] + bytes([reply[-1] ^ 1])

    sim.channels[0].tamper = flip
    sim.run(sim.array.join(_replace(sim, 2), 2, Progress(SECTORS), reseal=False))
    assert flipped
    for index in range(0, SECTORS, 3):
        assert _held(sim, index, 2) == _expected_fragment(sim, index, 2)


def test_a_sector_that_no_k_disks_hold_right_ends_a_rebuild() -> None:
    sim = _degraded()
    assert sim.array is not None
    for seat in (0, 1):
        disk = sim.disks[seat]
        assert disk is not None
        disk.memory[sim.geometry.fragment_start(0) * 64] ^= 1
    result = sim.run(outcome(sim.array.join(_replace(sim, 2), 2, Progress(SECTORS), reseal=False)))
    assert isinstance(result, Corrupt)
    assert sim.array.members.roster.seats[2] is None


def test_joining_waits_for_a_vote_under_way() -> None:
    sim = _degraded()
    assert sim.array is not None
    committer = sim.array.committer
    channel = _replace(sim, 2)
    started: list[float] = []

    def end() -> None:
        committer._is_changing = False
        committer._settle()

    def vote(lane: Lane, command: bytes) -> bytes | None:
        if sum(command[65] == 3 for command in sim.disks[2].commands) == 2 and not started:  # type: ignore[union-attr]
            started.append(sim.loop.time_ms)
            committer._is_changing = True
            sim.loop.call_later(100, end)
        return None

    channel.intercept = vote
    sim.run(sim.array.join(channel, 2, Progress(SECTORS), reseal=False))
    assert sim.loop.time_ms - started[0] >= 100
    assert sim.array.members.roster.seats[2] is not None


def test_one_death_too_many_while_a_disk_is_taken_in_ends_the_mount() -> None:
    sim = _degraded(k=2, n=3)
    assert sim.array is not None
    array = sim.array
    channel = _replace(sim, 2)
    executed = 0

    def die(lane: Lane, command: bytes) -> bytes | None:
        nonlocal executed
        executed += command[65] == 3
        if executed == 4:  # its welcome, then the last of three runs
            sim.kill(0)
        return None

    channel.intercept = die
    result = sim.run(outcome(array.join(channel, 2, Progress(SECTORS), reseal=False)))
    assert isinstance(result, Unavailable)
    assert array.committer.failure is result


def test_a_sector_overwritten_while_it_cannot_be_rebuilt_comes_in_its_new_version() -> None:
    sim = _degraded()
    assert sim.array is not None
    array = sim.array
    for seat in (0, 1):
        disk = sim.disks[seat]
        assert disk is not None
        disk.memory[sim.geometry.fragment_start(0) * 64] ^= 1

    def overwrite(lane: Lane, command: bytes, reply: bytes) -> bytes:
        if lane is Lane.READ and command[66] and array.cache.find(0) is None:
            array.cache.write(0, sector(4321))
        return reply

    sim.channels[3].tamper = overwrite
    sim.run(array.join(_replace(sim, 2), 2, Progress(SECTORS), reseal=False))
    sim.channels[3].tamper = None
    assert sim.read(0) == sector(4321)
    sim.settle()
    assert _held(sim, 0, 2) == _expected_fragment(sim, 0, 2)


def test_a_rebuild_seals_anew_so_that_withheld_disks_never_add_up() -> None:
    """P6: every disk is replaced in turn, twice, and all the old ones are kept running: no two share a version."""
    sim = SimArray(k=2, n=3, sectors=30, dead_after_ms=200)
    array = sim.create()
    for index in range(20):
        sim.write(index, index + 1)
    sim.settle()
    withheld = []
    for turn in range(6):
        seat = turn % 3
        withheld.append(sim.disks[seat])
        channel = _replace(sim, seat)
        sim.channels[seat].close()
        sim.flush()
        sim.run(array.join(channel, seat, Progress(30)))
        sim.channels[seat] = channel
    sim.run(array.erase(0, 20 * SECTOR_BYTES))
    for index in range(20):
        tags = [_tag(sim, disk, index) for disk in withheld]
        assert all(any(tag) for tag in tags)
        assert len(set(tags)) == len(tags), f"sector {index}: k of these would open it"


def test_copying_instead_is_possible_where_nothing_is_secret() -> None:
    sim = _degraded()
    assert sim.array is not None
    old = sim.disks[2]
    sim.run(sim.array.join(_replace(sim, 2), 2, Progress(SECTORS), reseal=False))
    assert _tag(sim, old, 0) == _tag(sim, sim.disks[2], 0)
    for index in range(0, SECTORS, 3):
        assert _held(sim, index, 2) == _expected_fragment(sim, index, 2)


def _tag(sim: SimArray, disk: SimDisk | None, index: int) -> bytes:
    assert disk is not None
    return bytes(disk.memory[sim.geometry.tag_start(index) * 64 :][:64])


def test_a_disk_that_comes_back_soon_is_not_voted_off_for_what_its_earlier_session_met() -> None:
    """A heartbeat may sleep through the loss, and tell of it when the disk is a member again."""
    sim = _degraded(dead=4)
    assert sim.array is not None
    disk = sim.disks[4]
    assert disk is not None
    disk.is_alive = True
    sim.run(sim.array.join(sim.new_channels()[4], 4, Progress(SECTORS)))
    sim.loop.run_for(5000)
    assert sim.array.members.roster.seats[4] == disk.instance


def test_two_seats_are_rebuilt_at_once() -> None:
    for seed in range(5):
        sim = _degraded(seed=seed, dead=4)
        assert sim.array is not None
        array = sim.array
        sim.kill(3)
        sim.flush()
        changes: dict[int, int] = {}
        tasks = [sim.spawn(array.join(_replace(sim, seat), seat, Progress(SECTORS))) for seat in (3, 4)]
        while not all(task.done for task in tasks):
            index = sim.loop.rng.randrange(SECTORS)
            changes[index] = 10_000 + index
            sim.run(array.pwrite(index * SECTOR_BYTES, sector(10_000 + index)))
            sim.loop.run_for(sim.loop.rng.random() * 0.2)
        for task in tasks:
            sim.run(_wait(task))
        sim.settle()
        sim.kill(0, 1)
        _expect(sim, changes)


def test_a_join_that_nobody_waits_for_any_more_leaves_the_array_working_at_any_moment() -> None:
    for moment in range(0, 60, 2):
        sim = _degraded(seed=moment)
        assert sim.array is not None
        joining = sim.spawn(sim.array.join(_replace(sim, 2), 2, Progress(SECTORS), reseal=False))
        sim.loop.run_for(moment / 4)
        joining.kill()
        sim.write(1, 4242)
        sim.flush()
        sim.loop.run_for(500)
        if sim.array.members.roster.seats[2] is None:
            sim.run(sim.array.join(sim.new_channels()[2], 2, Progress(SECTORS)))
        sim.settle()
        sim.kill(0, 1)
        _expect(sim, {1: 4242})
        sim.run(sim.array.close())

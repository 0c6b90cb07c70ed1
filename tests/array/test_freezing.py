"""Where the array waits for silent disks: silence alone never leaves fewer than k, evidence decides as ever."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from perdure.array.join import Progress
from perdure.array.session import Health
from perdure.errors import Blank, Fenced, Unavailable
from tests.array.world import SimArray, outcome, sector

LONG_MS = 60_000


@pytest.fixture(params=[False, True], ids=["evidence", "chains"])
def sim(request: pytest.FixtureRequest) -> SimArray:
    world = SimArray(has_chains=request.param, freezes=True)
    world.create()
    return world


def silence(sim: SimArray, *seats: int, on: bool = True) -> None:
    for seat in seats:
        sim.channels[seat].is_silent = on


def members(sim: SimArray) -> set[int]:
    assert sim.array is not None
    return {seat for seat, _ in sim.array.members}


async def _wait(task: object) -> object:
    return await task  # type: ignore[misc]


def test_with_too_few_everything_waits_and_goes_on_when_they_are_back(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 1)
    sim.settle()
    silence(sim, 0, 1, 2)
    for index in range(1, 8):
        sim.write(index, 100 + index)
    flush = sim.spawn(outcome(sim.array.flush()))
    read = sim.spawn(outcome(sim.array.pread(0, 4096)))
    sim.loop.run_for(LONG_MS)
    assert sim.array.is_suspended
    assert (flush.done, read.done, sim.array.committer.failure) == (False, False, None)
    assert members(sim) == set(range(5))
    silence(sim, 0, 1, 2, on=False)
    assert sim.run(_wait(flush)) is None
    assert sim.run(_wait(read)) == sector(1)
    assert not sim.array.is_suspended
    assert [sim.read(index) for index in range(1, 8)] == [sector(100 + index) for index in range(1, 8)]
    sim.crash()
    sim.mount()
    assert [sim.read(index) for index in range(1, 8)] == [sector(100 + index) for index in range(1, 8)]


def test_a_read_of_what_is_home_waits_for_k_disks(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 7)
    sim.settle()
    silence(sim, 0, 1, 2)
    read = sim.spawn(outcome(sim.array.pread(0, 4096)))
    sim.loop.run_for(LONG_MS)
    assert not read.done
    silence(sim, 1, on=False)
    assert sim.run(_wait(read)) == sector(7)


def test_n_minus_k_silent_disks_are_voted_off_as_ever(sim: SimArray) -> None:
    sim.write(0, 1)
    silence(sim, 3, 4)
    sim.flush()
    assert members(sim) == {0, 1, 2}
    assert sim.array is not None
    assert not sim.array.is_suspended


def test_of_three_silent_disks_none_is_voted_off_until_three_others_are_there(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 1)
    silence(sim, 0, 1, 2)
    flush = sim.spawn(outcome(sim.array.flush()))
    sim.loop.run_for(LONG_MS)
    assert members(sim) == set(range(5))
    silence(sim, 2, on=False)
    sim.loop.run_for(sim.dead_after_ms // 2)
    assert members(sim) == set(range(5)), "the last to come back have as long as any silent disk"
    assert sim.run(_wait(flush)) is None
    assert members(sim) == {2, 3, 4}


def test_one_that_falls_silent_after_two_are_voted_off_is_waited_for(sim: SimArray) -> None:
    assert sim.array is not None
    silence(sim, 0, 1)
    sim.write(0, 1)
    sim.flush()
    silence(sim, 2)
    sim.write(0, 2)
    flush = sim.spawn(outcome(sim.array.flush()))
    sim.loop.run_for(LONG_MS)
    assert (flush.done, sim.array.is_suspended, members(sim)) == (False, True, {2, 3, 4})
    silence(sim, 2, on=False)
    assert sim.run(_wait(flush)) is None
    assert sim.read(0) == sector(2)


def test_when_all_links_break_and_come_back_one_by_one_nobody_is_voted_off(sim: SimArray) -> None:
    """Also while nobody writes: then it is the heartbeats that find out, each at its own time."""
    assert sim.array is not None
    for pause_ms in (0, 10, 150):
        silence(sim, *range(5))
        sim.loop.run_for(LONG_MS)
        assert all(session.health is Health.SUSPECT for _, session in sim.array.members)
        for seat in (4, 1, 3, 0, 2):
            silence(sim, seat, on=False)
            sim.loop.run_for(pause_ms)
        sim.write(0, pause_ms)
        sim.flush()
        assert members(sim) == set(range(5))


@pytest.mark.parametrize("silent", [(0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3, 4)], ids=str)
def test_a_flood_of_writes_waits_for_room_and_loses_none(silent: Iterable[int]) -> None:
    sim = SimArray(sectors=6000, freezes=True)
    array = sim.create()
    silence(sim, *silent)
    values = {index: index + 1 for index in range(0, 6000, 2)}

    async def flood() -> None:
        for index, value in values.items():
            await array.pwrite(index * 4096, sector(value))
        await array.flush()

    task = sim.spawn(outcome(flood()))
    sim.loop.run_for(LONG_MS)
    assert not task.done
    silence(sim, *silent, on=False)
    assert sim.run(_wait(task)) is None
    assert all(sim.read(index) == sector(value) for index, value in values.items())


# Evidence decides at once -----------------------------------------------------------------------------------


def test_a_disk_that_is_blank_is_lost_even_if_too_few_are_left(sim: SimArray) -> None:
    assert sim.array is not None
    silence(sim, 0, 1)
    sim.write(0, 1)
    sim.flush()
    sim.disks[2] = sim.new_disk()
    sim.channels[2].close()
    sim.write(0, 2)
    result = sim.run(outcome(sim.array.flush()))
    assert isinstance(result, Unavailable)
    assert "2 disks are left and 3 are needed" in str(result)
    assert not sim.array.is_suspended
    assert isinstance(sim.run(outcome(sim.array.pread(0, 4096))), Unavailable)


def test_a_blank_disk_among_silent_ones_is_voted_off_once_they_are_back(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 1)
    sim.flush()
    blank = sim.array.members.roster.seats[3]
    assert blank is not None
    silence(sim, 0, 1)
    sim.disks[3] = sim.new_disk()
    sim.channels[3].close()
    sim.write(0, 2)
    flush = sim.spawn(outcome(sim.array.flush()))
    sim.loop.run_for(LONG_MS)
    assert isinstance(sim.array.members.lost[blank], Blank)
    assert (flush.done, sim.array.is_suspended) == (False, True)
    silence(sim, 1, on=False)
    assert sim.run(_wait(flush)) is None
    assert sim.read(0) == sector(2)
    assert members(sim) <= {0, 1, 2, 4}


def test_reads_that_wait_end_when_evidence_leaves_too_few(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 1)
    sim.settle()
    silence(sim, 0, 1)
    sim.flush()
    silence(sim, 2)
    read = sim.spawn(outcome(sim.array.pread(0, 4096)))
    sim.loop.run_for(LONG_MS)
    assert not read.done
    sim.disks[3] = sim.new_disk()
    sim.channels[3].close()
    assert isinstance(sim.run(_wait(read)), Unavailable)
    assert isinstance(sim.array.committer.failure, Unavailable)


def test_another_main_program_ends_a_frozen_one(sim: SimArray) -> None:
    assert sim.array is not None
    first = sim.array
    sim.write(0, 1)
    sim.write(32, 1)
    sim.settle()
    old = sim.channels
    silence(sim, 0, 1, 2)
    sim.write(0, 2)
    flush = sim.spawn(outcome(first.flush()))
    sim.loop.run_for(LONG_MS)
    read = sim.spawn(outcome(first.pread(32 * 4096, 4096)))
    sim.loop.run_for(LONG_MS)
    assert not read.done
    sim.mount()
    sim.write(0, 3)
    sim.flush()
    assert isinstance(sim.run(_wait(flush)), Fenced), "two disks that are there are enough to hear of it"
    assert isinstance(sim.run(_wait(read)), Unavailable)
    for channel in old:
        channel.is_silent = False
    assert not first.is_suspended
    assert sim.read(0) == sector(3)


def test_a_joiner_that_falls_silent_is_given_up_as_ever(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 1, count=32)
    silence(sim, 0)
    sim.flush()
    sim.disks[0] = sim.new_disk()
    channel = sim.new_channels()[0]
    join = sim.spawn(outcome(sim.array.join(channel, 0, Progress(64))))
    while sim.array.members.roster.departed[-1].instance != sim.disks[0].instance:
        sim.loop.step()
    channel.is_silent = True
    assert isinstance(sim.run(_wait(join)), Unavailable)
    sim.write(0, 2)
    sim.flush()
    assert members(sim) == {1, 2, 3, 4}


# The end of waiting -------------------------------------------------------------------------------------------


def test_told_to_give_in_it_fails_as_without_freezing(sim: SimArray) -> None:
    assert sim.array is not None
    sim.write(0, 1)
    sim.settle()
    silence(sim, 0, 1, 2)
    sim.write(1, 1)
    flush = sim.spawn(outcome(sim.array.flush()))
    read = sim.spawn(outcome(sim.array.pread(0, 4096)))
    sim.loop.run_for(LONG_MS)
    assert not flush.done
    assert not read.done
    sim.array.give_in()
    before = sim.loop.time_ms
    assert isinstance(sim.run(_wait(flush)), Unavailable)
    assert isinstance(sim.run(_wait(read)), Unavailable)
    assert sim.loop.time_ms - before < 10 * sim.dead_after_ms


def test_without_freezing_nothing_is_suspended() -> None:
    sim = SimArray()
    array = sim.create()
    silence(sim, 0, 1, 2)
    sim.loop.run_for(500)
    assert not array.is_suspended
    sim.write(0, 1)
    assert isinstance(sim.run(outcome(array.flush())), Unavailable)

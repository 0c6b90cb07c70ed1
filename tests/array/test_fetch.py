"""Reads that come together travel together, and a slow disk is not waited for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from perdure.array.fetch import AVOID_MS, CHUNK_SECTORS, HEDGE_MS_MIN
from perdure.array.geometry import SECTOR_BYTES, Run
from perdure.array.ports import Buffer, Lane
from perdure.disk.wire import Opcode
from perdure.errors import Fenced, Unavailable
from tests.array.world import SimArray, outcome, sector

SECTORS = 600


@pytest.fixture
def sim() -> SimArray:
    """All sectors are home and all tags known."""
    world = SimArray(sectors=SECTORS)
    world.create()
    for index in range(SECTORS):
        world.write(index, index + 1)
    world.settle()
    return world


def _plain_reads(sim: SimArray) -> list[int]:
    """Of each disk."""
    return [
        sum(command[65] == Opcode.READ and not command[66] for command in disk.commands) if disk else 0
        for disk in sim.disks
    ]


def _read_at_once(sim: SimArray, indices: Sequence[int]) -> None:
    assert sim.array is not None
    tasks = [sim.spawn(sim.array.pread(index * SECTOR_BYTES, SECTOR_BYTES)) for index in indices]

    async def wait(task: object) -> object:
        return await task  # type: ignore[misc]

    for index, task in zip(indices, tasks, strict=True):
        assert sim.run(wait(task)) == sector(index + 1)


def test_reads_that_come_together_share_one_command_to_each_of_k_disks(sim: SimArray) -> None:
    before = _plain_reads(sim)
    _read_at_once(sim, [7, 3, 599, 3, 100, 101, 102])
    assert [now - then for now, then in zip(_plain_reads(sim), before, strict=True)] == [1, 1, 1, 0, 0]


def test_what_comes_while_two_rounds_are_under_way_shares_the_third(sim: SimArray) -> None:
    assert sim.array is not None
    before = _plain_reads(sim)
    tasks = []
    for first in range(0, 60, 10):
        tasks += [sim.spawn(sim.array.pread(index * SECTOR_BYTES, SECTOR_BYTES)) for index in range(first, first + 10)]
        sim.loop.run_for(0.02)  # less than any way to a disk takes
    sim.loop.run_for(10)
    assert all(task.done for task in tasks)
    assert [now - then for now, then in zip(_plain_reads(sim), before, strict=True)] == [3, 3, 3, 0, 0]


def test_a_round_is_no_larger_than_a_command_may_answer(sim: SimArray) -> None:
    before = _plain_reads(sim)
    _read_at_once(sim, range(CHUNK_SECTORS + 1))
    assert [now - then for now, then in zip(_plain_reads(sim), before, strict=True)] == [2, 2, 2, 0, 0]
    assert sim.read(0, SECTORS) == b"".join(sector(index + 1) for index in range(SECTORS))


def test_a_slow_disk_is_not_waited_for_and_comes_last_for_a_while(sim: SimArray) -> None:
    sim.channels[1].lane_delay_ms[Lane.READ] = 150
    begun = sim.loop.time_ms
    assert sim.read(5) == sector(6)
    assert HEDGE_MS_MIN <= sim.loop.time_ms - begun < 2 * HEDGE_MS_MIN
    before = _plain_reads(sim)
    begun = sim.loop.time_ms
    assert sim.read(6) == sector(7)
    assert sim.loop.time_ms - begun < 5
    assert [now - then for now, then in zip(_plain_reads(sim), before, strict=True)] == [1, 0, 1, 1, 0]
    sim.loop.run_for(AVOID_MS)
    assert sim.array is not None
    assert all(errors.read == 0 for errors in sim.array.members.errors.values()), "slow is no error"
    sim.channels[1].lane_delay_ms[Lane.READ] = 0
    before = _plain_reads(sim)
    assert sim.read(6) == sector(7)
    assert [now - then for now, then in zip(_plain_reads(sim), before, strict=True)] == [1, 1, 1, 0, 0]


def test_two_slow_disks_are_not_waited_for_either(sim: SimArray) -> None:
    for seat in (0, 2):
        sim.channels[seat].lane_delay_ms[Lane.READ] = 150
    begun = sim.loop.time_ms
    assert sim.read(5) == sector(6)
    assert sim.loop.time_ms - begun < 3 * HEDGE_MS_MIN


def test_when_no_more_disks_are_left_to_ask_the_slow_ones_are_waited_for(sim: SimArray) -> None:
    for channel in sim.channels:
        channel.lane_delay_ms[Lane.READ] = 100
    assert sim.read(5) == sector(6)
    sim.loop.run_for(500)
    assert sim.read(9) == sector(10)


def test_when_nobody_is_left_to_ask_nothing_is_served(sim: SimArray) -> None:
    assert sim.array is not None
    for _, session in sim.array.members:
        session.lost = Unavailable("gone")
    result = sim.run(outcome(sim.array.reader.read(Run(1, 1))))
    assert isinstance(result, Unavailable)


def test_evidence_of_a_later_mount_ends_the_round_and_the_mount(sim: SimArray, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sim.array is not None

    async def fenced(runs: Sequence[Run], *, evidence: bool) -> memoryview:
        raise Fenced("another main program has mounted the array")

    _, session = next(iter(sim.array.members))
    monkeypatch.setattr(session, "read", fenced)
    assert isinstance(sim.run(outcome(sim.array.pread(0, SECTOR_BYTES))), Fenced)
    assert isinstance(sim.array.committer.failure, Fenced)


def test_a_defect_in_a_round_leaves_nobody_waiting(sim: SimArray, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sim.array is not None

    async def broken(runs: Sequence[Run], wanted: int, *, evidence: bool) -> dict[int, Buffer]:
        raise ZeroDivisionError

    monkeypatch.setattr(sim.array.reader._fetcher, "columns", broken)
    task = sim.spawn(outcome(sim.array.reader.read(Run(1, 1))))
    with pytest.raises(ZeroDivisionError):
        sim.loop.run_for(1)
    assert task.done

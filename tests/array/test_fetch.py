"""Reads that come together travel together, and a slow disk is not waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from perdure.array.erasure import Code
from perdure.array.fetch import AVOID_MS, CHUNK_SECTORS, HEDGE_FACTOR, HEDGE_MS_MAX, HEDGE_MS_MIN, Fetcher
from perdure.array.geometry import SECTOR_BYTES, Geometry, Run
from perdure.array.ports import Buffer, Lane
from perdure.array.session import Health
from perdure.disk import wire
from perdure.disk.wire import Opcode
from perdure.errors import Fenced, Unavailable
from perdure.shell.runtime import AsyncioRuntime
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
    before = [len(disk.commands) for disk in sim.disks if disk]
    _read_at_once(sim, [7, 3, 599, 3, 100, 101, 102])
    after = [len(disk.commands) for disk in sim.disks if disk]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1, 0, 0], "and nobody looks twice"


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
    """Two rounds are under way and fail, and somebody waits for a third."""
    assert sim.array is not None

    async def broken(runs: Sequence[Run], wanted: int, *, evidence: bool) -> dict[int, Buffer]:
        await sim.loop.sleep(1)
        raise ZeroDivisionError

    monkeypatch.setattr(sim.array.reader._fetcher, "columns", broken)
    tasks = []
    for _ in range(3):
        tasks.append(sim.spawn(outcome(sim.array.reader.read(Run(0, CHUNK_SECTORS)))))
        with contextlib.suppress(ZeroDivisionError):
            sim.loop.run_for(0.1)
    for _ in range(2):
        with contextlib.suppress(ZeroDivisionError):
            sim.loop.run_for(5)
    assert all(task.done for task in tasks)


def test_a_defect_in_asking_leaves_nobody_waiting(sim: SimArray, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sim.array is not None

    async def broken(places: Sequence[Run], *, evidence: bool) -> memoryview:
        raise ZeroDivisionError

    _, session = next(iter(sim.array.members))
    monkeypatch.setattr(session, "read", broken)
    task = sim.spawn(outcome(sim.array.reader.read(Run(1, 1))))
    with pytest.raises(ZeroDivisionError):
        sim.loop.run_for(1)
    assert task.done


def test_when_the_process_stops_nobody_is_left_waiting() -> None:
    """As `SyncArray` does at the end of its block, while other threads read."""

    class Silent:
        lost = None
        health = Health.ONLINE
        instance = b"i" * 32
        read_slow_ms = None

        async def read(self, places: Sequence[Run], *, evidence: bool) -> memoryview:
            await asyncio.sleep(3600)
            raise AssertionError

    async def main() -> list[object]:
        runtime = AsyncioRuntime()
        silent = Silent()
        members = SimpleNamespace(to_ask=lambda: [(seat, silent) for seat in range(5)])
        geometry = Geometry(3, 5, SECTORS)
        fetcher = Fetcher(geometry, Code(3, 5), members, runtime, every_read=False)  # type: ignore[arg-type]
        reads = [asyncio.ensure_future(outcome(fetcher.fetch(Run(0, CHUNK_SECTORS)))) for _ in range(4)]
        reads.append(asyncio.ensure_future(outcome(fetcher.columns([Run(0, 1)], 3, evidence=False))))
        await asyncio.sleep(0.05)
        await runtime.stop()
        return await asyncio.wait_for(asyncio.gather(*reads), 5)

    assert all(isinstance(result, Unavailable) for result in asyncio.run(main()))


def test_a_host_cannot_teach_us_patience(sim: SimArray) -> None:
    """It answers a little before it would count as slow, each time, so that what counts as slow grows."""
    assert sim.array is not None
    fetcher = sim.array.reader._fetcher
    sim.channels[1].answer_ms_max = 1e9
    for turn in range(80):
        slow_ms = max(HEDGE_MS_MIN, HEDGE_FACTOR * fetcher._usual_ms[False])
        sim.channels[1].lane_delay_ms[Lane.READ] = 0.45 * slow_ms
        begun = sim.loop.time_ms
        assert sim.read(turn) == sector(turn + 1)
        assert sim.loop.time_ms - begun < HEDGE_MS_MAX + 20


def test_who_was_asked_a_moment_ago_is_not_called_slow(sim: SimArray) -> None:
    """Seat 1 refuses after some 15 ms, so 3 is asked; at 20 ms the round is slow for the sake of 0."""
    assert sim.array is not None
    for seat, delay_ms in ((0, 150), (1, 7), (3, 8)):
        sim.channels[seat].lane_delay_ms[Lane.READ] = delay_ms
    refusal = wire.REPLY_HEADER.pack(wire.REFUSAL, wire.Reason.WRONG_EPOCH)
    sim.channels[1].tamper = lambda lane, command, reply: refusal if lane is Lane.READ else reply
    assert sim.read(5) == sector(6)
    sessions = dict(sim.array.members)
    assert sessions[0].read_slow_ms is not None
    assert sessions[3].read_slow_ms is None


def test_a_disk_that_fails_late_costs_no_read_of_another(sim: SimArray) -> None:
    sim.channels[1].lane_delay_ms[Lane.READ] = 100
    assert sim.read(5) == sector(6)
    before = _plain_reads(sim)
    sim.channels[1].close()
    sim.loop.run_for(200)
    assert _plain_reads(sim) == before


def test_tags_are_not_waited_for_at_a_slow_disk_either() -> None:
    sim = SimArray(sectors=64)
    sim.create()
    sim.write(1, 1)
    sim.settle()
    sim.crash()
    array = sim.mount()
    sim.channels[0].lane_delay_ms[Lane.READ] = 200
    begun = sim.loop.time_ms
    assert sim.read(1) == sector(1)
    assert sim.loop.time_ms - begun < 60
    assert array.reader.tags.known_count == 64

"""FLUSHes that come together share evidence; who flushes alone does not wait for company."""

from __future__ import annotations

from perdure.array.geometry import SECTOR_BYTES
from perdure.array.ports import Lane
from perdure.array.rounds import GATHER_MS_MAX, Rounds
from perdure.disk.wire import Opcode
from perdure.sim.loop import Loop
from tests.array.world import SimArray, sector


def _rounds() -> tuple[Loop, Rounds, list[float]]:
    loop = Loop(0)
    woken: list[float] = []
    return loop, Rounds(loop, lambda: woken.append(loop.time_ms)), woken


def test_who_flushes_alone_begins_at_once() -> None:
    loop, rounds, woken = _rounds()
    for _ in range(3):
        assert rounds.may_begin(1)
        rounds.begin()
        loop.run_for(8)
        rounds.end(1, 0)
    loop.run_for(20)
    assert not woken


def test_nobody_needs_no_round() -> None:
    assert not _rounds()[1].may_begin(0)


def test_one_round_is_under_way_at_a_time() -> None:
    _, rounds, _ = _rounds()
    rounds.begin()
    assert not rounds.may_begin(100)
    rounds.end(1, 0)
    assert rounds.may_begin(100)


def test_the_next_round_waits_for_those_whom_the_last_one_served() -> None:
    loop, rounds, woken = _rounds()
    rounds.begin()
    loop.run_for(8)
    rounds.end(3, 1)
    assert not rounds.may_begin(1)
    assert not rounds.may_begin(3)
    assert rounds.may_begin(4)
    loop.run_for(100)
    assert woken == [12.0], "asked for twice, woken once"


def test_it_waits_for_half_of_a_round_and_no_longer() -> None:
    loop, rounds, woken = _rounds()
    for lasted_ms, waited_ms in ((8, 4), (1000, GATHER_MS_MAX), (1, 0)):
        rounds.begin()
        loop.run_for(lasted_ms)
        rounds.end(2, 0)
        ended_ms = loop.time_ms
        if waited_ms:
            assert not rounds.may_begin(1)
            loop.run_for(waited_ms)
            assert woken.pop() - ended_ms == waited_ms
        assert rounds.may_begin(1)


def test_thirty_two_clients_share_documents() -> None:
    """Each writes and flushes ten times, with 5 ms of evidence: far fewer documents than FLUSHes."""
    sim = SimArray(sectors=64)
    array = sim.create()
    for channel in sim.channels:
        channel.lane_delay_ms[Lane.WRITE] = 2.5

    async def client(number: int) -> None:
        for turn in range(10):
            await array.pwrite(number * SECTOR_BYTES, sector(number * 100 + turn))
            await array.flush()

    before = [len(disk.commands) for disk in sim.disks if disk]
    tasks = [sim.spawn(client(number)) for number in range(32)]
    sim.loop.run_for(2000)
    assert all(task.done and task.error is None for task in tasks)
    for disk, count in zip(sim.disks, before, strict=True):
        assert disk is not None
        asked = [command for command in disk.commands[count:] if command[65] == Opcode.EXECUTE and command[66]]
        assert 10 <= len(asked) <= 20
    for number in range(32):
        assert sim.read(number) == sector(number * 100 + 9)

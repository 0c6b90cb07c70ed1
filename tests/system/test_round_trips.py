"""What a durable write costs, counted in frames and bytes between the main program and its disks."""

import asyncio
import contextlib
import functools
import os

import pytest

from perdure import api
from perdure.array import engine
from perdure.disk.wire import Opcode
from perdure.service.main import settings_of
from tests.cli.rig import Rig
from tests.system.proxy import Proxy, Way, unchanged
from tests.system.rig import new_array, seeded

SECTOR = 4096
WRITES = 100
FIXED_BYTES_MAX = 2048
"""What an EXECUTE carries beside the sectors of its entry: lengths, command header, signature, operations, heads."""


@pytest.fixture
def rig(tmp_path):
    with Rig(tmp_path) as rig:
        yield rig


@pytest.fixture
def _quiet(monkeypatch):
    """Without the timer that brings home what nobody flushes: on a slow machine it would fire between two writes."""
    monkeypatch.setattr(engine, "TICK_MS", 3_600_000)


@pytest.fixture
def opened(rig):
    """An array with a proxy before each disk: settings, id, proxies."""
    found = new_array(rig, size="32M")
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(Proxy.before(rig.directory / f"disk-{seat}.sock")) for seat in range(5)]
        yield settings_of(found), found.array.array_id, proxies


@pytest.mark.usefixtures("_quiet")
def test_a_durable_write_is_one_execute_to_each_disk_and_nothing_else(opened):
    settings, array_id, proxies = opened

    async def use():
        async with api.open_array_async(settings, array_id) as array:
            for number in range(10):  # what comes before a steady state
                await array.pwrite(number * SECTOR, os.urandom(SECTOR), fua=True)
            starts = [len(proxy.frames) for proxy in proxies]
            for number in range(WRITES):
                await array.pwrite(number % 10 * SECTOR, os.urandom(SECTOR), fua=True)
            return [proxy.frames[start:] for proxy, start in zip(proxies, starts, strict=True)]

    for proxy, frames in zip(proxies, asyncio.run(use()), strict=True):
        assert {frame.connection for frame in frames} == {proxy.write_lane}
        assert [frame.opcode for frame in frames if frame.way is Way.TO_DISK] == [Opcode.EXECUTE] * WRITES
        # One at a time, each answered before the next: one round trip each.
        assert [frame.way for frame in frames] == [Way.TO_DISK, Way.TO_MAIN] * WRITES


@pytest.mark.usefixtures("_quiet")
def test_large_batches_cost_little_more_than_their_share(opened):
    settings, array_id, proxies = opened
    sectors = 4096

    async def use():
        async with api.open_array_async(settings, array_id) as array:
            starts = [len(proxy.frames) for proxy in proxies]
            data = os.urandom(1 << 20)
            for offset in range(0, sectors * SECTOR, len(data)):
                await array.pwrite(offset, data)
            await array.flush()
            pairs = zip(proxies, starts, strict=True)
            return [frame for proxy, start in pairs for frame in proxy.commands(start=start)]

    frames = asyncio.run(use())
    assert {frame.opcode for frame in frames} == {Opcode.EXECUTE}
    total, share = sum(frame.wire_bytes for frame in frames), 5 / 3 * SECTOR
    print(f"{len(frames)} frames, {total / sectors:.0f} bytes per sector, {total / sectors / share:.3f} of the share")
    assert total <= 1.15 * share * sectors + FIXED_BYTES_MAX * len(frames)
    assert len(frames) <= sectors // 20


def test_answers_that_are_lost_on_the_way_cost_no_acknowledged_write(opened):
    settings, array_id, proxies = opened
    rng, lost = seeded(), []

    def lose_some(proxy, frame):
        if frame.way is Way.TO_MAIN and rng.random() < 0.05:
            lost.append(frame)
            proxy.cut()
            return ()
        return (frame.payload,)

    with api.open_array(settings, array_id) as array:
        for proxy in proxies[1:4]:
            proxy.alter = functools.partial(lose_some, proxy)
        for number in range(100):
            array.pwrite(number * SECTOR, bytes([number]) * SECTOR, fua=True)
        for proxy in proxies:
            proxy.alter = unchanged
    assert len(lost) > 2
    with api.open_array(settings, array_id) as array:
        assert array.pread(0, 100 * SECTOR) == b"".join(bytes([number]) * SECTOR for number in range(100))

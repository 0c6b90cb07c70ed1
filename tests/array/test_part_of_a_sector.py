"""Writing a part of a sector while the whole of it is overwritten."""

from __future__ import annotations

from perdure.array.geometry import SECTOR_BYTES
from perdure.array.ports import Lane
from tests.array.world import SimArray, sector


async def _wait(task: object) -> object:
    return await task  # type: ignore[misc]


def test_a_part_is_merged_with_what_came_home_while_it_read_the_rest() -> None:
    """One fragment of the read is late; meanwhile the sector is overwritten, applied and gone from the cache."""
    sim = SimArray()
    array = sim.create()
    sim.write(9, 1)
    sim.settle()
    channel = sim.channels[0]
    usual = channel.latency_ms

    def late(lane: Lane, command: bytes, reply: bytes) -> bytes:
        if lane is Lane.READ:
            channel.tamper, channel.latency_ms = None, (100, 100)
            sim.loop.call_later(0, lambda: setattr(channel, "latency_ms", usual))
        return reply

    channel.tamper = late
    part = sim.spawn(array.pwrite(9 * SECTOR_BYTES, b"part"))
    sim.loop.run_for(1)
    assert channel.tamper is None, "the old fragment is on its way"
    sim.write(9, 2)
    sim.settle()
    assert array.cache.find(9) is None
    assert not part.done
    sim.run(_wait(part))
    assert sim.read(9) == b"part" + sector(2)[4:]

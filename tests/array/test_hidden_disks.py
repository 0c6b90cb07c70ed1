"""A disk is hidden while it is voted off, and shown again to the next main program, in every company."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest

from perdure.array.create import World
from perdure.array.geometry import SECTOR_BYTES
from perdure.errors import Unavailable
from perdure.sim.disks import FastEvidence, SimAttested
from perdure.sim.loop import Loop
from tests.array.world import SimArray, outcome, sector


class SlowEvidence(FastEvidence):
    """Verification takes time, some documents longer than others, so that answers are not believed in their order."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    async def verify(self, document: bytes, commitment: bytes) -> SimAttested:
        await self._loop.sleep(self._loop.rng.uniform(0, 2))
        return await super().verify(document, commitment)


class SlowArray(SimArray):
    def world(self) -> World:
        return World(self.authority, SlowEvidence(self.loop), self.loop, self.dead_after_ms)


class Story:
    """Disk 0 is hidden; 2 is written at once, 3 some time later; both are awaited."""

    def __init__(self, k: int, n: int, seed: int) -> None:
        self.sim = SlowArray(k=k, n=n, sectors=4, dead_after_ms=200, seed=seed)
        self.array = self.sim.create()
        self.sim.write(0, 1)
        self.sim.flush()
        self.start_ms = self.sim.loop.time_ms
        self.acked: list[int] = []
        self.sim.channels[0].is_silent = True

    async def write(self, value: int, after_ms: float) -> None:
        await self.sim.loop.sleep(after_ms)
        await self.array.pwrite(value % 2 * SECTOR_BYTES, sector(value), fua=True)
        self.acked.append(value)

    def vote_starts_after_ms(self) -> float:
        self.sim.spawn(outcome(self.write(2, 0)))
        while not self.array.members.lost:
            self.sim.loop.step()
        return self.sim.loop.time_ms - self.start_ms

    def crash_when_acknowledged(self, after_ms: float) -> None:
        self.sim.spawn(outcome(self.write(2, 0)))
        self.sim.spawn(outcome(self.write(3, after_ms)))
        while 3 not in self.acked:
            self.sim.loop.step()
        self.sim.crash()


def every_mount_of_k(sim: SimArray, k: int) -> Iterator[tuple[tuple[int, ...], list[int] | None]]:
    """What each set of k disks, shown alone, gives for the first two sectors; None where it refuses."""
    disks = [disk for disk in sim.disks if disk]
    kept = [(bytes(disk.memory), disk.core.epoch, disk.core.seq) for disk in disks]
    for shown in combinations(range(len(disks)), k):
        sim.disks = [disk if at in shown else None for at, disk in enumerate(disks)]
        try:
            sim.mount()
        except Unavailable:
            yield shown, None
        else:
            yield shown, [int.from_bytes(sim.read(index)[:8], "big") for index in (0, 1)]
        sim.crash()
        for disk, (memory, epoch, seq) in zip(disks, kept, strict=True):
            disk.memory[:] = memory
            disk.core.epoch, disk.core.seq = epoch, seq


@pytest.mark.parametrize(("k", "n", "seeds"), [(2, 3, 40), (3, 5, 10)])
def test_what_is_acknowledged_while_a_hidden_disk_is_voted_off_is_never_taken_back(k: int, n: int, seeds: int) -> None:
    """A4, A18, rules 5, 8, 9: an acknowledgement before ACTIVATE is complete could be undone by the hidden disk."""
    served = refused = 0
    for seed in range(seeds):
        vote_ms = Story(k, n, seed).vote_starts_after_ms()
        story = Story(k, n, seed)
        story.crash_when_acknowledged(vote_ms - seed % 40 * 0.1)
        for shown, values in every_mount_of_k(story.sim, k):
            assert values in (None, [2, 3]), f"seed {seed}: both acknowledged, but {shown} give {values}"
            served += values is not None
            refused += values is None
    assert served
    assert refused

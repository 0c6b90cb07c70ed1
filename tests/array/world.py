"""A small simulated array for tests: real cores, virtual time, machines that can be killed and hidden."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from perdure.array.commands import Authority
from perdure.array.create import create
from perdure.array.engine import Array
from perdure.array.geometry import SECTOR_BYTES, Geometry
from perdure.array.mount import mount
from perdure.array.roster import AREA_BYTES, Roster
from perdure.array.world import World
from perdure.sim.disks import FastEvidence, SimChannel, SimDisk
from perdure.sim.loop import Loop, Task

T = TypeVar("T")
KEY = bytes(range(1, 33))
POLICY = b"p" * 32


class Owner:
    """A main program's process: what it has under way dies with it."""


class SimArray:
    """n machines at n addresses, and main programs that come and go."""

    def __init__(
        self,
        k: int = 3,
        n: int = 5,
        sectors: int = 64,
        seed: int = 0,
        dead_after_ms: int = 1000,
        *,
        has_chains: bool = False,
        freezes: bool = False,
    ) -> None:
        self.loop = Loop(seed)
        self.geometry = Geometry(k, n, sectors)
        self.authority = Authority(KEY)
        self.dead_after_ms = dead_after_ms
        self.has_chains = has_chains
        self.freezes = freezes
        self.disks: list[SimDisk | None] = [self.new_disk() for _ in range(n)]
        self.channels: list[SimChannel] = []
        self.array: Array | None = None
        self.owner = Owner()
        self.array_id = b""

    def new_disk(self, authority: bytes | None = None) -> SimDisk:
        return SimDisk(self.loop, authority or self.authority.public_key, self.geometry.disk_bytes)

    def world(self) -> World:
        return World(
            self.authority,
            FastEvidence(),
            self.loop,
            self.dead_after_ms,
            has_chains=self.has_chains,
            freezes=self.freezes,
        )

    def new_channels(self) -> list[SimChannel]:
        return [SimChannel(self.loop, f"disk-{at}", lambda at=at: self.disks[at]) for at in range(len(self.disks))]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work, self.owner)

    def spawn(self, work: Coroutine[Any, Any, T]) -> Task[T]:
        return Task(self.loop, work, self.owner)

    def create(self) -> Array:
        self.channels = self.new_channels()
        opened = self.run(create(self.world(), self.channels, self.geometry, POLICY))
        self.array_id = opened.genesis.array_id
        return self._start(opened)

    def mount(self, *, array_id: bytes | None = None, policy: bytes = POLICY, every_read: bool = False) -> Array:
        """Mount by a new main program; an earlier one, unless crashed, goes on beside it."""
        self.owner = Owner()
        self.channels = self.new_channels()
        return self._start(
            self.run(mount(self.world(), self.channels, array_id or self.array_id, policy)), every_read=every_read
        )

    def _start(self, opened: Any, *, every_read: bool = False) -> Array:
        self.array = Array(self.world(), opened, attest_every_read=every_read)

        async def start() -> None:
            assert self.array is not None
            self.array.start()

        self.run(start())
        return self.array

    def crash(self) -> None:
        """The main program's process dies between two effects."""
        self.loop.kill(self.owner)

    def kill(self, *seats: int) -> None:
        for seat in seats:
            disk = self.disks[seat]
            assert disk is not None
            disk.is_alive = False

    def write(self, index: int, value: int, count: int = 1) -> None:
        assert self.array is not None
        self.run(self.array.pwrite(index * SECTOR_BYTES, sector(value) * count))

    def flush(self) -> None:
        assert self.array is not None
        self.run(self.array.flush())

    def read(self, index: int, count: int = 1) -> bytes:
        assert self.array is not None
        return bytes(self.run(self.array.pread(index * SECTOR_BYTES, count * SECTOR_BYTES)))

    def settle(self) -> None:
        """Let everything written come home."""
        assert self.array is not None
        self.run(self.array.committer.settle())


def sector(value: int) -> bytes:
    return value.to_bytes(8, "big") * (SECTOR_BYTES // 8)


async def outcome(work: Awaitable[T]) -> T | Exception:
    try:
        return await work
    except Exception as error:
        return error


def assert_proposed_before_activated(sim: SimArray) -> None:
    """Rules 4 and 5: nobody has a roster in force that a living member of it has not even been told of."""
    labels = {}
    for disk in sim.disks:
        assert disk is not None
        areas = (sim.geometry.current_start, sim.geometry.next_start)
        labels[disk.instance] = [Roster.decode(bytes(disk.memory[at * 64 :][:AREA_BYTES])) for at in areas]
    for current, _ in labels.values():
        assert current is not None
        for instance in current.members:
            known = [roster.version for roster in labels[instance] if roster is not None]
            assert max(known) >= current.version

"""A disk joins while writes go on (rule 11): a fresh one in the place of a dead one, or a voted-off one that is back.

From the moment it is admitted the joiner gets every EXECUTE that the members get, so its ring and what comes home
are theirs. Meanwhile what was home before is rebuilt on it, run by run. The two cannot cross: a run is sent to the
joiner only for sectors that are home *at that very moment*, and whatever changes them later is sent after it. Only
when all is there does it become a member, by a roster change of its own; until then it counts for nothing.

A fresh disk is not given copies: every sector is sealed anew, for all disks, so that the one it replaces, which its
host may have kept running, shares no version with it. Otherwise k disks replaced and withheld one after another would
hold k fragments of what was erased long since. (`reseal=False` copies: n/k times cheaper, for arrays without secrets.)

A disk that comes back in its own seat keeps the fragments whose tags are still the latest: equal tags on one seat
mean equal fragments. Its tags are read with evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perdure.array import journal
from perdure.array.cache import WriteCache
from perdure.array.committer import Committer
from perdure.array.genesis import Genesis
from perdure.array.geometry import GENESIS_AREA, HEAD_AREA, ROSTER_AREA, SECTOR_BYTES, SLOTS, TAG_BYTES, Geometry, Run
from perdure.array.journal import Head, runs_of
from perdure.array.members import Members
from perdure.array.ports import Buffer
from perdure.array.reader import CHUNK_SECTORS, Reader
from perdure.array.sealing import NEVER_WRITTEN
from perdure.array.session import Session
from perdure.array.world import World, new_epoch, persistently
from perdure.disk.wire import DISK_SECTOR_BYTES, NO_EPOCH
from perdure.errors import Misuse


@dataclass(slots=True)
class Progress:
    """How far a rebuild or a scrub has come, in sectors; and how many of them had to be sent or mended."""

    total: int
    done: int = 0
    mended: int = 0


class Join:
    """One disk joining on one seat."""

    def __init__(
        self,
        world: World,
        genesis: Genesis,
        epoch: bytes,
        members: Members,
        cache: WriteCache,
        reader: Reader,
        committer: Committer,
    ) -> None:
        self._world = world
        self._genesis = genesis
        self._epoch = epoch
        self._members = members
        self._cache = cache
        self._reader = reader
        self._committer = committer

    @property
    def _geometry(self) -> Geometry:
        return self._genesis.geometry

    async def run(
        self, session: Session, seat: int, progress: Progress, *, sectors_per_s: int = 0, reseal: bool = True
    ) -> None:
        """Open, admit, rebuild, and make it a member. `sectors_per_s` limits the speed; 0 is no limit.

        Raises Misuse when the seat is taken or the disk is not free, DiskLost when it dies on the way, and whatever
        ends the mount. A joiner that did not make it changes nothing.
        """
        keeps = await self._open(session, seat)
        await self._committer.admit(seat, session, self._welcome_ops(), self._welcome_data)
        try:
            reseal = reseal and not keeps
            await self._rebuild(session, seat, progress, keeps=keeps, reseal=reseal, sectors_per_s=sectors_per_s)
            if reseal:  # a member must hold what is flushed, even if this program dies before the next entry
                await self._committer.settle()
            await self._committer.adopt(seat, session)
        finally:
            self._committer.dismiss(seat)

    async def _open(self, session: Session, seat: int) -> bool:
        """Take the disk over; whether what it holds is of this seat, so that equal tags mean equal fragments."""
        roster = self._members.roster
        if roster.seats[seat] is not None:
            raise Misuse(f"seat {seat} is taken; vote its disk off first")
        greeting = await persistently(self._world, session.hello)
        address = session.channel.address
        if greeting.instance in roster.members:
            raise Misuse(f"the disk at {address} is a member already; nothing was changed")
        own_seat = next((gone.seat for gone in roster.departed if gone.instance == greeting.instance), seat)
        if own_seat != seat:
            raise Misuse(
                f"the disk at {address} holds fragments of seat {own_seat} and can come back to that one only; restart "
                "it to use it elsewhere"
            )
        if greeting.size < self._geometry.disk_sectors:
            raise Misuse(
                f"the disk at {address} lends {greeting.size * DISK_SECTOR_BYTES} bytes; this array needs "
                f"{self._geometry.disk_bytes}"
            )
        if greeting.epoch != NO_EPOCH:
            record = await persistently(self._world, lambda: session.peek(greeting, [Run(0, GENESIS_AREA)]))
            if bytes(record) != self._genesis_area():
                raise Misuse(f"the disk at {address} belongs to another array; it was left alone")
        # An epoch of its own, above all: a disk that was voted off in this mount has this mount's epoch, and its host
        # may hold commands that we signed for it. Two commands for one instance, epoch and seq must never exist.
        epoch = new_epoch(self._world.runtime, max(greeting.epoch, self._epoch))
        await persistently(self._world, lambda: session.open(greeting.instance, epoch))
        return any(gone.instance == greeting.instance and gone.seat == seat for gone in roster.departed)

    def _genesis_area(self) -> bytes:
        return self._genesis.encode().ljust(GENESIS_AREA * DISK_SECTOR_BYTES, b"\0")

    def _welcome_ops(self) -> list[bytes]:
        """Genesis, no proposal, an empty ring; what it held as `current` stays until the change that adds it."""
        shape = self._geometry
        ring = journal.trim(shape.slot_start(0), SLOTS * shape.slot_sectors)
        return [
            journal.write(0, GENESIS_AREA),
            journal.trim(shape.next_start, ROSTER_AREA),
            ring,
            journal.write(shape.head_start, HEAD_AREA),
        ]

    def _welcome_data(self) -> Sequence[Buffer]:
        """With the journal's position at the moment of admission."""
        return (self._genesis_area(), Head(self._committer.last, self._committer.last).encode())

    # Rebuilding -------------------------------------------------------------------------------------------

    async def _rebuild(
        self, session: Session, seat: int, progress: Progress, *, keeps: bool, reseal: bool, sectors_per_s: int
    ) -> None:
        started_ms = self._world.runtime.now_ms()
        for start in range(0, self._geometry.sectors, CHUNK_SECTORS):
            run = Run(start, min(CHUNK_SECTORS, self._geometry.sectors - start))
            await self._reader.load_tags(run)
            held = None
            if keeps:
                place = Run(self._geometry.tag_start(run.start), run.count)
                held = bytes(await persistently(self._world, lambda place=place: session.read([place], evidence=True)))  # type: ignore[misc]
            if reseal:
                progress.mended += await self._reseal_run(run)
            else:
                progress.mended += await self._rebuild_run(session, seat, run, held)
            progress.done = run.end
            if sectors_per_s:
                ahead_ms = progress.done * 1000 / sectors_per_s - (self._world.runtime.now_ms() - started_ms)
                await self._world.runtime.sleep(max(0.0, ahead_ms))

    async def _reseal_run(self, run: Run) -> int:
        """Write what is in use of `run` anew, for all disks; how many sectors that was."""
        tags = self._reader.tags.get(run)
        written = [index for index in range(run.start, run.end) if _tag(tags, run, index) != NEVER_WRITTEN]
        content = bytearray(run.count * SECTOR_BYTES)
        for _, part in runs_of(written):
            at = (part.start - run.start) * SECTOR_BYTES
            await self._reader.read(part, memoryview(content)[at : at + part.count * SECTOR_BYTES])
        resealed = 0
        for index in written:
            await self._committer.room()
            if self._reader.is_home_as(index, _tag(tags, run, index)):  # else it is being sealed anew already
                at = (index - run.start) * SECTOR_BYTES
                self._cache.write(index, bytes(content[at : at + SECTOR_BYTES]))
                resealed += 1
        self._committer.pump()
        return resealed

    async def _rebuild_run(self, session: Session, seat: int, run: Run, held: bytes | None) -> int:
        """Send what the joiner lacks of `run`; how many sectors that was."""
        tags = self._reader.tags.get(run)
        lacking = [
            index
            for index in range(run.start, run.end)
            if held is None or _tag(held, run, index) != _tag(tags, run, index)
        ]
        written = [index for index in lacking if _tag(tags, run, index) != NEVER_WRITTEN]
        fragments: dict[int, Buffer] = {}
        for _, part in runs_of(written):
            fragments.update(await self._reader.fragments(part, seat))
        # From here on nothing is awaited until the command is sent: what changes later is sent after it.
        still = [index for index in lacking if self._reader.is_home_as(index, _tag(tags, run, index))]
        ops, data = self._ops(still, tags, run, fragments)
        if ops:
            await session.execute(ops, data, evidence=False)
        return len(still)

    def _ops(
        self, indices: list[int], tags: bytes, run: Run, fragments: dict[int, Buffer]
    ) -> tuple[list[bytes], list[Buffer]]:
        shape, size = self._geometry, self._geometry.fragment_sectors
        ops: list[bytes] = []
        data: list[Buffer] = []
        empty = [index for index in indices if _tag(tags, run, index) == NEVER_WRITTEN]
        for _, part in runs_of(empty):
            ops.append(journal.trim(shape.tag_start(part.start), part.count))
            ops.append(journal.trim(shape.fragment_start(part.start), part.count * size))
        for _, part in runs_of([index for index in indices if index in fragments]):
            ops.append(journal.write(shape.tag_start(part.start), part.count))
            data += [_tag(tags, run, index) for index in range(part.start, part.end)]
            ops.append(journal.write(shape.fragment_start(part.start), part.count * size))
            data += [fragments[index] for index in range(part.start, part.end)]
        return ops, data


def _tag(tags: bytes, run: Run, index: int) -> bytes:
    at = (index - run.start) * TAG_BYTES
    return tags[at : at + TAG_BYTES]

"""A disk joins while writes go on (rule 11): a fresh one in the place of a dead one, or a voted-off one that is back.

From the moment it is admitted the joiner gets every EXECUTE that the members get, so its ring and what comes home
are theirs. Meanwhile what was home before is rebuilt on it, run by run. The two cannot cross: a run is sent to the
joiner only for sectors that are home *at that very moment*, and whatever changes them later is sent after it. Only
when all is there does it become a member, by a roster change of its own; until then it counts for nothing.

A version that an earlier disk of this seat may hold is not copied: the sector is sealed anew, for all disks. The
earlier one's host may have kept it running, and k disks replaced and withheld one after another would otherwise hold k
fragments of what was erased long since. (`reseal=False` copies: n/k times cheaper, for arrays without secrets.) So that
no such disk is ever unknown, whoever joins is named in the roster before it gets anything.

A disk that comes back in its own seat, voted off or only partly rebuilt, keeps the fragments whose tags are still the
latest: equal tags on one seat mean equal fragments. Its tags are read with evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from perdure.array import journal
from perdure.array.cache import WriteCache
from perdure.array.committer import Committer
from perdure.array.fetch import CHUNK_SECTORS
from perdure.array.genesis import Genesis
from perdure.array.geometry import GENESIS_AREA, HEAD_AREA, ROSTER_AREA, SECTOR_BYTES, SLOTS, TAG_BYTES, Geometry, Run
from perdure.array.journal import Head, runs_of
from perdure.array.members import Members
from perdure.array.places import Place
from perdure.array.ports import Buffer
from perdure.array.reader import Reader
from perdure.array.roster import ANY_ENTRY, AREA_BYTES, Roster
from perdure.array.sealing import NEVER_WRITTEN, generation_of
from perdure.array.session import Greeting, Session
from perdure.array.world import World, persistently
from perdure.disk.wire import DISK_SECTOR_BYTES, NO_EPOCH
from perdure.errors import Fenced, Misuse

NO_ENTRY = 0
"""Entries are counted from 1."""


class Holds(Enum):
    """What a joiner has before it is rebuilt."""

    NOTHING = "nothing"
    ITS_SEAT = "fragments of this very seat"


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
        greeting, holds = await self._meet(session, seat)
        await self._committer.announce(seat, greeting.instance)
        try:
            exposed = self._exposed(seat, greeting.instance, holds) if reseal else NO_ENTRY
            epoch = self._own_epoch(greeting)
            await persistently(self._world, lambda: session.open(greeting.instance, epoch))
            await self._require_free(session, greeting)
            await self._committer.admit(seat, session, self._welcome_ops(), self._welcome_data)
            await self._rebuild(session, seat, progress, holds, exposed=exposed, sectors_per_s=sectors_per_s)
            # What was not home was left out, since it is sent later; but this program may die before. Then a member
            # would hold, and attest, an older version: so all that was left out must be home there first.
            await self._committer.settle()
            await self._committer.adopt(seat, session)
        finally:
            self._committer.dismiss(seat, greeting.instance)

    def _exposed(self, seat: int, instance: bytes, holds: Holds) -> int:
        """The last entry that another disk may hold fragments of `seat` of; all, when nobody knows who had the seat."""
        departed = self._members.roster.departed
        others = [gone.last for gone in departed if gone.seat == seat and gone.instance != instance]
        return max(others, default=NO_ENTRY if holds is Holds.ITS_SEAT else ANY_ENTRY)

    async def _meet(self, session: Session, seat: int) -> tuple[Greeting, Holds]:
        """Who the disk is and what it holds, if it may have the seat. It is only looked at. Raises Misuse."""
        roster = self._members.roster
        if roster.seats[seat] is not None:
            raise Misuse(f"seat {seat} is taken; vote its disk off first")
        greeting = await persistently(self._world, session.hello)
        address = session.channel.address
        if greeting.instance in roster.members:
            raise Misuse(f"the disk at {address} is a member already; nothing was changed")
        own_seat = next((gone.seat for gone in roster.departed if gone.instance == greeting.instance), None)
        if own_seat not in (None, seat):
            raise Misuse(
                f"the disk at {address} holds fragments of seat {own_seat} and can come back to that one only; restart "
                "it to use it elsewhere"
            )
        if greeting.size < self._geometry.disk_sectors:
            raise Misuse(
                f"the disk at {address} lends {greeting.size * DISK_SECTOR_BYTES} bytes; this array needs "
                f"{self._geometry.disk_bytes}"
            )
        self._require_spread(session, greeting)
        if greeting.epoch == NO_EPOCH:
            return greeting, Holds.NOTHING
        record = bytes(await persistently(self._world, lambda: session.peek(greeting, [Run(0, GENESIS_AREA)])))
        is_unwritten = own_seat is not None and not any(record)  # named and opened, and then this program stopped
        if record != self._genesis_area() and not is_unwritten:
            raise Misuse(f"the disk at {address} belongs to another array; it was left alone")
        if own_seat is None:
            raise Misuse(
                f"the disk at {address} was in this array once, and nobody knows any more in which seat; restart it to "
                "use it again"
            )
        return greeting, Holds.ITS_SEAT

    def _own_epoch(self, greeting: Greeting) -> bytes:
        """Above the disk's epoch and this mount's, and below every later mount's. Raises Misuse.

        Above: a disk that was voted off in this mount has its epoch, and its host may hold commands that we signed for
        it; two for one instance, epoch and seq must never exist. Below: this OPEN may be held back until a later main
        program counts on the disk, and then it must be refused. So the counter stays, and the rest is raised.
        """
        counter = self._epoch[:8]
        if greeting.epoch[:8] > counter:
            raise Misuse("a later mount has opened this disk; nothing was changed. If this one goes on, mount again.")
        low = max(greeting.epoch[8:] if greeting.epoch[:8] == counter else bytes(8), self._epoch[8:])
        raised = int.from_bytes(low, "big") + 1 + int.from_bytes(self._world.runtime.random(4), "big")
        if raised >= 1 << 64:
            raise Misuse("this mount has no epoch left for a joiner; nothing was changed. Mount again.")
        return counter + raised.to_bytes(8, "big")

    def _require_spread(self, session: Session, greeting: Greeting) -> None:
        if self._world.spread is not None:
            places = [Place(session.channel.address, greeting.attested)]
            places += [Place(one.channel.address, one.attested) for _, one in self._members if one.attested is not None]
            self._world.spread.require(self._geometry, places)

    async def _require_free(self, session: Session, greeting: Greeting) -> None:
        """What was seen before OPEN may have changed until OPEN, and only until then: look again, with evidence.

        A roster of a later mount means that this one is late, and must write nothing to the disk: Fenced. A disk that
        was blank, and has been written to, is no blank disk any more: Misuse.
        """
        shape = self._geometry
        runs = [Run(shape.current_start, ROSTER_AREA), Run(shape.next_start, ROSTER_AREA), Run(0, GENESIS_AREA)]
        found = bytes(await persistently(self._world, lambda: session.read(runs, evidence=True)))
        for at in (0, AREA_BYTES):
            roster = Roster.decode(found[at : at + AREA_BYTES])
            if roster is not None and roster.version.epoch > self._epoch:
                late = Fenced("a later main program counts on this disk; this one has lost the array. Stop this one.")
                self._committer.fail(late)
                raise late
        if greeting.epoch == NO_EPOCH and any(found[2 * AREA_BYTES :]):
            raise Misuse("the disk was blank a moment ago, and somebody has written to it since; restart it")

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
        self, session: Session, seat: int, progress: Progress, holds: Holds, *, exposed: int, sectors_per_s: int
    ) -> None:
        started_ms = self._world.runtime.now_ms()
        for start in range(0, self._geometry.sectors, CHUNK_SECTORS):
            run = Run(start, min(CHUNK_SECTORS, self._geometry.sectors - start))
            await self._reader.load_tags(run)
            held = await self._held(session, run, holds)
            tags = self._reader.tags.get(run)
            resealing = [
                index for index in range(run.start, run.end) if 0 < generation_of(_tag(tags, run, index)) <= exposed
            ]
            progress.mended += await self._copy(session, seat, run, tags, held, frozenset(resealing))
            progress.mended += await self._reseal(run, tags, resealing)
            if session.lost is not None:
                raise session.lost
            progress.done = run.end
            if sectors_per_s:
                ahead_ms = progress.done * 1000 / sectors_per_s - (self._world.runtime.now_ms() - started_ms)
                await self._world.runtime.sleep(max(0.0, ahead_ms))

    async def _held(self, session: Session, run: Run, holds: Holds) -> bytes:
        """The tags whose fragments the joiner has."""
        if holds is Holds.NOTHING:
            return bytes(run.count * TAG_BYTES)
        place = Run(self._geometry.tag_start(run.start), run.count)
        return bytes(await persistently(self._world, lambda: session.read([place], evidence=True)))

    async def _reseal(self, run: Run, tags: bytes, indices: list[int]) -> int:
        """Write these sectors of `run` anew, for all disks; how many were not being written already."""
        content = bytearray(run.count * SECTOR_BYTES)
        for _, part in runs_of(indices):
            at = (part.start - run.start) * SECTOR_BYTES
            content[at : at + part.count * SECTOR_BYTES] = await self._reader.read(part)
        resealed = 0
        for index in indices:
            await self._committer.room()
            if self._reader.is_home_as(index, _tag(tags, run, index)):  # else it is being sealed anew already
                at = (index - run.start) * SECTOR_BYTES
                self._cache.write(index, bytes(content[at : at + SECTOR_BYTES]))
                resealed += 1
        self._committer.pump()
        return resealed

    async def _copy(self, session: Session, seat: int, run: Run, tags: bytes, held: bytes, but: frozenset[int]) -> int:
        """Send what the joiner lacks of `run`, `but` what it gets sealed anew; how many sectors that was."""
        lacking = [
            index
            for index in range(run.start, run.end)
            if index not in but and _tag(held, run, index) != _tag(tags, run, index)
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

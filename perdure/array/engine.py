"""The array as its users see it: a run of bytes that reads what was last written, or fails.

A write lands in the cache and is acknowledged; FLUSH, and FUA, wait until every member has proved to have it. All
offsets and lengths are in bytes and may be anything within the size; whole sectors of 4,096 bytes are fastest.
"""

from __future__ import annotations

from perdure.array.cache import WriteCache
from perdure.array.committer import Committer
from perdure.array.erasing import Erasure
from perdure.array.geometry import SECTOR_BYTES, TRIM_SECTORS_MAX, Run, ceil_div
from perdure.array.join import Join, Progress
from perdure.array.members import Members
from perdure.array.ports import Buffer, Channel
from perdure.array.reader import Reader
from perdure.array.receipt import Erased, whole_sectors
from perdure.array.scrub import Scrub
from perdure.array.sealing import Keys
from perdure.array.session import Health
from perdure.array.world import Opened, World
from perdure.errors import Misuse, PerdureError, TakenOffline

TICK_MS = 25
"""How long what was written waits for company when nobody flushes."""
HEARTBEAT_MS = 2000
"""How often a quiet disk is asked whether it is still there."""


class Array:
    """An array that this main program owns, from a mount until `close`."""

    def __init__(self, world: World, opened: Opened, *, attest_every_read: bool = False) -> None:
        self.opened = opened
        self.geometry = opened.genesis.geometry
        self.has_chains = world.has_chains
        """Whether FLUSHes may rest on acknowledgement chains."""
        self.members = Members(opened.roster, opened.sessions, least=self.geometry.k if world.freezes else 0)
        keys = Keys.derive(world.authority.private_key, opened.genesis.array_id, is_sealed=opened.genesis.is_sealed)
        self._runtime = world.runtime
        self.cache = WriteCache()
        self.reader = Reader(
            self.geometry,
            keys,
            self.members,
            self.cache,
            world.runtime,
            every_read=attest_every_read,
        )
        self.committer = Committer(opened, keys, self.members, self.cache, self.reader.tags, world)
        self.tick_count = 0
        """Rises for as long as the engine turns."""
        self._world = world
        self._is_closed = False

    def start(self) -> None:
        """Begin the work that goes on by itself: writing back what nobody flushes, and asking quiet disks."""
        self._runtime.spawn(self._tick())
        for _, session in self.members:
            self._runtime.spawn(self._heartbeat(session.instance))

    @property
    def size_bytes(self) -> int:
        """The size that the array presents."""
        return self.geometry.size_bytes

    @property
    def array_id(self) -> bytes:
        """32 bytes: the hash of the genesis record."""
        return self.opened.genesis.array_id

    # Reading and writing ----------------------------------------------------------------------------------

    async def pread(self, offset: int, length: int) -> Buffer:
        """`length` bytes from `offset`, the caller's own. Raises Misuse beyond the end, Corrupt, Unavailable, Fork."""
        self._check(offset, length)
        if not length:
            return b""
        first, end = offset // SECTOR_BYTES, ceil_div(offset + length, SECTOR_BYTES)
        whole = await self._read_sectors(Run(first, end - first))
        start = offset - first * SECTOR_BYTES
        return whole if length == len(whole) else memoryview(whole)[start : start + length]

    async def pwrite(self, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """Write `data` at `offset`; it is durable on return only with `fua`, or after `flush`.

        `data` may be reused once this returns. Raises Misuse beyond the end, Unavailable, Fork.
        """
        view = memoryview(data).cast("B")
        self._check(offset, len(view))
        while view:
            index, start = divmod(offset, SECTOR_BYTES)
            part = view[: SECTOR_BYTES - start]
            if self.cache.is_full:
                await self.committer.room()
            if len(part) == SECTOR_BYTES:
                self.cache.write(index, bytes(part))
            else:
                await self._write_part(index, start, part)
            offset, view = offset + len(part), view[len(part) :]
        self.committer.pump()
        if fua:
            await self.flush()

    async def flush(self) -> None:
        """Return when every earlier write survives n-k losses, with evidence from every member. Raises what failed."""
        self._check(0, 0)
        await self.committer.flush()

    async def read_sectors(self, run: Run) -> Buffer:
        """Whole sectors, also those that are not presented (`perdure.array.history`). Raises as `pread` does."""
        self._check(0, 0)
        return await self._read_sectors(run)

    async def write_sectors(self, start: int, data: Buffer) -> None:
        """Write whole sectors, also those that are not presented; durable after `flush`. Raises as `pwrite` does."""
        self._check(0, 0)
        view = memoryview(data).cast("B")
        for at in range(0, len(view), SECTOR_BYTES):
            if self.cache.is_full:
                await self.committer.room()
            self.cache.write(start + at // SECTOR_BYTES, bytes(view[at : at + SECTOR_BYTES]))
        self.committer.pump()

    async def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Make `length` bytes from `offset` read as zeros; whole sectors are wiped on every disk."""
        self._check(offset, length)
        first, end = ceil_div(offset, SECTOR_BYTES), (offset + length) // SECTOR_BYTES
        if first >= end:
            await self.pwrite(offset, bytes(length))
        else:
            await self.pwrite(offset, bytes(first * SECTOR_BYTES - offset))
            for start in range(first, end, TRIM_SECTORS_MAX):
                await self.committer.room()
                self.cache.trim(Run(start, min(TRIM_SECTORS_MAX, end - start)))
            await self.pwrite(end * SECTOR_BYTES, bytes(offset + length - end * SECTOR_BYTES))
        self.committer.pump()
        if fua:
            await self.flush()

    async def write_zeroes(self, offset: int, length: int, *, fua: bool = False, may_trim: bool = True) -> None:
        """The same as `trim`: memory on the disks is never given back, so there is no hole to avoid."""
        del may_trim
        await self.trim(offset, length, fua=fua)

    async def erase(self, offset: int, length: int) -> Erased:
        """Trim whole sectors, and return only when no live disk, journal or buffer holds them, with the receipt.

        Raises Misuse for parts of sectors, and when the range was written again meanwhile (then what it held before
        is erased all the same, but there is no receipt), or the array is in the clear; and what ends the mount.
        """
        self._check(offset, length)
        if not self.opened.genesis.is_sealed:
            raise Misuse(
                "this array is in the clear: a single disk that a host kept running would still hold a part of what "
                "is erased, so there can be no receipt and nothing was erased. Trim it, and have what encrypts above "
                "forget its key"
            )
        run = whole_sectors(self.geometry, offset, length)
        erasure = Erasure(self._world, self.opened.genesis, self.members, self.cache, self.reader, self.committer)
        oldest = await erasure.oldest_version(run)
        await self.trim(offset, length)
        return await erasure.witnessed(run, oldest)

    # Repair -----------------------------------------------------------------------------------------------

    async def join(
        self, channel: Channel, seat: int, progress: Progress, *, sectors_per_s: int = 0, reseal: bool = True
    ) -> None:
        """Rebuild an empty seat on the disk behind `channel`, while writes go on, and make it a member.

        A fresh disk gets all of it, sealed anew unless `reseal` is false (see `perdure.array.join`); one that was
        voted off this very seat gets what it missed. Raises Misuse, DiskLost, or what ended the mount; then nothing
        has changed but that disk.
        """
        self._check(0, 0)
        reseal = reseal and self.opened.genesis.is_sealed
        joining = Join(
            self._world, self.opened.genesis, self.opened.epoch, self.members, self.cache, self.reader, self.committer
        )
        session = self._world.session(channel)
        await joining.run(session, seat, progress, sectors_per_s=sectors_per_s, reseal=reseal)
        self._runtime.spawn(self._heartbeat(session.instance))

    async def take_offline(self, seat: int) -> None:
        """Vote a live disk off although nothing is wrong with it; return when the roster without it is in force.

        It keeps what it holds and can join again. Raises Misuse where there is no disk, or none could be lost
        afterwards, and what ended the mount.
        """
        self._check(0, 0)
        seats = dict(self.members)
        if seat not in seats:
            raise Misuse(f"seat {seat} has no disk that could be taken offline")
        alive = [at for at, session in seats.items() if session.health is Health.ONLINE and at != seat]
        if len(alive) <= self.geometry.k:
            raise Misuse(
                f"without the disk in seat {seat} no other could be lost any more: {len(alive)} would be left and "
                f"{self.geometry.k} are needed. Nothing was changed; mend what is missing first"
            )
        verdict = TakenOffline(f"disk {seats[seat].channel.address} was taken offline by an operator.")
        seats[seat].give_up(verdict)
        self.members.report_lost(seats[seat], verdict)
        await self.committer.flush()

    async def scrub(self, progress: Progress, *, sectors_per_s: int = 0) -> None:
        """Check every sector on every member, with evidence, and write anew what is wrong somewhere. See `Scrub`."""
        self._check(0, 0)
        pass_over = Scrub(self.geometry, self.members, self.cache, self.reader, self.committer, self._runtime)
        await pass_over.run(progress, sectors_per_s=sectors_per_s)

    # The end ----------------------------------------------------------------------------------------------

    @property
    def is_suspended(self) -> bool:
        """Whether nothing goes on until disks are back; what is asked for waits for them."""
        return self.committer.failure is None and self.members.is_suspended

    def give_in(self) -> None:
        """Wait no longer than disks may be silent: if fewer than k are left then, fail, so that the end is near."""
        self.members.least = 0

    async def close(self) -> None:
        """Flush, bring everything home, and let go of the disks. The array can be mounted again by anyone entitled."""
        if self._is_closed:
            return
        try:
            await self.committer.settle()
        finally:
            self._is_closed = True
            for _, session in self.members:
                session.channel.close()

    def abandon(self) -> None:
        """Let go of the disks at once, as a crash would: what was not flushed may be lost."""
        self._is_closed = True
        self.committer.fail(Misuse("the array is closed"))
        for _, session in self.members:
            session.channel.close()

    # Inside -----------------------------------------------------------------------------------------------

    def _check(self, offset: int, length: int) -> None:
        if self._is_closed:
            raise Misuse("the array is closed")
        self.committer.require_working()
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise Misuse(f"bytes {offset} to {offset + length} are not all within the array's {self.size_bytes}")

    async def _read_sectors(self, run: Run) -> Buffer:
        """Sectors that are not home from the cache, the runs between them from the disks."""
        if self.cache.is_empty:
            return await self.reader.read(run)
        cached = {index: found for index in range(run.start, run.end) if (found := self.cache.find(index)) is not None}
        if not cached:
            return await self.reader.read(run)
        whole = bytearray(run.count * SECTOR_BYTES)
        start = run.start
        for index in (*cached, run.end):
            if index > start:
                at = (start - run.start) * SECTOR_BYTES
                whole[at : at + (index - start) * SECTOR_BYTES] = await self.reader.read(Run(start, index - start))
            start = index + 1
        for index, found in cached.items():
            at = (index - run.start) * SECTOR_BYTES
            whole[at : at + SECTOR_BYTES] = found
        return whole

    async def _write_part(self, index: int, start: int, part: memoryview) -> None:
        """Merge a part of a sector with the rest of it as it is at that very moment."""
        while True:
            cached = self.cache.find(index)
            if cached is not None:
                sector = bytearray(cached)
                break
            await self.reader.load_tags(Run(index, 1))
            tag = self.reader.tags.get(Run(index, 1))
            sector = bytearray(await self.reader.read(Run(index, 1)))
            if self.cache.find(index) is None and self.reader.tags.get(Run(index, 1)) == tag:
                break
        sector[start : start + len(part)] = part
        self.cache.write(index, bytes(sector))

    async def _tick(self) -> None:
        """When nothing was sent for a tick, write back what is dirty and bring home what is proved."""
        sent = -1
        while not self._is_closed and self.committer.failure is None:
            await self._runtime.sleep(TICK_MS)
            self.tick_count += 1
            if sent == self.committer.sent_count and not self.committer.is_idle:
                self.committer.pump(is_idle=True)
            sent = self.committer.sent_count

    async def _heartbeat(self, instance: bytes) -> None:
        session = self.members.sessions[instance]
        while not self._is_closed and session.lost is None and self.committer.failure is None:
            await self._runtime.sleep(HEARTBEAT_MS)
            if self._is_closed or self._runtime.now_ms() - session.attested_ms < HEARTBEAT_MS:
                continue
            try:
                await session.probe()
            except PerdureError as verdict:
                self.members.report_lost(session, verdict)

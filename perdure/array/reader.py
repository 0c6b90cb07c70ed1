"""Verified reads: tags from memory or with evidence, fragments from any k disks, nothing that does not fit its tag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from perdure.array.cache import WriteCache
from perdure.array.erasure import Code
from perdure.array.geometry import SECTOR_BYTES, TAG_BYTES, Geometry, Run
from perdure.array.members import Members
from perdure.array.ports import Buffer, Event, Runtime, results
from perdure.array.sealing import NEVER_WRITTEN, Keys, check, unseal_into
from perdure.array.session import Session, Trouble
from perdure.array.tags import TagTable
from perdure.errors import Corrupt, Fork, PerdureError, Rollback, Unavailable

CHUNK_SECTORS = 256
READ_TRIES = 10
READ_RETRY_MS = 100
"""Too few answered: a short break of several links ends no read, as it ends no write."""
AVOID_MS = 10_000
"""How long a disk whose read went wrong is asked last."""


@dataclass(frozen=True, slots=True)
class Differing:
    """A sector that some disk holds wrongly: its tag in force, and what it reads as."""

    index: int
    tag: bytes
    content: bytes


class Reader:
    """Reads sectors that are home. `every_read` asks for evidence with every fragment, not with tags alone."""

    def __init__(
        self,
        geometry: Geometry,
        keys: Keys,
        members: Members,
        cache: WriteCache,
        runtime: Runtime,
        *,
        every_read: bool,
    ) -> None:
        self.tags = TagTable(geometry)
        self._geometry = geometry
        self._keys = keys
        self._members = members
        self._cache = cache
        self._runtime = runtime
        self._code = Code(geometry.k, geometry.n)
        self._every_read = every_read
        self._loading: dict[int, Event] = {}

    async def read(self, run: Run, out: memoryview) -> None:
        """Fill `out` with the sectors of `run`: each as it was at some moment since the call, whole.

        Raises Corrupt when no k disks have what the tag names, Unavailable when fewer than k answer.
        """
        for start in range(run.start, run.end, CHUNK_SECTORS):
            chunk = Run(start, min(CHUNK_SECTORS, run.end - start))
            at = (start - run.start) * SECTOR_BYTES
            await self._read_chunk(chunk, out[at : at + chunk.count * SECTOR_BYTES])

    async def _read_chunk(self, run: Run, out: memoryview) -> None:
        await self.load_tags(run)
        tags, changes = self.tags.get(run), self.tags.changes(run)
        if not any(tags):
            out[:] = bytes(len(out))
            return
        columns = await self._columns(run, self._geometry.k, evidence=self._every_read)
        rows = self._rows(columns, run.count)
        for at in range(run.count):
            tag = tags[at * TAG_BYTES : (at + 1) * TAG_BYTES]
            sector = out[at * SECTOR_BYTES : (at + 1) * SECTOR_BYTES]
            try:
                unseal_into(self._keys, run.start + at, tag, rows[at], sector)
            except Corrupt:
                size = self._geometry.fragment_bytes
                plain = {seat: memoryview(column)[at * size : (at + 1) * size] for seat, column in columns.items()}
                await self._second_look(run.start + at, sector, plain, changes[at])

    def _rows(self, columns: Mapping[int, Buffer], count: int) -> list[memoryview]:
        """The ciphertexts, 4,096 bytes each, from k columns of `count` fragments."""
        data = self._code.decode(columns)
        width = self._geometry.fragment_bytes
        stacked = np.empty((count, self._geometry.k, width), np.uint8)
        for seat, column in enumerate(data):
            stacked[:, seat] = np.frombuffer(column, np.uint8).reshape(count, width)
        flat = stacked.reshape(count * self._geometry.k * width).data
        step = self._geometry.k * width
        return [flat[at * step : at * step + SECTOR_BYTES] for at in range(count)]

    async def fragments(self, run: Run, seat: int) -> dict[int, Buffer]:
        """The fragments that belong on `seat`, by sector, each proved to be of the version that its tag names.

        A sector that changes meanwhile is left out: its new version is on its way to every disk. Raises Corrupt.
        """
        tags = self.tags.get(run)
        columns = await self._columns(run, self._geometry.k, evidence=False)
        rows = self._rows(columns, run.count)
        column = self._code.encode(b"".join(self._code.decode(columns)))[seat]
        size = self._geometry.fragment_bytes
        found: dict[int, Buffer] = {}
        for at in range(run.count):
            index, tag = run.start + at, tags[at * TAG_BYTES : (at + 1) * TAG_BYTES]
            try:
                check(self._keys, index, tag, rows[at])
            except Corrupt:
                found.update(await self._fragment_again(index, seat))
            else:
                found[index] = column[at * size : (at + 1) * size]
        return found

    async def _fragment_again(self, index: int, seat: int) -> dict[int, Buffer]:
        """One fragment from whichever k members hold the right ones, with evidence; none if the sector has changed."""
        now, changes = self.tags.get(Run(index, 1)), self.tags.changes(Run(index, 1))
        columns = await self._columns(Run(index, 1), len(self._members.roster.members), evidence=True)
        out = memoryview(bytearray(SECTOR_BYTES))
        tag, good = now, self._try_all(index, now, columns, out)
        if good is None:
            tag, good = await self._by_another_tag(index, now, columns, out)
        if good is None:
            return {}
        if tag != now:  # the tag itself was wrong: the sector is written anew, for all
            self._repair(index, tag, out)
            return {}
        if self.tags.changes(Run(index, 1)) == changes:
            self._blame(columns, good, {})
        data = self._code.decode({at: columns[at] for at in good})
        return {index: self._code.encode(b"".join(data))[seat]}

    # Tags -------------------------------------------------------------------------------------------------

    async def load_tags(self, run: Run) -> None:
        """Make the tags of `run` known, reading with evidence those that are not."""
        while groups := self.tags.groups(run):
            group = groups[0]
            loading = self._loading.get(group.start)
            if loading is not None:
                await loading.wait()
                continue
            self._loading[group.start] = event = self._runtime.event()
            try:
                self.tags.learn(group, await self._read_tags(group))
            finally:
                del self._loading[group.start]
                event.set()

    async def _read_tags(self, group: Run) -> memoryview:
        """From any one member: it is in sync, and its evidence shows that it is ours and has all that it answered."""
        place = Run(self._geometry.tag_start(group.start), group.count)
        for _ in range(READ_TRIES):
            for _, session in self._to_ask():
                try:
                    return await session.read([place], evidence=True)
                except Trouble:
                    self._trouble(session)
                except Fork as verdict:
                    self._fork(session, verdict)
            await self._runtime.sleep(READ_RETRY_MS)
        raise self._too_few(0, 1)

    # Fragments --------------------------------------------------------------------------------------------

    async def _columns(self, run: Run, wanted: int, *, evidence: bool) -> dict[int, Buffer]:
        """Fragments of `run` from `wanted` members, or as many as answer if that is at least k."""
        columns: dict[int, Buffer] = {}
        for _ in range(READ_TRIES):
            asked: set[bytes] = set()
            while len(columns) < wanted:
                left = [(at, one) for at, one in self._to_ask() if one.instance not in asked and at not in columns]
                batch = left[: wanted - len(columns)]
                if not batch:
                    break
                asked.update(session.instance for _, session in batch)
                reads = (self._column(run, seat, session, columns, evidence=evidence) for seat, session in batch)
                results(await self._runtime.gather(*reads))
            if len(columns) >= self._geometry.k:
                return columns
            await self._runtime.sleep(READ_RETRY_MS)
        raise self._too_few(len(columns), self._geometry.k)

    async def _column(
        self, run: Run, seat: int, session: Session, columns: dict[int, Buffer], *, evidence: bool
    ) -> None:
        size = self._geometry.fragment_sectors
        place = Run(self._geometry.fragment_start(run.start), run.count * size)
        try:
            columns[seat] = await session.read([place], evidence=evidence)
        except Trouble:
            self._trouble(session)
        except Fork as verdict:
            self._fork(session, verdict)

    def _fork(self, session: Session, verdict: Fork) -> None:
        """A Rollback is this disk's, and another may answer; anything else ends the mount, and this read."""
        self._members.report_lost(session, verdict)
        if not isinstance(verdict, Rollback):
            raise verdict

    def _to_ask(self) -> list[tuple[int, Session]]:
        """The members in the order in which to ask them; one that gave trouble lately comes last."""
        now = self._runtime.now_ms()

        def is_avoided(pair: tuple[int, Session]) -> bool:
            trouble_ms = pair[1].read_trouble_ms
            return trouble_ms is not None and now - trouble_ms < AVOID_MS

        return sorted(self._members.to_ask(), key=is_avoided)

    def _trouble(self, session: Session) -> None:
        session.read_trouble_ms = self._runtime.now_ms()
        self._members.counted(session.instance).read += 1

        async def probe() -> None:
            try:
                await session.probe()
            except PerdureError as verdict:
                self._members.report_lost(session, verdict)

        self._runtime.spawn(probe())

    def _too_few(self, answered: int, needed: int) -> Unavailable:
        return Unavailable(
            f"{answered} disks answered a read that needs {needed}; nothing older was served. Bring disks back."
        )

    # Everything, from everyone ------------------------------------------------------------------------------

    async def differing(self, run: Run) -> list[Differing]:
        """The sectors of `run` of which some member holds another tag or fragment than it must; each is counted.

        With evidence from every member that answers. A sector that changes meanwhile is left out. Raises Corrupt.
        """
        await self.load_tags(run)
        tags, changes = self.tags.get(run), self.tags.changes(run)
        held = await self._tags_of_all(run)
        columns = await self._columns(run, len(self._members.roster.members), evidence=True)
        size = self._geometry.fragment_bytes
        found = []
        for at in range(run.count):
            index, tag = run.start + at, tags[at * TAG_BYTES : (at + 1) * TAG_BYTES]
            if self._cache.find(index) is not None or self.tags.changes(Run(index, 1)) != [changes[at]]:
                continue
            tags_held = {seat: own[at * TAG_BYTES : (at + 1) * TAG_BYTES] for seat, own in held.items()}
            parts = {seat: memoryview(column)[at * size : (at + 1) * size] for seat, column in columns.items()}
            content = bytearray(SECTOR_BYTES)
            tag = self._right_tag(index, tag, tags_held, parts, memoryview(content))
            wrong = {seat for seat, own in tags_held.items() if own != tag}
            wrong |= self._wrong_parts(index, tag, parts, memoryview(content))
            if wrong:
                self._count_against(wrong)
                found.append(Differing(index, tag, bytes(content)))
        return found

    def is_home_as(self, index: int, tag: bytes) -> bool:
        """Whether `tag` still names the latest version, and nothing newer waits to come home."""
        return self._cache.find(index) is None and self.tags.get(Run(index, 1)) == tag

    async def _tags_of_all(self, run: Run) -> dict[int, bytes]:
        place = Run(self._geometry.tag_start(run.start), run.count)
        held: dict[int, bytes] = {}

        async def ask(seat: int, session: Session) -> None:
            try:
                held[seat] = bytes(await session.read([place], evidence=True))
            except Trouble:
                self._trouble(session)
            except Fork as verdict:
                self._fork(session, verdict)

        results(await self._runtime.gather(*(ask(seat, session) for seat, session in self._members.to_ask())))
        return held

    def _right_tag(
        self, index: int, tag: bytes, held: Mapping[int, bytes], parts: Mapping[int, Buffer], content: memoryview
    ) -> bytes:
        """`tag` if the sector opens under it, else another that is held and opens it, else `tag`.

        So one disk that says "never written" of what the others hold is wrong, and not they.
        """
        for one in (tag, *sorted(set(held.values()) - {tag})):
            if one != NEVER_WRITTEN and self._try_all(index, one, parts, content) is not None:
                if one != tag:
                    self.tags.put(index, one)
                return one
        return tag

    def _wrong_parts(self, index: int, tag: bytes, parts: Mapping[int, Buffer], content: memoryview) -> set[int]:
        """The seats whose fragments of one sector are not those of its version, whose plaintext goes to `content`."""
        if tag == NEVER_WRITTEN:
            return {seat for seat, part in parts.items() if any(part)}
        good = self._try_all(index, tag, parts, content)
        if good is None:
            raise Corrupt(f"sector {index} cannot be rebuilt: too many disks hold wrong fragments.")
        right = self._code.encode(b"".join(self._code.decode({seat: parts[seat] for seat in good})))
        return {seat for seat, part in parts.items() if bytes(part) != bytes(right[seat])}

    def _count_against(self, seats: set[int]) -> None:
        for seat in seats:
            instance = self._members.roster.seats[seat]
            if instance is not None:
                self._members.counted(instance).checksum += 1
                self._members.sessions[instance].read_trouble_ms = self._runtime.now_ms()

    # When a fragment does not fit -------------------------------------------------------------------------

    async def _second_look(self, index: int, out: memoryview, plain: Mapping[int, Buffer], changes: int) -> None:
        """The sector did not fit its tag: it was overwritten since it had `changes`, or some of `plain` is wrong."""
        while True:
            cached = self._cache.find(index)
            if cached is not None:
                out[:] = cached
                return
            now = self.tags.get(Run(index, 1))
            [before] = self.tags.changes(Run(index, 1))
            if before != changes:
                plain = {}  # of another version: it accuses nobody
            # With evidence, so that what differs is what a disk really holds, not what its host makes of it.
            columns = await self._columns(Run(index, 1), len(self._members.roster.members), evidence=True)
            tag, good = now, self._try_all(index, now, columns, out)
            if good is None:
                tag, good = await self._by_another_tag(index, now, columns, out)
            if good is not None:
                is_still = tag != now or (self.is_home_as(index, tag) and self.tags.changes(Run(index, 1)) == [before])
                is_wrong = is_still and (self._blame(columns, good, plain) or tag != now)
                if is_wrong and (tag != now or not self._cache.is_full):  # where the tag is wrong it cannot wait
                    self._repair(index, tag, out)
                return

    async def _by_another_tag(
        self, index: int, tag: bytes, columns: Mapping[int, Buffer], out: memoryview
    ) -> tuple[bytes, set[int] | None]:
        """When nothing opens under `tag`, it may be that tag which is wrong, on the one disk that told it.

        The right one, known from now on, and the seats used; none when the sector has changed meanwhile. Or Corrupt.
        A tag opens only what its version's k fragments are, so no older one can be found while a newer one counts.
        """
        held = await self._tags_of_all(Run(index, 1)) if self.is_home_as(index, tag) else {}
        if not self.is_home_as(index, tag):
            return tag, None
        for other in sorted(set(held.values()) - {tag, NEVER_WRITTEN}):  # "never written" would open anything
            good = self._try_all(index, other, columns, out)
            if good is not None:
                self.tags.put(index, other)
                self._count_against({seat for seat, own in held.items() if own != other})
                return other, good
        raise Corrupt(f"sector {index} cannot be rebuilt: too many disks hold wrong fragments. Nothing was returned.")

    def _repair(self, index: int, tag: bytes, sector: memoryview) -> None:
        """Write the sector anew, unless it has changed meanwhile: then it is whole again on every disk."""
        if self.is_home_as(index, tag) and tag != NEVER_WRITTEN:
            self._cache.write(index, bytes(sector))

    def _try_all(self, index: int, tag: bytes, columns: Mapping[int, Buffer], out: memoryview) -> set[int] | None:
        """Unseal from the first k columns that fit `tag`; the seats used, or None."""
        for seats in combinations(sorted(columns), self._geometry.k):
            try:
                unseal_into(self._keys, index, tag, self._rows({s: columns[s] for s in seats}, 1)[0], out)
            except Corrupt:
                continue
            return set(seats)
        return None

    def _blame(self, columns: Mapping[int, Buffer], good: set[int], plain: Mapping[int, Buffer]) -> bool:
        """Count the disks that gave other fragments than those of `good` say; whether one really *holds* a wrong one.

        `columns` came with evidence, `plain` without: what is wrong there only, the host made so.
        """
        right = self._code.encode(b"".join(self._code.decode({seat: columns[seat] for seat in good})))
        holding = {seat for seat, column in columns.items() if bytes(column) != bytes(right[seat])}
        self._count_against(holding | {seat for seat, column in plain.items() if bytes(column) != bytes(right[seat])})
        return bool(holding)

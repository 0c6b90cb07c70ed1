"""Verified reads: tags from memory or with evidence, fragments from any k disks, nothing that does not fit its tag.

`perdure.array.fetch` brings fragments; what is believed of them is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from perdure.array.cache import WriteCache
from perdure.array.erasure import Code
from perdure.array.fetch import CHUNK_SECTORS, Fetcher
from perdure.array.geometry import SECTOR_BYTES, TAG_BYTES, Geometry, Run
from perdure.array.members import Members
from perdure.array.ports import Buffer, Event, Runtime
from perdure.array.sealing import NEVER_WRITTEN, Keys, check, unseal
from perdure.array.tags import TagTable
from perdure.errors import Corrupt


@dataclass(frozen=True, slots=True)
class Differing:
    """A sector that some disk holds wrongly: its tag in force, and what it reads as."""

    index: int
    tag: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class _Found:
    """A sector that opened, and the seats of the k fragments that it was made of."""

    content: Buffer
    seats: set[int]


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
        self._fetcher = Fetcher(geometry, self._code, members, runtime, every_read=every_read)
        self._loading: dict[int, Event] = {}

    async def read(self, run: Run) -> Buffer:
        """The sectors of `run`: each as it was at some moment since the call, whole. The buffer is the caller's.

        Raises Corrupt when no k disks have what the tag names, Unavailable when fewer than k answer.
        """
        if run.count == 1:
            return (await self._read_some(run))[0]
        whole = bytearray(run.count * SECTOR_BYTES)
        for start in range(run.start, run.end, CHUNK_SECTORS):
            some = Run(start, min(CHUNK_SECTORS, run.end - start))
            at = (start - run.start) * SECTOR_BYTES
            for sector in await self._read_some(some):
                whole[at : at + SECTOR_BYTES] = sector
                at += SECTOR_BYTES
        return whole

    async def _read_some(self, run: Run) -> list[Buffer]:
        if not self.tags.knows(run):
            await self.load_tags(run)
        tags, changes = self.tags.get(run), self.tags.changes(run)
        if not any(tags):
            return [bytes(SECTOR_BYTES)] * run.count
        fetched = await self._fetcher.fetch(run)
        sectors: list[Buffer] = []
        for at, row in enumerate(fetched.rows):
            try:
                sectors.append(unseal(self._keys, run.start + at, tags[at * TAG_BYTES : (at + 1) * TAG_BYTES], row))
            except Corrupt:
                plain = fetched.fragments(at, self._geometry.fragment_bytes)
                sectors.append(await self._second_look(run.start + at, plain, changes[at]))
        return sectors

    async def fragments(self, run: Run, seat: int) -> dict[int, Buffer]:
        """The fragments that belong on `seat`, by sector, each proved to be of the version that its tag names.

        A sector that changes meanwhile is left out: its new version is on its way to every disk. Raises Corrupt.
        """
        tags = self.tags.get(run)
        columns = await self._fetcher.columns([run], self._geometry.k, evidence=False)
        rows = self._fetcher.rows(columns, run.count)
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
        columns = await self._columns_of_all(Run(index, 1))
        tag, found = now, self._try_all(index, now, columns)
        if found is None:
            tag, found = await self._by_another_tag(index, now, columns)
        if found is None:
            return {}
        if tag != now:  # the tag itself was wrong: the sector is written anew, for all
            self._repair(index, tag, found.content)
            return {}
        if self.tags.changes(Run(index, 1)) == changes:
            self._blame(columns, found.seats, {})
        data = self._code.decode({at: columns[at] for at in found.seats})
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
        answers = await self._fetcher.read([place], 1, evidence=True, least=1)
        return memoryview(next(iter(answers.values())))

    # Everything, from everyone ------------------------------------------------------------------------------

    async def differing(self, run: Run) -> list[Differing]:
        """The sectors of `run` of which some member holds another tag or fragment than it must; each is counted.

        With evidence from every member that answers. A sector that changes meanwhile is left out. Raises Corrupt.
        """
        await self.load_tags(run)
        tags, changes = self.tags.get(run), self.tags.changes(run)
        size, tags_bytes = self._geometry.fragment_bytes, run.count * TAG_BYTES
        places = [
            Run(self._geometry.tag_start(run.start), run.count),
            Run(self._geometry.fragment_start(run.start), run.count * self._geometry.fragment_sectors),
        ]
        both = await self._fetcher.read(places, len(self._members.roster.members), evidence=True)
        held = {seat: bytes(memoryview(buffer)[:tags_bytes]) for seat, buffer in both.items()}
        columns = {seat: memoryview(buffer)[tags_bytes:] for seat, buffer in both.items()}
        if self._is_as_it_must_be(run, tags, held, columns):
            return []
        found = []
        for at in range(run.count):
            index, tag = run.start + at, tags[at * TAG_BYTES : (at + 1) * TAG_BYTES]
            if self._cache.find(index) is not None or self.tags.changes(Run(index, 1)) != [changes[at]]:
                continue
            tags_held = {seat: own[at * TAG_BYTES : (at + 1) * TAG_BYTES] for seat, own in held.items()}
            parts = {seat: memoryview(column)[at * size : (at + 1) * size] for seat, column in columns.items()}
            tag = self._right_tag(index, tag, tags_held, parts)
            content, wrong = self._wrong_parts(index, tag, parts)
            wrong |= {seat for seat, own in tags_held.items() if own != tag}
            if wrong:
                self._count_against(wrong)
                found.append(Differing(index, tag, content))
        return found

    def _is_as_it_must_be(
        self, run: Run, tags: bytes, held: Mapping[int, bytes], columns: Mapping[int, memoryview]
    ) -> bool:
        """Whether all of it is, on everybody: in one turn for the whole run, which is nearly always the end of it."""
        if any(own != tags for own in held.values()):
            return False
        some = {seat: columns[seat] for seat in sorted(columns)[: self._geometry.k]}
        data = self._code.decode(some)
        size = self._geometry.fragment_bytes
        for at, row in enumerate(self._fetcher.rows(some, run.count)):
            tag = tags[at * TAG_BYTES : (at + 1) * TAG_BYTES]
            if tag == NEVER_WRITTEN:
                if any(any(column[at * size : (at + 1) * size]) for column in some.values()):
                    return False
                continue
            try:
                check(self._keys, run.start + at, tag, row)
            except Corrupt:
                return False
        right = self._code.encode(b"".join(data))
        return all(column == right[seat] for seat, column in columns.items())

    def is_home_as(self, index: int, tag: bytes) -> bool:
        """Whether `tag` still names the latest version, and nothing newer waits to come home."""
        return self._cache.find(index) is None and self.tags.get(Run(index, 1)) == tag

    async def _columns_of_all(self, run: Run) -> dict[int, Buffer]:
        return await self._fetcher.columns([run], len(self._members.roster.members), evidence=True)

    async def _tags_of_all(self, index: int) -> dict[int, bytes]:
        place = Run(self._geometry.tag_start(index), 1)
        held = await self._fetcher.read([place], len(self._members.roster.members), evidence=True)
        return {seat: bytes(tag) for seat, tag in held.items()}

    def _right_tag(self, index: int, tag: bytes, held: Mapping[int, bytes], parts: Mapping[int, Buffer]) -> bytes:
        """`tag` if the sector opens under it, else another that is held and opens it, else `tag`.

        So one disk that says "never written" of what the others hold is wrong, and not they.
        """
        for one in (tag, *sorted(set(held.values()) - {tag})):
            if one != NEVER_WRITTEN and self._try_all(index, one, parts) is not None:
                if one != tag:
                    self.tags.put(index, one)
                return one
        return tag

    def _wrong_parts(self, index: int, tag: bytes, parts: Mapping[int, Buffer]) -> tuple[bytes, set[int]]:
        """One sector's content, and the seats whose fragments are not those of its version."""
        if tag == NEVER_WRITTEN:
            return bytes(SECTOR_BYTES), {seat for seat, part in parts.items() if any(part)}
        found = self._try_all(index, tag, parts)
        if found is None:
            raise Corrupt(f"sector {index} cannot be rebuilt: too many disks hold wrong fragments.")
        right = self._code.encode(b"".join(self._code.decode({seat: parts[seat] for seat in found.seats})))
        return bytes(found.content), {seat for seat, part in parts.items() if bytes(part) != bytes(right[seat])}

    def _count_against(self, seats: set[int]) -> None:
        for seat in seats:
            instance = self._members.roster.seats[seat]
            if instance is not None:
                self._members.counted(instance).checksum += 1
                self._members.sessions[instance].read_slow_ms = self._runtime.now_ms()

    # When a fragment does not fit -------------------------------------------------------------------------

    async def _second_look(self, index: int, plain: Mapping[int, Buffer], changes: int) -> Buffer:
        """The sector did not fit its tag: it was overwritten since it had `changes`, or some of `plain` is wrong."""
        while True:
            cached = self._cache.find(index)
            if cached is not None:
                return cached
            now = self.tags.get(Run(index, 1))
            [before] = self.tags.changes(Run(index, 1))
            if before != changes:
                plain = {}  # of another version: it accuses nobody
            # With evidence, so that what differs is what a disk really holds, not what its host makes of it.
            columns = await self._columns_of_all(Run(index, 1))
            tag, found = now, self._try_all(index, now, columns)
            if found is None:
                tag, found = await self._by_another_tag(index, now, columns)
            if found is not None:
                is_still = tag != now or (self.is_home_as(index, tag) and self.tags.changes(Run(index, 1)) == [before])
                is_wrong = is_still and (self._blame(columns, found.seats, plain) or tag != now)
                if is_wrong and (tag != now or not self._cache.is_full):  # where the tag is wrong it cannot wait
                    self._repair(index, tag, found.content)
                return found.content

    async def _by_another_tag(
        self, index: int, tag: bytes, columns: Mapping[int, Buffer]
    ) -> tuple[bytes, _Found | None]:
        """When nothing opens under `tag`, it may be that tag which is wrong, on the one disk that told it.

        The right one, known from now on, and what it opens; none when the sector has changed meanwhile. Or Corrupt.
        A tag opens only what its version's k fragments are, so no older one can be found while a newer one counts.
        """
        held = await self._tags_of_all(index) if self.is_home_as(index, tag) else {}
        if not self.is_home_as(index, tag):
            return tag, None
        for other in sorted(set(held.values()) - {tag, NEVER_WRITTEN}):  # "never written" would open anything
            found = self._try_all(index, other, columns)
            if found is not None:
                self.tags.put(index, other)
                self._count_against({seat for seat, own in held.items() if own != other})
                return other, found
        raise Corrupt(f"sector {index} cannot be rebuilt: too many disks hold wrong fragments. Nothing was returned.")

    def _repair(self, index: int, tag: bytes, content: Buffer) -> None:
        """Write the sector anew, unless it has changed meanwhile: then it is whole again on every disk."""
        if self.is_home_as(index, tag) and tag != NEVER_WRITTEN:
            self._cache.write(index, bytes(content))

    def _try_all(self, index: int, tag: bytes, columns: Mapping[int, Buffer]) -> _Found | None:
        """What the first k columns that fit `tag` open to, and their seats; None if none do."""
        for seats in combinations(sorted(columns), self._geometry.k):
            try:
                [row] = self._fetcher.rows({seat: columns[seat] for seat in seats}, 1)
                return _Found(unseal(self._keys, index, tag, row), set(seats))
            except Corrupt:
                continue
        return None

    def _blame(self, columns: Mapping[int, Buffer], good: set[int], plain: Mapping[int, Buffer]) -> bool:
        """Count the disks that gave other fragments than those of `good` say; whether one really *holds* a wrong one.

        `columns` came with evidence, `plain` without: what is wrong there only, the host made so.
        """
        right = self._code.encode(b"".join(self._code.decode({seat: columns[seat] for seat in good})))
        holding = {seat for seat, column in columns.items() if bytes(column) != bytes(right[seat])}
        self._count_against(holding | {seat for seat, column in plain.items() if bytes(column) != bytes(right[seat])})
        return bool(holding)

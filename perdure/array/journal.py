"""The journal: entries, the ring's head, and the operations that apply an entry (docs/spec.md, section 6).

An entry is one atomic group: runs to trim, and then sectors to write. It stands in its slot as

    magic 4 "PENT" | writes u16 | trims u16 | number u64 | epoch 16 | mac 32
    | index u32 for each write, rising | start u32, count u32 for each trim | zeros to a whole disk sector
    | tags, 64 each | this disk's fragments

All but the fragments is the same on every disk; `mac` authenticates it. The head says which entries a disk has: it
holds all up to `last`, and all up to `applied` are in their homes.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct

from perdure.array.geometry import INDEX_BYTES, TRIM_BYTES, Geometry, Run, ceil_div
from perdure.disk.wire import DISK_SECTOR_BYTES, OP, OpKind
from perdure.errors import Corrupt

_MAGIC = b"PENT"
_FIXED = Struct(">4sHHQ16s")
HEADER_BYTES = DISK_SECTOR_BYTES
_HEAD = Struct(">QQ48x")
_TRIM = Struct(">II")


@dataclass(frozen=True, slots=True)
class Head:
    """How far one disk's journal has come."""

    last: int
    applied: int

    def encode(self) -> bytes:
        """One disk sector."""
        return _HEAD.pack(self.last, self.applied)

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Raises Corrupt when the numbers cannot be."""
        head = cls(*_HEAD.unpack(data)) if len(data) == _HEAD.size else None
        if head is None or head.applied > head.last or head.encode() != data:
            raise Corrupt("a journal's head is damaged")
        return head


@dataclass(frozen=True, slots=True)
class EntryHeader:
    """The fixed part of an entry; enough to know how much to read, and to tell two entries apart."""

    writes: int
    trims: int
    number: int
    epoch: bytes
    mac: bytes

    @property
    def record_sectors(self) -> int:
        """The indices and trims, in disk sectors."""
        return ceil_div(self.writes * INDEX_BYTES + self.trims * TRIM_BYTES, DISK_SECTOR_BYTES)

    def sectors_before_fragments(self) -> int:
        """Header, records and tags, in disk sectors."""
        return 1 + self.record_sectors + self.writes

    def encode(self) -> bytes:
        """One disk sector."""
        return _FIXED.pack(_MAGIC, self.writes, self.trims, self.number, self.epoch) + self.mac

    @classmethod
    def decode(cls, data: bytes) -> EntryHeader:
        """Raises Corrupt when there is no entry."""
        if len(data) < HEADER_BYTES or data[:4] != _MAGIC:
            raise Corrupt("a journal slot holds no entry where the head says there is one")
        _, writes, trims, number, epoch = _FIXED.unpack_from(data)
        return cls(writes, trims, number, epoch, bytes(data[_FIXED.size : HEADER_BYTES]))


@dataclass(frozen=True, slots=True)
class Entry:
    """One atomic group. `indices` rise; `tags` are theirs, 64 bytes each, end to end."""

    number: int
    epoch: bytes
    indices: tuple[int, ...]
    trims: tuple[Run, ...]
    tags: bytes

    def encode(self, key: bytes) -> bytes:
        """All that comes before the fragments."""
        records = b"".join(index.to_bytes(INDEX_BYTES, "big") for index in self.indices)
        records += b"".join(_TRIM.pack(run.start, run.count) for run in self.trims)
        records = records.ljust(ceil_div(len(records), DISK_SECTOR_BYTES) * DISK_SECTOR_BYTES, b"\0")
        fixed = _FIXED.pack(_MAGIC, len(self.indices), len(self.trims), self.number, self.epoch)
        mac = hmac.digest(key, fixed + records + self.tags, "sha256")
        return fixed + mac + records + self.tags

    @classmethod
    def decode(cls, data: bytes, key: bytes) -> Entry:
        """What `encode` made. Raises Corrupt when it does not authenticate."""
        header = EntryHeader.decode(data)
        if len(data) != header.sectors_before_fragments() * DISK_SECTOR_BYTES:
            raise Corrupt(f"journal entry {header.number} has another length than it says")
        start, end = HEADER_BYTES, HEADER_BYTES + header.writes * INDEX_BYTES
        indices = tuple(int.from_bytes(data[at : at + INDEX_BYTES], "big") for at in range(start, end, INDEX_BYTES))
        trims = tuple(Run(*_TRIM.unpack_from(data, end + at * TRIM_BYTES)) for at in range(header.trims))
        tags = data[HEADER_BYTES + header.record_sectors * DISK_SECTOR_BYTES :]
        entry = cls(header.number, header.epoch, indices, trims, bytes(tags))
        if not hmac.compare_digest(entry.encode(key), bytes(data)):
            raise Corrupt(f"journal entry {header.number} does not authenticate")
        return entry

    def header(self, key: bytes) -> EntryHeader:
        """The fixed part."""
        return EntryHeader.decode(self.encode(key))

    def slot_sectors(self, geometry: Geometry) -> int:
        """How much of its slot it fills, in disk sectors."""
        before = EntryHeader(len(self.indices), len(self.trims), 0, b"", b"").sectors_before_fragments()
        return before + len(self.indices) * geometry.fragment_sectors


def runs_of(indices: Sequence[int]) -> Iterable[tuple[int, Run]]:
    """The runs of neighbours in rising `indices`, each with the position of its first."""
    start = 0
    for at in range(1, len(indices) + 1):
        if at == len(indices) or indices[at] != indices[at - 1] + 1:
            yield start, Run(indices[start], at - start)
            start = at


def apply_ops(geometry: Geometry, entry: Entry) -> list[bytes]:
    """The operations that carry `entry` from its slot to its homes and wipe the slot."""
    slot = geometry.slot_start(entry.number)
    tags = slot + entry.slot_sectors(geometry) - len(entry.indices) * (1 + geometry.fragment_sectors)
    fragments = tags + len(entry.indices)
    ops = []
    for run in entry.trims:
        ops.append(trim(geometry.tag_start(run.start), run.count))
        ops.append(trim(geometry.fragment_start(run.start), run.count * geometry.fragment_sectors))
    size, tags_start, fragments_start = geometry.fragment_sectors, geometry.tags_start, geometry.fragments_start
    for at, run in runs_of(entry.indices):
        start, count = run.start, run.count
        ops.append(copy(tags_start + start, count, tags + at))
        ops.append(copy(fragments_start + start * size, count * size, fragments + at * size))
    ops.append(trim(slot, entry.slot_sectors(geometry)))
    return ops


def write(target: int, count: int) -> bytes:
    """A WRITE of the next `count` disk sectors of the command's data."""
    return OP.pack(OpKind.WRITE, target, count, 0)


def copy(target: int, count: int, source: int) -> bytes:
    """A COPY within the disk."""
    return OP.pack(OpKind.COPY, target, count, source)


def trim(target: int, count: int) -> bytes:
    """A TRIM: zeros."""
    return OP.pack(OpKind.TRIM, target, count, 0)

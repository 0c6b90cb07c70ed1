"""Reads what QEMU's `blklogwrites` recorded, and says what a disk may hold after each of its flushes.

The format is that of Linux' dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst; drivers/md/
dm-log-writes.c): little endian; a super block in the first sector, then each entry in a sector of its own with its data
after it, all in units of the sector size that the super block gives.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

MAGIC = 0x6A736677736872
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
SECTOR_BYTES = 512
"""Offsets and lengths of entries are in these, whatever the sector size of the log."""


class Flag(IntFlag):
    """What an entry is."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """A write, or with DISCARD zeros without data. FLUSH alone has no length."""

    flags: Flag
    offset: int
    length: int
    data: bytes

    @property
    def content(self) -> bytes:
        """What reads from `offset` afterwards."""
        return bytes(self.length) if Flag.DISCARD in self.flags else self.data


def read(path: Path) -> list[Entry]:
    """All entries that were recorded whole. Raises ValueError for what is no such log.

    The super block's own count is as old as the last flush, so entries are read for as long as they are whole.
    """
    log = path.read_bytes()
    magic, version, _, sector = _SUPER.unpack_from(log)
    if (magic, version) != (MAGIC, 1):
        raise ValueError(f"{path} does not begin as a log of writes does")
    return list(_entries(log, sector))


def _entries(log: bytes, sector: int) -> Iterator[Entry]:
    at = sector
    while at + sector <= len(log):
        start, count, flags, _ = _ENTRY.unpack_from(log, at)
        at += sector
        if not count and not flags:
            return
        length = count * SECTOR_BYTES
        has_data = Flag.DISCARD not in Flag(flags)
        yield Entry(Flag(flags), start * SECTOR_BYTES, length, log[at : at + length] if has_data else b"")
        at += -(-length // sector) * sector if has_data else 0


def flushes(entries: list[Entry]) -> list[int]:
    """The numbers of entries before each flush, that one included."""
    return [number for number, entry in enumerate(entries, 1) if Flag.FLUSH in entry.flags]


def replay(entries: list[Entry], size_bytes: int) -> bytes:
    """What a blank disk of this size holds once all of them are carried out."""
    disk = bytearray(size_bytes)
    for entry in entries:
        disk[entry.offset : entry.offset + entry.length] = entry.content
    return bytes(disk)

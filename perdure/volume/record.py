"""The bytes of a volume: a header, and one sector for each file (docs/spec.md, section 19). Integers are big-endian.

    header 1 | records 255 | data

A record has the one form that `encode` gives; anything else is Corrupt.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from perdure.array.geometry import SECTOR_BYTES, Run, ceil_div
from perdure.errors import Corrupt, Misuse
from perdure.volume.extents import Extents, capacity_of

HEADER = b"PVOL\x00\x01".ljust(SECTOR_BYTES, b"\0")
"""The first sector of every volume of format 1."""
FILES_MAX = 255
DATA_START = 1 + FILES_MAX
"""The first sector that may belong to a file."""
NAME_BYTES_MAX = 240
EXTENTS_MAX = 480
_ZEROS = bytes(SECTOR_BYTES)
_MAGIC = b"PVFL"
_FIXED = Struct(">4sBBHQ")
_EXTENT = Struct(">II")
_EXTENTS_AT = _FIXED.size + NAME_BYTES_MAX


class State(IntEnum):
    """What may stand in a file's sectors behind its size."""

    QUIET = 1
    """Zeros, and there are no more sectors than the size takes."""
    GROWING = 2
    """Anything: what a crash leaves there is wiped when the volume is opened."""
    DELETED = 3
    """There is no such file any more; all its sectors are wiped when the volume is opened."""


@dataclass(frozen=True, slots=True)
class Record:
    """One file: `size` bytes in `extents`, runs of the array's sectors, in this order."""

    name: str
    state: State
    size: int
    extents: Extents

    @property
    def capacity(self) -> int:
        """Bytes that its sectors hold."""
        return capacity_of(self.extents)

    def encode(self) -> bytes:
        """The record's sector."""
        name = self.name.encode()
        fixed = _FIXED.pack(_MAGIC, self.state, len(name), len(self.extents), self.size)
        extents = b"".join(_EXTENT.pack(*run) for run in self.extents)
        return (fixed + name.ljust(NAME_BYTES_MAX, b"\0") + extents).ljust(SECTOR_BYTES, b"\0")

    @staticmethod
    def decode(data: bytes, sectors: int) -> Record | None:
        """The record that a sector of an array of `sectors` holds; None for zeros. Raises Corrupt."""
        if data == _ZEROS:
            return None
        try:
            found = _parse(data)
        except ValueError as why:
            raise _damaged(f"it is not one ({why})") from why
        if any(run.start < DATA_START or run.end > sectors or not run.count for run in found.extents):
            raise _damaged(f"{found.name!r} has sectors that are not the volume's")
        if found.state is State.QUIET and found.capacity != ceil_div(found.size, SECTOR_BYTES) * SECTOR_BYTES:
            raise _damaged(f"{found.name!r} has more or fewer sectors than its size takes")
        if found.capacity < found.size or found.encode() != data:
            raise _damaged(f"what it says of {found.name!r} does not add up")
        return found


def check_name(name: str) -> None:
    """Raise Misuse for a name that no record can hold."""
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError as why:
        raise Misuse(f"A file's name is text that UTF-8 can write, and {name!r} is not; nothing was changed.") from why
    if not 0 < size_bytes <= NAME_BYTES_MAX or "\0" in name:
        raise Misuse(
            f"A file's name has 1 to {NAME_BYTES_MAX} bytes and no zero byte, not {name[:60]!r} of {size_bytes}; "
            "nothing was changed. Choose another."
        )


def _parse(data: bytes) -> Record:
    magic, state, name_bytes, count, size = _FIXED.unpack_from(data)
    if magic != _MAGIC or count > EXTENTS_MAX or not 0 < name_bytes <= NAME_BYTES_MAX:
        raise ValueError("wrong magic, name or number of extents")
    name = data[_FIXED.size : _FIXED.size + name_bytes].decode()
    extents = tuple(Run(*_EXTENT.unpack_from(data, _EXTENTS_AT + at * _EXTENT.size)) for at in range(count))
    return Record(name, State(state), size, extents)


def _damaged(what: str) -> Corrupt:
    return Corrupt(
        f"A record of the volume was written over by something else: {what}. Nothing was changed. Write to this array "
        "through one volume alone, and put back the files from your copy."
    )

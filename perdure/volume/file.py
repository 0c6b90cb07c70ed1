"""One file of a volume, and what a volume asks of an array."""

from __future__ import annotations

from typing import Protocol

from perdure.array.ports import Buffer
from perdure.volume.record import Record


class Bytes(Protocol):
    """What is asked of the array: `perdure.api.SyncArray` has it."""

    @property
    def size(self) -> int:
        """Bytes."""

    def pread(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`."""

    def pwrite(self, offset: int, data: Buffer) -> None:
        """Write `data` at `offset`."""

    def trim(self, offset: int, length: int) -> None:
        """Make `length` bytes from `offset` read as zeros, and wipe whole sectors."""

    def flush(self) -> None:
        """Return when all that was written is durable."""


class File:
    """A file as its volume knows it: what its record says, and the size that it has by now. See `Volume.file`."""

    def __init__(self, place: int, record: Record) -> None:
        self.place = place
        """Of its record among the volume's."""
        self.name = record.name
        self.size = record.size
        self.state = record.state
        self.extents = record.extents

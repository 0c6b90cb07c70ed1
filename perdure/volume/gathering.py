"""Writes of neighbouring bytes go to the array as one: SQLite writes each page of its log in two pieces, in a row."""

from __future__ import annotations

from typing import Final

from perdure.array.ports import Buffer
from perdure.volume.file import Bytes

BYTES_MAX: Final = 256 << 10
"""So much waits at most; more goes as it comes."""


class Gathering:
    """An array whose last write may wait in memory for the next, if that begins where it ends.

    Nothing overtakes it, so what a crash leaves is a prefix of what was written still; what is read has it. `send`
    gives it to the array. Everything raises what the array raises; a write that failed then was an earlier one's, so
    whoever changes something must end with the first failure. One caller at a time.
    """

    def __init__(self, array: Bytes) -> None:
        self._array = array
        self._start = 0
        self._waiting = bytearray()

    @property
    def size(self) -> int:
        """Bytes."""
        return self._array.size

    @property
    def _end(self) -> int:
        return self._start + len(self._waiting)

    def pread(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, with what waits."""
        data = self._array.pread(offset, length)
        first, end = max(offset, self._start), min(offset + length, self._end)
        if first >= end:
            return data
        mixed = bytearray(data)
        mixed[first - offset : end - offset] = self._waiting[first - self._start : end - self._start]
        return bytes(mixed)

    def pwrite(self, offset: int, data: Buffer) -> None:
        """Write `data` at `offset`, now or before anything else is written."""
        view = memoryview(data).cast("B")
        if offset != self._end or len(self._waiting) + len(view) > BYTES_MAX:
            self.send()
            self._start = offset
        if len(view) > BYTES_MAX:
            self._array.pwrite(offset, view)
        else:
            self._waiting += view

    def trim(self, offset: int, length: int) -> None:
        """Make `length` bytes from `offset` read as zeros, after what waits."""
        self.send()
        self._array.trim(offset, length)

    def send(self) -> None:
        """Give to the array what waits."""
        waiting, self._waiting = self._waiting, bytearray()
        if waiting:
            self._array.pwrite(self._start, waiting)

    def flush(self) -> None:
        """Return when all that was written is durable."""
        self.send()
        self._array.flush()

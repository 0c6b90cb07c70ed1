"""The array as NBD sees it, with every request counted and timed: a layer, so that neither side knows of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from perdure.nbd.backend import Backend, Buffer
from perdure.shell.meter import Meter


class Metered:
    """A `Backend` over another one."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.read, self.write, self.flushes, self.trims = Meter(), Meter(), Meter(), Meter()

    @property
    def size_bytes(self) -> int:
        """As the other one's."""
        return self._backend.size_bytes

    def to_json(self) -> Mapping[str, Any]:
        """All counters, by kind of request; bytes are the clients'."""
        kinds = {"read": self.read, "write": self.write, "flush": self.flushes, "trim": self.trims}
        return {name: meter.to_json() for name, meter in kinds.items()}

    async def pread(self, offset: int, length: int) -> Buffer:
        """See `Backend`."""
        with _timed(self.read, length):
            return await self._backend.pread(offset, length)

    async def pwrite(self, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """See `Backend`."""
        with _timed(self.write, len(data)):
            await self._backend.pwrite(offset, data, fua=fua)

    async def flush(self) -> None:
        """See `Backend`."""
        with _timed(self.flushes, 0):
            await self._backend.flush()

    async def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        """See `Backend`."""
        with _timed(self.trims, length):
            await self._backend.trim(offset, length, fua=fua)

    async def write_zeroes(self, offset: int, length: int, *, fua: bool = False, may_trim: bool = True) -> None:
        """See `Backend`."""
        with _timed(self.trims, length):
            await self._backend.write_zeroes(offset, length, fua=fua, may_trim=may_trim)


class _timed:
    """A class and no generator, since it runs with every request."""

    __slots__ = ("_begun", "_length", "_meter")

    def __init__(self, meter: Meter, length: int) -> None:
        self._meter = meter
        self._length = length

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._meter.note(time.perf_counter() - self._begun, self._length)
        else:
            self._meter.failed += 1

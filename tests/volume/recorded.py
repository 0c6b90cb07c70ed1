"""An array in memory that keeps every effect in order, so that a crash after any of them can be looked at.

It promises what docs/threat-model.md, P2 and P3 promise and no more: an effect is one sector, or one run of trimmed
sectors; what a crash leaves is a prefix of the effects, and at least those before the last flush.
`tests/volume/test_on_an_array.py` runs the same over the real core.
"""

from __future__ import annotations

from collections.abc import Callable

from perdure.array.geometry import SECTOR_BYTES, TRIM_SECTORS_MAX, ceil_div


class Recorded:
    """`effects` are pairs of where and which bytes; `flushes` says how many of them stood when each flush returned."""

    def __init__(self, sectors: int = 320, content: bytes | None = None) -> None:
        self.data = bytearray(content or bytes(sectors * SECTOR_BYTES))
        self.first = bytes(self.data)
        self.effects: list[tuple[int, bytes]] = []
        self.flushes: list[int] = [0]
        self.fails_after: int | None = None
        self.before_effect: Callable[[], None] | None = None

    @property
    def size(self) -> int:
        return len(self.data)

    def pread(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size
        return bytes(self.data[offset : offset + length])

    def pwrite(self, offset: int, data) -> None:
        assert 0 <= offset <= offset + len(data) <= self.size
        view = bytes(data)
        while view:
            part = view[: SECTOR_BYTES - offset % SECTOR_BYTES]
            self._effect(offset, part)
            offset, view = offset + len(part), view[len(part) :]

    def trim(self, offset: int, length: int) -> None:
        first, end = ceil_div(offset, SECTOR_BYTES), (offset + length) // SECTOR_BYTES
        if first >= end:
            self.pwrite(offset, bytes(length))
            return
        self.pwrite(offset, bytes(first * SECTOR_BYTES - offset))
        for start in range(first, end, TRIM_SECTORS_MAX):
            count = min(TRIM_SECTORS_MAX, end - start)
            self._effect(start * SECTOR_BYTES, bytes(count * SECTOR_BYTES))
        self.pwrite(end * SECTOR_BYTES, bytes(offset + length - end * SECTOR_BYTES))

    def flush(self) -> None:
        self.flushes.append(len(self.effects))

    def _effect(self, at: int, data: bytes) -> None:
        if self.before_effect is not None:
            self.before_effect()
        if self.fails_after == len(self.effects):
            raise OSError("the array failed")
        self.effects.append((at, data))
        self.data[at : at + len(data)] = data

    def flushed_before(self, count: int) -> int:
        """How many effects the last flush had covered when there were `count`."""
        return max(flush for flush in self.flushes if flush <= count)

    def cuts(self, start: int = 0):
        """What a crash leaves after each effect from `start` on: how many there were, and the array."""
        data = bytearray(self.first)
        for count, effect in enumerate([(0, b""), *self.effects]):
            data[effect[0] : effect[0] + len(effect[1])] = effect[1]
            if count >= start:
                yield count, Recorded(content=bytes(data))

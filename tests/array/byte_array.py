"""What an array may hold: a plain byte array that remembers what was not flushed, and what a crash may leave of it.

Every change is cut into steps as the array takes them: one sector each, or one run of trimmed sectors. What a crash
leaves must be what was flushed, and then all steps up to some point and none after it (docs/threat-model.md, P3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from perdure.array.geometry import SECTOR_BYTES, TRIM_SECTORS_MAX, ceil_div


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes from `offset` that change together."""

    offset: int
    data: bytes


@dataclass(slots=True)
class ByteArray:
    """`size_bytes` zeros at first. Offsets and lengths in bytes, all within the size."""

    size_bytes: int
    now: bytearray = field(init=False)
    durable: bytearray = field(init=False)
    pending: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now, self.durable = bytearray(self.size_bytes), bytearray(self.size_bytes)

    def write(self, offset: int, data: bytes) -> None:
        """A write that may have been carried out, wholly or up to some sector."""
        self._take(_sectors(offset, data))

    def zero(self, offset: int, length: int) -> None:
        """A trim or a write of zeros, likewise."""
        self._take(_zeros(offset, length))

    def flushed(self) -> None:
        """All that was written is durable."""
        self.durable[:] = self.now
        self.pending.clear()

    def crashed(self, found: bytes) -> None:
        """Go on from what a crash left. Fails unless that is what was flushed and a prefix of the steps since."""
        state = bytearray(self.durable)
        kept = -1
        if state == found:
            kept = 0
        for number, step in enumerate(self.pending, 1):
            state[step.offset : step.offset + len(step.data)] = step.data
            if state == found:
                kept = number
        assert kept >= 0, self._why_not(found)
        self.now[:] = found
        self.flushed()

    def _take(self, steps: Iterator[Step]) -> None:
        for step in steps:
            self.now[step.offset : step.offset + len(step.data)] = step.data
            self.pending.append(step)

    def _why_not(self, found: bytes) -> str:
        """Which sectors are neither old nor new; if there are none, the order is wrong."""
        neither = []
        for index in range(len(found) // SECTOR_BYTES):
            at = slice(index * SECTOR_BYTES, (index + 1) * SECTOR_BYTES)
            state = bytearray(self.durable)
            seen = [bytes(state[at])]
            for step in self.pending:
                state[step.offset : step.offset + len(step.data)] = step.data
                seen.append(bytes(state[at]))
            if found[at] not in seen:
                neither.append(index)
        if neither:
            return f"sectors {neither} hold neither what was flushed nor what was written since"
        return f"every sector is old or new, but no prefix of the {len(self.pending)} steps leaves them so"


def _sectors(offset: int, data: bytes) -> Iterator[Step]:
    end = offset + len(data)
    while offset < end:
        stop = min(end, (offset // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield Step(offset, data[: stop - offset])
        offset, data = stop, data[stop - offset :]


def _zeros(offset: int, length: int) -> Iterator[Step]:
    """Parts of sectors are written, whole ones between them trimmed, as many at once as an entry may trim."""
    end = offset + length
    first, last = ceil_div(offset, SECTOR_BYTES) * SECTOR_BYTES, end // SECTOR_BYTES * SECTOR_BYTES
    if first >= last:
        yield from _sectors(offset, bytes(length))
        return
    yield from _sectors(offset, bytes(first - offset))
    for at in range(first, last, TRIM_SECTORS_MAX * SECTOR_BYTES):
        yield Step(at, bytes(min(TRIM_SECTORS_MAX * SECTOR_BYTES, last - at)))
    yield from _sectors(last, bytes(end - last))

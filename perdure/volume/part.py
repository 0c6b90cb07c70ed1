"""A part of an array, so that several things that want an array each can share one."""

from __future__ import annotations

from perdure.array.geometry import SECTOR_BYTES, Run
from perdure.array.ports import Buffer
from perdure.errors import Misuse
from perdure.volume.file import Bytes


class Part:
    """`size` bytes of an array from byte `offset`, both whole sectors of 4,096 bytes, as an array of their own.

    Nothing outside is read or changed. A write keeps the order and the wholeness of sectors that the array gives it,
    and `flush` is the array's: it covers all that was written, in this part or not, but for what a volume keeps back
    until its `sync`. Two volumes do not open on parts that overlap; what else is put on parts is for the caller to keep
    apart.

    Raises Misuse for a part that is not of whole sectors or not within the array. What is asked of it raises Misuse
    for bytes outside of it, and then nothing was done; else what the array raises.
    """

    def __init__(self, array: Bytes, offset: int, size: int) -> None:
        if offset < 0 or size <= 0 or offset + size > array.size or offset % SECTOR_BYTES or size % SECTOR_BYTES:
            raise Misuse(
                f"A part of an array is one or more whole sectors of {SECTOR_BYTES} bytes within it, not {size} bytes "
                f"from {offset} of {array.size}; nothing was changed."
            )
        self._array = array
        self._offset = offset
        self._size = size

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    @property
    def place(self) -> tuple[Bytes, Run]:
        """The array that no part is, and the sectors of it that this part has."""
        array, run = place_of(self._array)
        return array, Run(run.start + self._offset // SECTOR_BYTES, self._size // SECTOR_BYTES)

    def pread(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` of this part."""
        return self._array.pread(self._start(offset, length), length)

    def pwrite(self, offset: int, data: Buffer) -> None:
        """Write `data` at `offset` of this part."""
        self._array.pwrite(self._start(offset, memoryview(data).nbytes), data)

    def trim(self, offset: int, length: int) -> None:
        """Make `length` bytes from `offset` of this part read as zeros, and wipe whole sectors."""
        self._array.trim(self._start(offset, length), length)

    def flush(self) -> None:
        """Return when all that was written to the array is durable."""
        self._array.flush()

    def _start(self, offset: int, length: int) -> int:
        """Where `offset` is in the array, if all of the range is in this part. Raises Misuse."""
        if offset < 0 or length < 0 or offset + length > self._size:
            raise Misuse(
                f"{length} bytes from {offset} are not within this part of the array, which has {self._size}; nothing "
                "was read or changed."
            )
        return self._offset + offset


def place_of(array: Bytes) -> tuple[Bytes, Run]:
    """The array that `array` is a part of, which may be itself, and the sectors of it that it has."""
    return array.place if isinstance(array, Part) else (array, Run(0, array.size // SECTOR_BYTES))

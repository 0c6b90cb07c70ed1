"""What the NBD server needs from the thing it presents: one narrow interface, in bytes.

The server has checked every range before it calls: 0 < length and offset + length <= size_bytes. Reads and
writes are at most 32 MiB; a trim or a zeroing may be as long as 4 GiB - 1. Offsets and lengths need not be
multiples of anything. Calls overlap: up to 128 per connection run at once, and those that touch the same bytes
have no order among them, as on any disk.
"""

from __future__ import annotations

from typing import Protocol

Buffer = bytes | bytearray | memoryview


class Backend(Protocol):
    """A disk of `size_bytes` that never changes size.

    Errors: `Misuse` reaches the client as EINVAL, `Fenced` as ESHUTDOWN, every other `PerdureError` as EIO, each
    with its sentence. Anything else is a defect: the client gets EIO and the log gets the traceback.
    """

    @property
    def size_bytes(self) -> int:
        """The size that clients are told; more than 0 and less than 2**63."""

    async def pread(self, offset: int, length: int) -> Buffer:
        """Return exactly `length` bytes. The buffer is handed over: it must not change after the return."""

    async def pwrite(self, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """Write all of `data`; with `fua`, return only when it would survive what a flush survives.

        `data` is valid until this returns or raises. A backend that needs it longer copies it, and never
        changes it.
        """

    async def flush(self) -> None:
        """Return when every write, on any connection, that returned before this call is durable."""

    async def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Drop what the range holds, as far as alignment allows."""

    async def write_zeroes(self, offset: int, length: int, *, fua: bool = False, may_trim: bool = True) -> None:
        """Make the range read as zeros; without `may_trim`, a later write there must find its room reserved."""

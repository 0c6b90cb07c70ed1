"""Perdure's NBD server over a bytearray, as a program: `python -P bench/peers/bare.py ADDRESS SIZE_BYTES`."""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from perdure.nbd.backend import Buffer
from perdure.nbd.server import serve


class Memory:
    """A backend (`perdure.nbd.backend`) whose every write is where it stays: a flush has nothing to do."""

    def __init__(self, size_bytes: int) -> None:
        self._bytes = bytearray(size_bytes)

    @property
    def size_bytes(self) -> int:
        """What clients are told."""
        return len(self._bytes)

    async def pread(self, offset: int, length: int) -> Buffer:
        """A copy, since the caller may keep it."""
        return bytes(memoryview(self._bytes)[offset : offset + length])

    async def pwrite(self, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """Copy it in."""
        del fua
        self._bytes[offset : offset + len(data)] = data

    async def flush(self) -> None:
        """Nothing is anywhere else."""

    async def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Nothing is given back."""

    async def write_zeroes(self, offset: int, length: int, *, fua: bool = False, may_trim: bool = True) -> None:
        """Zeros over the range."""
        del fua, may_trim
        self._bytes[offset : offset + length] = bytes(length)


async def run(address: str, size_bytes: int) -> None:
    """Serve until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = await serve(Memory(size_bytes), address=address)
    await stopping.wait()
    await server.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(sys.argv[1], int(sys.argv[2])))

"""A man in the middle: stands at a disk's address, passes frames on both ways, and keeps every one of them.

    with Proxy.before(unix_socket_path) as proxy:
        ...
        proxy.frames  # all that passed so far, in order

`alter` decides what becomes of a frame: it is given the frame and returns the payloads to send in its place, none to
drop it. It runs in the proxy's thread. Frames are cut by their length only (docs/spec.md, section 2); nothing else is
understood, and what a peer sends after a length that cannot be is passed on as it came by closing both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from perdure.disk.wire import FRAME_HEADER, SIGNATURE_BYTES, Opcode

FRAME_BYTES_MAX = 4 << 20


class Way(Enum):
    """Which way a frame goes."""

    TO_DISK = "to the disk"
    TO_MAIN = "to the main program"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it came: `connection` counts the connections that were made, `payload` lacks the length."""

    connection: int
    way: Way
    payload: bytes

    @property
    def wire_bytes(self) -> int:
        """With the length before it."""
        return FRAME_HEADER.size + len(self.payload)

    @property
    def opcode(self) -> Opcode:
        """Of a command (docs/spec.md, section 3); fails for a reply."""
        assert self.way is Way.TO_DISK
        return Opcode(self.payload[SIGNATURE_BYTES + 1])  # the version comes first


Alter = Callable[[Frame], Sequence[bytes]]


def unchanged(frame: Frame) -> Sequence[bytes]:
    """Pass it on as it is."""
    return (frame.payload,)


class Proxy:
    """Listens at `front`, a Unix socket path, for the disk that listens at `back`; one thread, many connections."""

    def __init__(self, front: Path, back: Path, alter: Alter = unchanged) -> None:
        self.frames: list[Frame] = []
        self.alter = alter
        self._front, self._back = front, back
        self._count = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @classmethod
    @contextlib.contextmanager
    def before(cls, socket_path: Path, alter: Alter = unchanged) -> Iterator[Proxy]:
        """Take the place of the disk at this path; when the block ends, the disk has it back."""
        aside = socket_path.with_name(f"{socket_path.stem}-aside.sock")
        os.rename(socket_path, aside)
        proxy = cls(socket_path, aside, alter)
        try:
            with proxy._running():
                yield proxy
        finally:
            os.rename(aside, socket_path)

    def cut(self) -> None:
        """Break every connection; new ones are served."""
        self._loop.call_soon_threadsafe(self._cut)

    def commands(self, *, start: int = 0) -> list[Frame]:
        """The frames from number `start` on that went to the disk."""
        return [frame for frame in self.frames[start:] if frame.way is Way.TO_DISK]

    @property
    def write_lane(self) -> int:
        """The newest connection on which EXECUTEs come."""
        return [frame for frame in self.commands() if frame.opcode is Opcode.EXECUTE][-1].connection

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        self._thread.start()
        try:
            server = asyncio.run_coroutine_threadsafe(asyncio.start_unix_server(self._serve, self._front), self._loop)
            server.result()
            yield
        finally:
            asyncio.run_coroutine_threadsafe(self._stop(server.result()), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _stop(self, server: asyncio.Server) -> None:
        server.close()
        self._cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self._count = self._count, self._count + 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            back_reader, back_writer = await asyncio.open_unix_connection(self._back)
        except OSError:  # the disk has ended: the main program sees its connection closed
            writer.transport.abort()
            return
        self._writers += [writer, back_writer]
        ways = (
            self._pass(number, Way.TO_DISK, reader, back_writer),
            self._pass(number, Way.TO_MAIN, back_reader, writer),
        )
        await asyncio.gather(*ways)

    async def _pass(self, number: int, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either side ends; then the other is ended too."""
        try:
            while True:
                (length,) = FRAME_HEADER.unpack(await reader.readexactly(FRAME_HEADER.size))
                if length > FRAME_BYTES_MAX:
                    return
                frame = Frame(number, way, await reader.readexactly(length))
                self.frames.append(frame)
                for payload in self.alter(frame):
                    writer.writelines([FRAME_HEADER.pack(len(payload)), payload])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

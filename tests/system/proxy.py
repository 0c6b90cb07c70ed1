"""A man in the middle: stands at a disk's address, passes frames on both ways, and keeps every one of them.

    with Proxy.before(unix_socket_path) as proxy:
        ...
        proxy.frames  # all that passed so far, in order

`alter` decides what becomes of a frame: it is given the frame and returns what to send in its place, nothing to drop
it. It runs in the proxy's thread; where it has to wait, it returns an awaitable of the same, and only that direction of
that connection waits with it. Frames are cut by their length (docs/spec.md, section 2), and a reply is matched to the
command it answers by its place; nothing else is understood. A length that cannot be ends both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from perdure.disk.wire import COMMAND_HEADER, FRAME_HEADER, SIGNATURE_BYTES, Opcode, Wants

FRAME_BYTES_MAX = 4 << 20


class Way(Enum):
    """Which way a frame goes."""

    TO_DISK = "to the disk"
    TO_MAIN = "to the main program"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it came: `connection` counts the connections that were made, `payload` lacks the length.

    A reply has the `command` that it answers, as that went to the disk. The properties are a command's (docs/spec.md,
    section 2); they fail for a reply.
    """

    connection: int
    way: Way
    payload: bytes
    command: Frame | None = None

    @property
    def wire_bytes(self) -> int:
        """With the length before it."""
        return FRAME_HEADER.size + len(self.payload)

    @property
    def opcode(self) -> Opcode:
        """What is asked for."""
        return Opcode(self._header[1])  # the version comes first

    @property
    def wants_evidence(self) -> bool:
        """Whether the answer must carry evidence."""
        return self.wants in (Wants.EVIDENCE, Wants.CHAIN)

    @property
    def wants(self) -> Wants:
        """What shall prove that it was carried out."""
        return Wants(self._header[2])

    @property
    def instance(self) -> bytes:
        """Whom it addresses."""
        return bytes(self._header[3])

    @property
    def epoch(self) -> bytes:
        """In which epoch."""
        return bytes(self._header[4])

    @property
    def seq(self) -> int:
        """Of an EXECUTE."""
        return int(self._header[5])

    @property
    def body(self) -> bytes:
        """Operations and data, or runs."""
        return self.payload[SIGNATURE_BYTES + COMMAND_HEADER.size :]

    @property
    def _header(self) -> tuple[Any, ...]:
        assert self.way is Way.TO_DISK
        return COMMAND_HEADER.unpack_from(self.payload, SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes to send as they are, without a length of our own."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Forged:
    """In place of a command: it does not go to the disk, and the main program gets this reply when its turn comes."""

    payload: bytes


class HangUp:
    """Ends both sides of the connection at this point."""


Sent = bytes | Raw | Forged | HangUp
Alter = Callable[[Frame], Sequence[Sent] | Awaitable[Sequence[Sent]]]


def unchanged(frame: Frame) -> Sequence[Sent]:
    """Pass it on as it is."""
    return (frame.payload,)


@dataclass(slots=True)
class _Link:
    """One connection: the way to each side, and what the disk still owes an answer to, or we in its place."""

    main: asyncio.StreamWriter
    disk: asyncio.StreamWriter
    owed: deque[Frame | Forged] = field(default_factory=deque)

    def to_disk(self, number: int, what: Sent) -> None:
        if isinstance(what, bytes):
            self.owed.append(Frame(number, Way.TO_DISK, what))
        elif isinstance(what, Forged):
            self.owed.append(what)
            self.pay_forged()
            return
        _write(self.disk, what)

    def pay_forged(self) -> None:
        """Send the forged replies whose turn has come."""
        while self.owed and isinstance(self.owed[0], Forged):
            _write(self.main, self.owed.popleft().payload)

    def next_command(self) -> Frame | None:
        """The command that the disk's next reply answers."""
        owed = self.owed.popleft() if self.owed else None
        assert not isinstance(owed, Forged)
        return owed

    def abort(self) -> None:
        self.main.transport.abort()
        self.disk.transport.abort()


def _write(writer: asyncio.StreamWriter, what: Sent) -> None:
    if isinstance(what, bytes):
        writer.writelines([FRAME_HEADER.pack(len(what)), what])
    elif isinstance(what, Raw):
        writer.write(what.data)


class Proxy:
    """Listens at `front`, a Unix socket path, for the disk that listens at `back`; one thread, many connections."""

    def __init__(self, front: Path, back: Path, alter: Alter = unchanged) -> None:
        self.frames: list[Frame] = []
        self.alter = alter
        self.back = back
        self.front = front
        self._is_hiding = False
        self._links: list[_Link] = []
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

    def present(self, back: Path) -> None:
        """Break every connection; new ones lead to the disk that listens at `back`."""
        self.back = back
        self.cut()

    def hide(self) -> None:
        """Break every connection; new ones are broken at once, until `show`."""
        self._is_hiding = True
        self.cut()

    def show(self) -> None:
        """Undo `hide`."""
        self._is_hiding = False

    def inject(self, way: Way, what: Sent, *, connection: int = -1) -> None:
        """Send something that nobody asked for on a connection, by default the newest."""
        self._loop.call_soon_threadsafe(self._inject, way, what, connection)

    def commands(self, *, start: int = 0) -> list[Frame]:
        """The frames from number `start` on that went to the disk."""
        return [frame for frame in self.frames[start:] if frame.way is Way.TO_DISK]

    def replies(self, *, start: int = 0) -> list[Frame]:
        """The frames from number `start` on that came from the disk."""
        return [frame for frame in self.frames[start:] if frame.way is Way.TO_MAIN]

    @property
    def write_lane(self) -> int:
        """The newest connection on which EXECUTEs come."""
        return [frame for frame in self.commands() if frame.opcode is Opcode.EXECUTE][-1].connection

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        self._thread.start()
        try:
            server = asyncio.run_coroutine_threadsafe(asyncio.start_unix_server(self._serve, self.front), self._loop)
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
        for task in self._tasks:  # an alteration may be waiting for something that will never come
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _cut(self) -> None:
        for link in self._links:
            link.abort()

    def _inject(self, way: Way, what: Sent, connection: int) -> None:
        link = self._links[connection]
        if way is Way.TO_DISK:
            link.to_disk(connection, what)
        else:
            _write(link.main, what)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._is_hiding:
            writer.transport.abort()
            return
        try:
            back_reader, back_writer = await asyncio.open_unix_connection(self.back)
        except OSError:  # the disk has ended: the main program sees its connection closed
            writer.transport.abort()
            return
        number, link = len(self._links), _Link(writer, back_writer)
        self._links.append(link)
        try:
            await asyncio.gather(
                self._pass(number, Way.TO_DISK, reader, link), self._pass(number, Way.TO_MAIN, back_reader, link)
            )
        except asyncio.CancelledError:
            link.abort()

    async def _pass(self, number: int, way: Way, reader: asyncio.StreamReader, link: _Link) -> None:
        """Until either side ends; then the other is ended too."""
        writer = link.disk if way is Way.TO_DISK else link.main
        try:
            while True:
                (length,) = FRAME_HEADER.unpack(await reader.readexactly(FRAME_HEADER.size))
                if length > FRAME_BYTES_MAX:
                    return
                payload = await reader.readexactly(length)
                frame = Frame(number, way, payload, link.next_command() if way is Way.TO_MAIN else None)
                self.frames.append(frame)
                altered = self.alter(frame)
                for what in await altered if inspect.isawaitable(altered) else altered:
                    if isinstance(what, HangUp):
                        await writer.drain()
                        return
                    if way is Way.TO_DISK:
                        link.to_disk(number, what)
                    else:
                        _write(link.main, what)
                link.pay_forged()
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

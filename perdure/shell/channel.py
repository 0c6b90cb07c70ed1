"""The way to one disk over two stream sockets: frames out, replies back in order, and a bound on silence."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import cast

from perdure.array.ports import Buffer, Lane
from perdure.disk.address import parse
from perdure.disk.wire import FRAME_HEADER, READ_BYTES_MAX
from perdure.errors import Disconnected, Misuse
from perdure.shell.meter import Meter

REPLY_BYTES_MAX = READ_BYTES_MAX + (1 << 16)
SMALL_BYTES = 1 << 16
"""Replies that fit are received together, with one call to the system; longer ones where they stay."""


class _Connection(asyncio.BufferedProtocol):
    """One stream. Replies are matched to the exchanges that wait, oldest first.

    One timer watches over the oldest: silence is dropped as a whole, since what comes late could not be told from the
    answer to what is asked anew. Each is due `answer_s_max` seconds after it was begun.
    """

    def __init__(self, answer_s_max: float, meter: Meter) -> None:
        self.waiting: deque[asyncio.Future[memoryview]] = deque()
        self._deadlines: deque[float] = deque()
        self._begun: deque[float] = deque()
        self._answer_s_max = answer_s_max
        self._meter = meter
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self._small = memoryview(bytearray(SMALL_BYTES))
        self._filled = 0
        self._large: bytearray | None = None  # a reply that is received where it stays ...
        self._large_filled = 0  # ... and how much of it came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        if self._large is not None:
            return memoryview(self._large)[self._large_filled :]
        return self._small[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._large is None:
            self._filled += nbytes
            self._take_replies()
            return
        self._large_filled += nbytes
        if self._large_filled == len(self._large):
            reply, self._large = self._large, None
            self._answer(reply)

    def _take_replies(self) -> None:
        """Hand out the whole replies in the small buffer, and leave nothing of them there."""
        start, filled = 0, self._filled
        while filled - start >= FRAME_HEADER.size and self._large is None:
            (length,) = FRAME_HEADER.unpack_from(self._small, start)
            if not 0 < length <= REPLY_BYTES_MAX or not self.waiting:
                self.fail(f"a reply of {length} bytes that nobody can have sent")
                return
            body, end = start + FRAME_HEADER.size, start + FRAME_HEADER.size + length
            if end <= filled:
                self._answer(bytes(self._small[body:end]))
                start = end
            elif end - start <= SMALL_BYTES:
                break
            else:
                self._large, self._large_filled = bytearray(length), filled - body
                self._large[: filled - body] = self._small[body:filled]
                start = filled
        rest = filled - start
        if start:
            self._small[:rest] = bytes(self._small[start:filled])
            self._small[rest:filled] = bytes(start)
            self._filled = rest

    def _answer(self, reply: bytes | bytearray) -> None:
        self._deadlines.popleft()
        self._meter.note(time.perf_counter() - self._begun.popleft(), len(reply))
        future = self.waiting.popleft()
        if not future.done():
            future.set_result(memoryview(reply))

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(str(exc) if exc else "the connection was closed")

    @property
    def is_open(self) -> bool:
        """Whether a frame can still be sent; a stream that is closing takes none, and says so on its own."""
        return self.transport is not None and not self.transport.is_closing()

    def send(self, parts: Sequence[Buffer], future: asyncio.Future[memoryview], begun: float) -> int:
        """Send a frame whose reply is `future`'s, due `answer_s_max` after `begun`; how many bytes that were."""
        assert self.transport is not None
        length = sum(len(part) for part in parts)
        self.waiting.append(future)
        self._deadlines.append(begun + self._answer_s_max)
        self._begun.append(time.perf_counter())
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadlines[0], self._look)
        self.transport.writelines([FRAME_HEADER.pack(length), *parts])
        return FRAME_HEADER.size + length

    def _look(self) -> None:
        self._timer = None
        if self._deadlines and self._deadlines[0] <= self._loop.time():
            self.fail("no answer in time")
        elif self._deadlines:
            self._timer = self._loop.call_at(self._deadlines[0], self._look)

    def fail(self, why: str) -> None:
        """Fail every exchange that waits, and drop the stream."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.transport is not None:
            self.transport.abort()
            self.transport = None
        self._deadlines.clear()
        self._begun.clear()
        self._meter.failed += len(self.waiting)
        while self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_exception(Disconnected(why))


class SocketChannel:
    """A `Channel` (perdure.array.ports). `answer_ms_max` bounds how long one exchange may take, connecting included."""

    def __init__(self, address: str, answer_ms_max: int) -> None:
        try:
            self._family, self._target = parse(address)
        except ValueError as error:
            raise Misuse(str(error)) from None
        self._address = address
        self._answer_s_max = answer_ms_max / 1000
        self._lanes: dict[Lane, _Connection] = {}
        self._connecting: dict[Lane, list[tuple[Sequence[Buffer], asyncio.Future[memoryview], float]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.sent_bytes = 0
        self.meter = Meter()
        """Of answers: how long each took from when its question was sent, and its bytes."""
        self.exchange_count = 0

    @property
    def address(self) -> str:
        """Where the host says the disk is."""
        return self._address

    def exchange(self, lane: Lane, parts: Sequence[Buffer]) -> asyncio.Future[memoryview]:
        """Send one frame at once, in call order; the future is its reply. It fails with Disconnected."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[memoryview] = loop.create_future()
        self.exchange_count += 1
        connection = self._lanes.get(lane)
        if connection is not None and connection.is_open:
            self.sent_bytes += connection.send(parts, future, loop.time())
        elif lane in self._connecting:
            self._connecting[lane].append((parts, future, loop.time()))
        else:
            self._connecting[lane] = [(parts, future, loop.time())]
            task = loop.create_task(self._connect(lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    def close(self) -> None:
        """Drop both connections; exchanges under way fail."""
        for connection in self._lanes.values():
            connection.fail("the connection was closed by us")
        self._lanes.clear()
        for lane in list(self._connecting):
            self._give_up(lane, "given up")
        for task in self._tasks:
            task.cancel()

    def _give_up(self, lane: Lane, why: str) -> None:
        """Fail all that waits for the lane to be connected. It may be closed before the task for it has begun."""
        for _, future, _ in self._connecting.pop(lane, []):
            if not future.done():
                future.set_exception(Disconnected(f"cannot connect: {why}"))

    async def _connect(self, lane: Lane) -> None:
        try:
            async with asyncio.timeout(self._answer_s_max):
                connection = await self._open()
        except (OSError, UnicodeError, asyncio.CancelledError) as error:  # the latter for what cannot be a host name
            self._give_up(lane, str(error) or "given up")
            return
        self._lanes[lane] = connection
        for parts, future, begun in self._connecting.pop(lane, []):
            if connection.is_open:
                self.sent_bytes += connection.send(parts, future, begun)
            elif not future.done():  # it was lost in the moment it was made
                future.set_exception(Disconnected("the disk hung up at once"))

    async def _open(self) -> _Connection:
        loop = asyncio.get_running_loop()
        stream = socket.socket(self._family, socket.SOCK_STREAM)
        stream.setblocking(False)
        try:
            await loop.sock_connect(stream, self._target)
            if self._family in (socket.AF_INET, socket.AF_INET6):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, connection = await loop.create_connection(
                lambda: _Connection(self._answer_s_max, self.meter), sock=stream
            )
        except BaseException:
            stream.close()
            raise
        return connection

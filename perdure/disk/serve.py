"""The disk's shell: sockets, buffers and the evidence thread. It moves bytes and decides nothing about them.

One thread runs every connection and the core; a second one asks the platform for documents, which takes
milliseconds, and makes one document for all requests that wait. Replies leave in the order of their commands.
Received commands and READ bytes live only in preallocated buffers, which are wiped once they are used. Every
buffer, queue and count has a maximum; when all connections are taken, the one idle longest makes room.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import socket
import time
from collections import deque
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

from perdure.disk import wire
from perdure.disk.core import ZEROS, DiskCore, Refusal
from perdure.disk.wire import Reason

CONNECTIONS_MAX = 8
REPLIES_MAX = 64
"""Replies that may wait on one connection before it is read no further."""
RECEIVE_BYTES = wire.FRAME_HEADER.size + wire.COMMAND_BYTES_MAX
SEND_BYTES = 2 * wire.READ_BYTES_MAX


class Platform(Protocol):
    """The program's only path to evidence."""

    def attest(self, report_data: bytes) -> bytes:
        """A document by the platform over 64 bytes of ours. May block for milliseconds; raises OSError, ValueError."""


@dataclass(slots=True)
class Reply:
    """What is still to be sent of one reply; `leaf` stands until its document has come."""

    parts: list[bytes | memoryview]
    data: memoryview
    leaf: bytes | None


def wipe(buffer: memoryview) -> None:
    """Zero `buffer`."""
    for start in range(0, len(buffer), len(ZEROS)):
        part = buffer[start : start + len(ZEROS)]
        part[:] = ZEROS[: len(part)]


def refusal(reason: Reason) -> bytes:
    """The frame of a refusal."""
    return wire.FRAME_HEADER.pack(wire.REPLY_HEADER.size) + wire.REPLY_HEADER.pack(wire.REFUSAL, reason)


class Connection:
    """One peer: a receive buffer that holds at least one whole command, an arena for READ bytes, waiting replies."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.last_active = time.monotonic()
        self._received = memoryview(mmap.mmap(-1, RECEIVE_BYTES))
        self._filled = 0
        self._arena = memoryview(mmap.mmap(-1, SEND_BYTES))
        self._used = 0
        self.replies: deque[Reply] = deque()

    def receive(self) -> bool:
        """Take what the socket has; False when the peer has gone."""
        try:
            count = self.peer.recv_into(self._received[self._filled :])
        except BlockingIOError:
            return True
        self._filled += count
        self.last_active = time.monotonic()
        return count > 0

    def handle(self, core: DiskCore) -> list[Reply]:
        """Carry out the whole commands for which there is room; return the replies that want evidence.

        Raises ValueError when the peer announces a frame longer than any command.
        """
        wanting = []
        start = 0
        while self.has_room() and (command := self._next(start)) is not None:
            reply = self._reply(core, command)
            start += wire.FRAME_HEADER.size + len(command)
            self.replies.append(reply)
            if reply.leaf is not None:
                wanting.append(reply)
        self._consume(start)
        return wanting

    def has_room(self) -> bool:
        """Whether one more command of any kind could be answered."""
        return len(self.replies) < REPLIES_MAX and self._used + wire.READ_BYTES_MAX <= SEND_BYTES

    def is_behind(self) -> bool:
        """Whether a whole command waits that could be carried out now."""
        return self.has_room() and self._next(0) is not None

    def _next(self, start: int) -> memoryview | None:
        if self._filled - start < wire.FRAME_HEADER.size:
            return None
        (length,) = wire.FRAME_HEADER.unpack_from(self._received, start)
        if length > wire.COMMAND_BYTES_MAX:
            raise ValueError("frame too long")
        start += wire.FRAME_HEADER.size
        return self._received[start : start + length] if self._filled - start >= length else None

    def _reply(self, core: DiskCore, command: memoryview) -> Reply:
        try:
            answer = core.handle(command, self._arena[self._used :])
        except Refusal as refused:
            return Reply([refusal(refused.reason)], self._arena[:0], None)
        self._used += len(answer.data)
        parts: list[bytes | memoryview] = [_answer_head(answer.head, answer.data, 0), answer.head, answer.data]
        return Reply(parts, answer.data, answer.leaf)

    def _consume(self, count: int) -> None:
        """Move what follows the first `count` bytes to the front, and wipe where it and they were."""
        left = self._filled - count
        if count:
            self._received[:left] = self._received[count : self._filled]
            wipe(self._received[left : self._filled])
            self._filled = left

    def send(self) -> None:
        """Send as much as the socket takes of the replies that are ready, in order."""
        while self.replies and self.replies[0].leaf is None:
            reply = self.replies[0]
            sent = self.peer.sendmsg(reply.parts)
            while reply.parts and sent >= len(reply.parts[0]):
                sent -= len(reply.parts.pop(0))
            if reply.parts:
                reply.parts[0] = memoryview(reply.parts[0])[sent:]
            else:
                wipe(reply.data)
                self.replies.popleft()
        if not self.replies:
            self._used = 0

    def close(self) -> None:
        """End the connection and leave nothing in its buffers."""
        self.peer.close()
        self.replies.clear()
        wipe(self._received[: self._filled])
        wipe(self._arena[: self._used])


def _answer_head(head: bytes, data: memoryview, evidence_bytes: int) -> bytes:
    length = len(head) + len(data)
    frame = wire.FRAME_HEADER.pack(wire.REPLY_HEADER.size + length + evidence_bytes)
    return frame + wire.REPLY_HEADER.pack(wire.ANSWER, length)


class Attester:
    """Makes one document for all replies that wait for evidence, in a thread of its own."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._waiting: SimpleQueue[Reply] = SimpleQueue()
        self._done: SimpleQueue[tuple[Reply, bytes | None]] = SimpleQueue()
        self.wake_fd, self._wake_write_fd = os.pipe()
        os.set_blocking(self.wake_fd, False)
        Thread(target=self._run, daemon=True).start()

    def ask(self, reply: Reply) -> None:
        """Queue a reply whose leaf wants evidence."""
        self._waiting.put(reply)

    def collect(self) -> None:
        """Put the evidence that has come since the last call into its replies."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_fd, 4096)
        while not self._done.empty():
            reply, evidence = self._done.get()
            if evidence is None:
                reply.parts = [refusal(Reason.NO_EVIDENCE)]
            else:
                head = bytes(reply.parts[1])
                reply.parts = [_answer_head(head, reply.data, len(evidence)), head, reply.data, evidence]
            reply.leaf = None

    def _run(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < wire.LEAVES_MAX and not self._waiting.empty():
                batch.append(self._waiting.get())
            for reply, evidence in zip(batch, self._attest([reply.leaf or b"" for reply in batch]), strict=True):
                self._done.put((reply, evidence))
            os.write(self._wake_write_fd, b"\0")

    def _attest(self, leaves: list[bytes]) -> list[bytes | None]:
        """The evidence of each leaf; None for all when the platform gives no document."""
        levels = wire.merkle_levels(leaves)
        try:
            document = self._platform.attest(levels[-1][0])
        except (OSError, ValueError):
            return [None] * len(leaves)
        heads = (wire.PATH_HEADER.pack(index, len(leaves)) for index in range(len(leaves)))
        return [head + wire.merkle_path(levels, index) + document for index, head in enumerate(heads)]


class Server:
    """Runs one disk on one listening socket until the process ends."""

    def __init__(self, core: DiskCore, platform: Platform, listener: socket.socket) -> None:
        self._core = core
        self._attester = Attester(platform)
        self._listener = listener
        self._connections: dict[int, Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._attester.wake_fd, selectors.EVENT_READ)

    def step(self, timeout_s: float | None = None) -> None:
        """Wait for something to happen, and do it."""
        for key, events in self._selector.select(timeout_s):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fd == self._attester.wake_fd:
                self._attester.collect()
                for connection in list(self._connections.values()):
                    self._turn(connection, readable=False)
            elif key.fd in self._connections:
                self._turn(self._connections[key.fd], readable=bool(events & selectors.EVENT_READ))

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:  # the peer left before we came to it; there is nothing to serve
            return
        peer.setblocking(False)
        if peer.family in (socket.AF_INET, socket.AF_INET6):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self._connections) == CONNECTIONS_MAX:
            self._drop(min(self._connections.values(), key=lambda connection: connection.last_active))
        self._connections[peer.fileno()] = Connection(peer)
        self._selector.register(peer, selectors.EVENT_READ)

    def _turn(self, connection: Connection, *, readable: bool) -> None:
        """Receive, carry out, send; drop a peer that left or broke the framing."""
        try:
            if readable and not connection.receive():
                self._drop(connection)
                return
            while True:
                for reply in connection.handle(self._core):
                    self._attester.ask(reply)
                self._send(connection)
                if not connection.is_behind():
                    break
        except (OSError, ValueError):
            self._drop(connection)

    def _send(self, connection: Connection) -> None:
        with contextlib.suppress(BlockingIOError):  # the socket is full: wait until it is writable
            connection.send()
        ready = bool(connection.replies) and connection.replies[0].leaf is None
        events = selectors.EVENT_WRITE if ready else 0
        if connection.has_room():
            events |= selectors.EVENT_READ
        self._watch(connection, events)

    def _watch(self, connection: Connection, events: int) -> None:
        """Wait for `events`; a connection that waits for evidence alone is not watched at all."""
        watched = connection.peer.fileno() in self._selector.get_map()
        if events and watched:
            self._selector.modify(connection.peer, events)
        elif events:
            self._selector.register(connection.peer, events)
        elif watched:
            self._selector.unregister(connection.peer)

    def _drop(self, connection: Connection) -> None:
        fd = connection.peer.fileno()
        if fd in self._selector.get_map():
            self._selector.unregister(connection.peer)
        del self._connections[fd]
        connection.close()

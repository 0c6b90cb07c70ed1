"""The disk's shell: sockets, buffers and the evidence thread. It moves bytes and decides nothing about them.

One thread runs every connection and the core; a second one asks the platform for documents, which takes
milliseconds, and makes one document for all requests that wait. Replies leave in the order of their commands.
Received commands and READ bytes live only in preallocated buffers, which are wiped once they are used. Every
buffer, queue and count has a maximum. When all connections are taken, the one makes room whose last good command is
longest ago. Each gets its turn: no more than REPLIES_MAX commands of one before the others are looked at.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

from perdure.disk import wire
from perdure.disk.core import DiskCore, Refusal, wipe
from perdure.disk.wire import Reason

CONNECTIONS_MAX = 8
REPLIES_MAX = wire.LEAVES_MAX // CONNECTIONS_MAX
"""Replies that may wait on one connection before it is read no further; all that wait fit under one document."""
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


def refusal(reason: Reason) -> bytes:
    """The frame of a refusal."""
    return wire.FRAME_HEADER.pack(wire.REPLY_HEADER.size) + wire.REPLY_HEADER.pack(wire.REFUSAL, reason)


class Connection:
    """One peer: a receive buffer that holds at least one whole command, an arena for READ bytes, waiting replies."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.last_good = 0.0
        self._received = memoryview(mmap.mmap(-1, RECEIVE_BYTES))
        self._filled = 0
        self._arena = memoryview(mmap.mmap(-1, SEND_BYTES))
        self._used = 0
        self.replies: deque[Reply] = deque()
        self.behind = False
        self.watched = 0  # the selector's events that are waited for

    def receive(self) -> None:
        """Take what the socket has. Raises OSError when the peer has gone."""
        try:
            count = self.peer.recv_into(self._received[self._filled :])
        except BlockingIOError:
            return
        if not count:
            raise ConnectionResetError("the peer has gone")
        self._filled += count

    def handle(self, core: DiskCore) -> None:
        """Carry out the whole commands for which there is room.

        Raises ValueError when the peer announces a frame longer than any command.
        """
        start = 0
        while self.has_room() and (command := self._next(start)) is not None:
            self.replies.append(self._reply(core, command))
            start += wire.FRAME_HEADER.size + len(command)
        self._consume(start)

    def has_room(self) -> bool:
        """Whether one more command of any kind could be answered."""
        return len(self.replies) < REPLIES_MAX and self._used + wire.READ_BYTES_MAX <= SEND_BYTES

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
        self.last_good = time.monotonic()
        self._used += len(answer.data)
        return Reply(_framed(answer.head, answer.data), answer.data, answer.leaf)

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

    def look_ahead(self) -> None:
        """Note in `behind` whether a whole command waits that could be carried out now. Raises as `handle` does."""
        self.behind = self.has_room() and self._next(0) is not None

    def wants(self) -> int:
        """The selector's events that would let this connection go on."""
        ready = bool(self.replies) and self.replies[0].leaf is None
        reading = self.has_room() and not self.behind  # one that is behind may have no byte free to receive into
        return selectors.EVENT_WRITE * ready | selectors.EVENT_READ * reading

    def close(self) -> None:
        """End the connection and leave nothing in its buffers."""
        self.peer.close()
        self.replies.clear()
        wipe(self._received[: self._filled])
        wipe(self._arena[: self._used])


def _framed(head: bytes, data: memoryview, evidence: bytes = b"") -> list[bytes | memoryview]:
    length = len(head) + len(data)
    frame = wire.FRAME_HEADER.pack(wire.REPLY_HEADER.size + length + len(evidence))
    return [frame + wire.REPLY_HEADER.pack(wire.ANSWER, length), head, data, evidence]


class Attester:
    """Has the platform make one document at a time, in a thread of its own, for all replies that wait for one."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._asked: list[Reply] = []
        self._leaves: SimpleQueue[list[bytes]] = SimpleQueue()
        self._evidence: SimpleQueue[list[bytes | None]] = SimpleQueue()
        self.wake_fd, self._wake_write_fd = os.pipe()
        Thread(target=self._run, daemon=True).start()

    def ask(self, waiting: Iterable[Reply]) -> None:
        """Have a document made for `waiting`, unless one is being made: then they wait for the next."""
        if not self._asked and (asked := list(waiting)):
            self._asked = asked
            self._leaves.put([reply.leaf or b"" for reply in self._asked])

    def collect(self) -> None:
        """Put the evidence that has come into its replies; to be called when `wake_fd` is readable."""
        os.read(self.wake_fd, 1)
        for reply, evidence in zip(self._asked, self._evidence.get(), strict=True):
            if evidence is None:
                reply.parts = [refusal(Reason.NO_EVIDENCE)]
            else:
                reply.parts = _framed(bytes(reply.parts[1]), reply.data, evidence)
            reply.leaf = None
        self._asked = []

    def _run(self) -> None:
        while True:
            self._evidence.put(self._attest(self._leaves.get()))
            os.write(self._wake_write_fd, b"\0")

    def _attest(self, leaves: list[bytes]) -> list[bytes | None]:
        """The evidence of each leaf; None for all when the platform gives no document."""
        levels = wire.merkle_levels(leaves)
        try:
            document = self._platform.attest(levels[-1][0])
        except Exception:  # whatever ails the platform, the disk goes on, and says that it has no evidence
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
        """Do what was left over, then wait for something to happen, and do it."""
        for connection in [one for one in self._connections.values() if one.behind]:
            self._turn(connection, readable=False)
        self._attester.ask(reply for one in self._connections.values() for reply in one.replies if reply.leaf)
        behind = any(one.behind for one in self._connections.values())
        for key, events in self._selector.select(0 if behind else timeout_s):
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
            peer.setblocking(False)
            if peer.family in (socket.AF_INET, socket.AF_INET6):
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(peer)
        except OSError:  # the peer left before we came to it, or there is no memory or descriptor to serve it with
            return
        if len(self._connections) == CONNECTIONS_MAX:
            self._drop(min(self._connections.values(), key=lambda other: other.last_good))
        self._connections[peer.fileno()] = connection
        self._watch(connection, selectors.EVENT_READ)

    def _turn(self, connection: Connection, *, readable: bool) -> None:
        """Receive, carry out, send; drop a peer that left or broke the framing."""
        try:
            if readable:
                connection.receive()
            connection.handle(self._core)
            with contextlib.suppress(BlockingIOError):  # the socket is full: wait until it is writable
                connection.send()
            connection.look_ahead()
            self._watch(connection, connection.wants())
        except (OSError, ValueError):
            self._drop(connection)

    def _watch(self, connection: Connection, events: int) -> None:
        """Wait for `events`; with none, until evidence comes or its turn, the connection is not watched at all."""
        if events == connection.watched:
            return
        if not connection.watched:
            self._selector.register(connection.peer, events)
        elif events:
            self._selector.modify(connection.peer, events)
        else:
            self._selector.unregister(connection.peer)
        connection.watched = events

    def _drop(self, connection: Connection) -> None:
        self._watch(connection, 0)
        del self._connections[connection.peer.fileno()]
        connection.close()

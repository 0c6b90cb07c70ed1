"""The relay: listens at one address and passes each connection's bytes on to another, both ways, unread.

A disk in an enclave listens on AF_VSOCK only; its parent instance runs this to make it reachable over TCP.

The relay is the host's and trusted with nothing: it can drop, delay and alter, as any network can. It asks nobody who
they are and listens wherever the operator says: whoever reaches the relay reaches the disk, which obeys commands
signed by its authority only.

Guarantees: bytes leave unchanged and in order, as soon as the other side takes them; a side that ends its sending ends
it at the other side too, after the last byte; a side that breaks off breaks off the other, so a cut is never taken for
an end. A side that does not read stops the reading of its peer. No more than 2 * ROOM_BYTES are held for a connection,
and no more connections than CONNECTIONS_MAX; when all are taken, the one makes room of which one side ended longest
ago, and if there is none the new one is closed. A target that cannot be reached costs its connection and nothing else.

One thread, one epoll, one buffer: a message costs one wait, one receive and one send. Two blocking threads for each
connection, splice(2) through a pipe, asyncio and uvloop were measured and are no faster (`bench/relay.py`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from perdure.disk import address
from perdure.errors import Misuse
from perdure.sockets import remove_stale

CONNECTIONS_MAX: Final = 64
ROOM_BYTES: Final = 1 << 18
CONNECT_S: Final = 10.0
"""How long a target may take to accept; then it counts as one that cannot be reached."""
REST_S: Final = 1.0
"""How long nothing is accepted after the system had no descriptor or memory for a connection."""
SILENT_S: Final = 30
PROBES: Final = 3
PROBE_S: Final = 10
"""A TCP peer that was silent for SILENT_S is asked PROBES times, PROBE_S apart, whether it is still there."""
UNTAKEN_MS: Final = 60_000
"""How long a TCP peer may leave bytes unacknowledged, or take none of those that wait for it."""

_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)
_RESET: Final = b"\1\0\0\0\0\0\0\0"  # struct linger: on, for no time; close(2) then resets

_Target = str | tuple[str, int] | tuple[int, int]


class _Side:
    """One of the two sockets of a connection."""

    __slots__ = ("fd", "has_ended", "link", "other", "stream", "waiting", "watched")

    def __init__(self, stream: socket.socket, link: _Link) -> None:
        self.stream = stream
        self.fd = stream.fileno()
        self.link = link
        self.other = self
        self.waiting: memoryview | None = None
        """What the other side sent and this one has not taken; while there is any, the other side is not read."""
        self.has_ended = False
        """Whether all that it will ever send was received."""
        self.watched = 0


class _Link:
    """One connection: who came, and the target's socket."""

    __slots__ = ("client", "ended_at", "target")

    def __init__(self, client: socket.socket, target: socket.socket) -> None:
        self.client = _Side(client, self)
        self.target = _Side(target, self)
        self.client.other, self.target.other = self.target, self.client
        self.ended_at: float | None = None
        """When the first of its sides ended."""


class Relay:
    """Listens at `listen` once it is made, and serves while `run` runs. `address` has the real port.

    `say` gets a sentence for people whenever the target's reachability changes, or there is no room for a connection.
    A host name is looked up once, here. Raises Misuse for an address that is none or cannot be used.
    """

    def __init__(self, listen: str, to: str, say: Callable[[str], None]) -> None:
        self._to = to
        self._say = say
        self._family, self._target = _resolved(listen, to)
        try:
            remove_stale(listen)
            self._listener, self.address = address.listen(listen)
        except (OSError, ValueError) as error:
            raise Misuse(f"Cannot listen at {listen!r:.200}: {_reason(error)}; nothing is relayed.") from None
        self._file = _socket_file(self._listener)
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._woken, select.EPOLLIN)
        self._epoll.register(self._listener, select.EPOLLIN)
        self._room = memoryview(bytearray(ROOM_BYTES))
        self._sides: dict[int, _Side] = {}
        self._links: dict[_Link, None] = {}  # a set that keeps the order
        self._connecting: dict[_Link, float] = {}
        """Until when each target may accept."""
        self._gone: list[socket.socket] = []
        self._rest_until: float | None = None
        self._trouble: str | None = None
        self._is_full = False
        self._is_stopping = False

    def stop(self) -> None:
        """Make `run` return; may be called at any time, in a signal handler or in another thread."""
        self._is_stopping = True
        with contextlib.suppress(OSError):  # it has stopped already, or was told so very often
            self._waker.send(b"\0")

    def run(self) -> None:
        """Relay until `stop`; then every connection is broken off, and the relay cannot be used again."""
        try:
            while not self._is_stopping:
                self._step()
        finally:
            for link in list(self._links):
                self._break_off(link)
            self._close_gone()
            for one in (self._listener, self._epoll, self._woken, self._waker):
                one.close()
            if self._file is not None:
                _remove(*self._file)

    def _step(self) -> None:
        """Wait for something to happen, and do it."""
        for fd, events in self._epoll.poll(self._wait_s()):
            side = self._sides.get(fd)
            if side is not None:
                self._turn(side, events)
            elif fd == self._listener.fileno():
                self._accept()
            # else: stop was called, or the side went in this very round
        self._look_at_the_clock()
        self._close_gone()

    # Bytes ------------------------------------------------------------------------------------------------

    def _turn(self, side: _Side, events: int) -> None:
        try:
            if side.link in self._connecting:
                self._connected(side)
                return
            # An error or a hang-up is found out by whichever of the two the side is watched for.
            if side.waiting is not None and events & ~select.EPOLLIN:
                self._send_waiting(side, side.waiting)
            if side.watched & select.EPOLLIN and events & ~select.EPOLLOUT:
                self._forward(side)
        except OSError:
            self._break_off(side.link)

    def _forward(self, source: _Side) -> None:
        """Pass on what `source` has, or its end. Raises OSError when either side is gone."""
        try:
            count = source.stream.recv_into(self._room)
        except BlockingIOError:
            return
        sink = source.other
        if not count:
            self._end(source)
            return
        try:
            sent = sink.stream.send(self._room[:count])
        except BlockingIOError:
            sent = 0
        if sent < count:
            sink.waiting = memoryview(bytes(self._room[sent:count]))
            self._watch(source, source.watched & ~select.EPOLLIN)
            self._watch(sink, sink.watched | select.EPOLLOUT)

    def _send_waiting(self, sink: _Side, waiting: memoryview) -> None:
        """Send more of what waits, and read the other side again once all is sent. Raises OSError."""
        try:
            sent = sink.stream.send(waiting)
        except BlockingIOError:
            return
        if sent < len(waiting):
            sink.waiting = waiting[sent:]
            return
        sink.waiting = None
        self._watch(sink, sink.watched & ~select.EPOLLOUT)
        self._watch(sink.other, sink.other.watched | select.EPOLLIN)  # it has not ended: that is found by reading

    def _end(self, source: _Side) -> None:
        """`source` has ended, and all that it sent is on its way."""
        source.has_ended = True
        self._watch(source, source.watched & ~select.EPOLLIN)
        if source.other.has_ended:
            self._forget(source.link)
        else:
            source.other.stream.shutdown(socket.SHUT_WR)
            source.link.ended_at = time.monotonic()

    def _watch(self, side: _Side, events: int) -> None:
        """Wait for `events`; with none the side is not watched at all, or its hang-up would be told for ever."""
        if events and side.watched:
            self._epoll.modify(side.fd, events)
        elif events:
            self._epoll.register(side.fd, events)
        elif side.watched:
            self._epoll.unregister(side.fd)
        side.watched = events

    # Connections ------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # it left before we came to it
        except OSError as error:
            self._rest(error)
            return
        if not self._has_room():
            self._gone.append(client)
            return
        try:
            target = socket.socket(self._family, socket.SOCK_STREAM)
        except OSError as error:
            self._gone.append(client)
            self._rest(error)
            return
        link = _Link(client, target)
        self._links[link] = None
        self._connecting[link] = time.monotonic() + CONNECT_S
        self._sides |= {side.fd: side for side in (link.client, link.target)}
        try:
            _prepare(client)
            _prepare(target)
            _start_to_connect(target, self._target)
            self._watch(link.target, select.EPOLLOUT)
        except OSError as error:
            self._unreachable(link, _reason(error))

    def _connected(self, target: _Side) -> None:
        """The target has accepted, or never will."""
        number = target.stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._unreachable(target.link, os.strerror(number))
            return
        del self._connecting[target.link]
        self._watch(target, select.EPOLLIN)
        self._watch(target.other, select.EPOLLIN)
        if self._trouble is not None:
            self._trouble = None
            self._tell(f"The target {self._to} answers again.")

    def _unreachable(self, link: _Link, why: str) -> None:
        self._break_off(link)
        if why != self._trouble:
            self._trouble = why
            self._tell(f"The target {self._to} cannot be reached ({why}); connections are closed until it can.")

    def _has_room(self) -> bool:
        """Whether one more connection may be served; makes room if it can. Says so when it cannot."""
        if len(self._links) < CONNECTIONS_MAX:
            self._is_full = self._is_full and len(self._links) > CONNECTIONS_MAX // 2  # or a line for every attempt
            return True
        oldest = min(
            (link for link in self._links if link.ended_at is not None),
            key=lambda link: link.ended_at or 0.0,
            default=None,
        )
        if oldest is not None:
            self._break_off(oldest)
            return True
        if not self._is_full:
            self._is_full = True
            self._tell(f"All {CONNECTIONS_MAX} connections are taken; new ones are closed until one ends.")
        return False

    def _rest(self, error: OSError) -> None:
        """Accept nothing for a while: what the system lacks it lacks at the next attempt too."""
        self._rest_until = time.monotonic() + REST_S
        self._epoll.unregister(self._listener)
        self._tell(f"A connection could not be accepted ({_reason(error)}); the next ones wait.")

    def _break_off(self, link: _Link) -> None:
        """End both sides so that neither takes it for an orderly end."""
        for side in (link.client, link.target):
            if side.stream.family in _INTERNET:
                side.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._forget(link)

    def _forget(self, link: _Link) -> None:
        del self._links[link]
        self._connecting.pop(link, None)
        for side in (link.client, link.target):
            self._watch(side, 0)
            del self._sides[side.fd]
            self._gone.append(side.stream)

    def _close_gone(self) -> None:
        """Close what was given up; not before the round ends, or a new socket could have the number of an old one."""
        while self._gone:
            self._gone.pop().close()

    # Time -------------------------------------------------------------------------------------------------

    def _wait_s(self) -> float | None:
        """How long nothing needs to be done unless something happens."""
        if not self._connecting and self._rest_until is None:
            return None
        deadlines = [*self._connecting.values(), *([] if self._rest_until is None else [self._rest_until])]
        return max(0.0, min(deadlines) - time.monotonic())

    def _look_at_the_clock(self) -> None:
        if self._rest_until is not None and self._rest_until <= time.monotonic():
            self._rest_until = None
            self._epoll.register(self._listener, select.EPOLLIN)
        for link in [link for link, until in self._connecting.items() if until <= time.monotonic()]:
            self._unreachable(link, f"no answer in {CONNECT_S:g} s")

    def _tell(self, sentence: str) -> None:
        with contextlib.suppress(OSError):  # nobody may be listening to us any more; the connections matter
            self._say(sentence)


def run(listen: str, to: str, *, ready: Callable[[str], None], say: Callable[[str], None]) -> None:
    """Relay until SIGTERM or SIGINT; `ready` gets the address once it listens.

    Must be called in the main thread. Raises Misuse.
    """
    relay = Relay(listen, to, say)
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: relay.stop()) for number in numbers]
    try:
        ready(relay.address)
        relay.run()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _resolved(listen: str, to: str) -> tuple[int, _Target]:
    """The family and socket address of the target, with a host name looked up. Raises Misuse."""
    try:
        family, target = address.parse(to)
        if address.parse(listen) == (family, target):
            raise Misuse(f"The relay cannot be its own target: {to!r:.200}; nothing is relayed.")
    except ValueError as error:
        raise Misuse(f"{error}; nothing is relayed.") from None
    if family not in _INTERNET:
        return family, target
    assert not isinstance(target, str)
    try:
        found = socket.getaddrinfo(str(target[0]), target[1], family=family, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise Misuse(f"Cannot find the target {to!r:.200}: {_reason(error)}; nothing is relayed.") from None
    return family, (str(found[0][4][0]), target[1])


def _prepare(stream: socket.socket) -> None:
    """Never block; send at once; notice a peer that is gone."""
    stream.setblocking(False)
    if stream.family in _INTERNET:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_NODELAY, 1),
            (socket.TCP_KEEPIDLE, SILENT_S),
            (socket.TCP_KEEPINTVL, PROBE_S),
            (socket.TCP_KEEPCNT, PROBES),
            (socket.TCP_USER_TIMEOUT, UNTAKEN_MS),
        ):
            stream.setsockopt(socket.IPPROTO_TCP, option, value)


def _start_to_connect(stream: socket.socket, target: _Target) -> None:
    """Connect, or begin to. Raises OSError."""
    try:
        stream.connect(target)
    except BlockingIOError:
        if stream.family == socket.AF_UNIX:
            raise  # its listener's queue is full: nothing has begun


def _reason(error: Exception) -> str:
    """What went wrong, in the system's words."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _socket_file(listener: socket.socket) -> tuple[Path, tuple[int, int]] | None:
    """The listener's socket file and its identity; None if it has no file."""
    if listener.family != socket.AF_UNIX:
        return None
    path = Path(os.fsdecode(listener.getsockname()))
    return path, _identity(path)


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _remove(path: Path, identity: tuple[int, int]) -> None:
    """Remove the socket file, unless someone else's is there by now."""
    with contextlib.suppress(OSError):
        if _identity(path) == identity:
            path.unlink()

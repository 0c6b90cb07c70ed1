"""The NBD server: listens on a Unix socket or a TCP port and serves one backend to every client. Shell.

NBD has neither encryption nor authentication here: who can connect can read and change the whole disk. A Unix
socket is made for its owner only (mode 0600); a TCP address should be loopback or lie inside a protected tunnel.

A server can be paused, and carried into another program: its listening socket and its clients' sockets stay open, so
whoever connects meanwhile waits to be accepted, and whoever asks waits for the answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from perdure.errors import Misuse
from perdure.nbd.backend import Backend
from perdure.nbd.carried import Carried
from perdure.nbd.handshake import Export
from perdure.nbd.session import CLIENT_DRAIN_SECONDS_MAX, Session
from perdure.sockets import is_stale

CONNECTIONS_MAX = 64
PAUSE_POLL_SECONDS = 0.001

_USAGE = "use unix:/path or tcp:host:port"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CarriedServer:
    """A paused server: descriptors of its sockets, which whoever holds this owns, and where each client stands."""

    listener: int
    clients: tuple[tuple[int, Carried], ...]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them."""
        return (self.listener, *(fd for fd, _ in self.clients))


class NbdServer:
    """A server that listens; made by `serve` or `resume`. `address` is as `serve` takes it, with the real port."""

    def __init__(self, backend: Backend, export: Export, address: str, uri: str) -> None:
        self.address = address
        self.uri = uri
        self._backend = backend
        self._export = export
        self._sessions: set[Session] = set()
        self._all_ended = asyncio.Event()
        self._closing = False
        self._socket: socket.socket | None = None  # kept while nobody is accepted, so that those who connect wait
        self._listener: asyncio.Server | None = None
        self._socket_file: _SocketFile | None = None

    async def _listen(self, sock: socket.socket) -> None:
        self._socket = sock
        if sock.family == socket.AF_UNIX:
            self._socket_file = _SocketFile.of(sock.getsockname())
        await self._accept()

    async def _accept(self) -> None:
        """Accept clients; not by `create_unix_server`, which may remove the socket's file when it is closed."""
        assert self._socket is not None
        self._listener = await asyncio.get_running_loop().create_server(self._new_session, sock=self._socket.dup())

    async def _adopt(self, fd: int, carried: Carried) -> None:
        session = Session(self._backend, self._export, self._ended, carried)
        self._sessions.add(session)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: session, sock)

    def _new_session(self) -> asyncio.BaseProtocol:
        if self._closing or len(self._sessions) >= CONNECTIONS_MAX:
            logger.warning("An NBD client was turned away: %d connections are open.", len(self._sessions))
            return _TurnedAway()
        session = Session(self._backend, self._export, self._ended)
        self._sessions.add(session)
        return session

    def _ended(self, session: Session) -> None:
        self._sessions.discard(session)
        if self._closing and not self._sessions:
            self._all_ended.set()

    async def pause(self) -> None:
        """Accept nobody and take no more requests until `resume`; return when all that were taken are answered.

        Waits for the backend as long as it takes, and 10 seconds more for clients that do not read; they are dropped.
        """
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for session in self._sessions:
            session.pause()
        while any(session.is_busy for session in self._sessions):
            await asyncio.sleep(PAUSE_POLL_SECONDS)
        loop = asyncio.get_running_loop()
        give_up = loop.time() + CLIENT_DRAIN_SECONDS_MAX
        while (unsent := self._unsent()) and loop.time() < give_up:
            await asyncio.sleep(PAUSE_POLL_SECONDS)
        for session in unsent:
            logger.warning("An NBD client did not read its replies and was disconnected.")
            session.abort()

    def _unsent(self) -> list[Session]:
        return [session for session in self._sessions if session.is_unsent]

    async def resume(self) -> None:
        """Go on after `pause`."""
        await self._accept()
        for session in list(self._sessions):
            session.resume()

    def carried(self) -> CarriedServer:
        """The paused server, for another program; this one must not be used any more once that one has begun.

        Raises OSError when there are no descriptors left, and then holds none.
        """
        assert self._socket is not None
        with ExitStack() as undo:
            clients = []
            for session in self._sessions:
                if not session.is_busy:  # the rest have gone
                    clients.append(session.carried())
                    undo.callback(os.close, clients[-1][0])
            carried = CarriedServer(os.dup(self._socket.fileno()), tuple(clients))
            undo.pop_all()
        return carried

    async def close(self) -> None:
        """Stop listening, answer every request already taken, then close the connections. May be called twice.

        Waits for the backend as long as it takes, and 10 seconds more for clients that do not read.
        """
        self._closing = True
        if self._listener is not None:
            self._listener.close()
        if self._socket is not None:
            self._socket.close()
        if self._socket_file is not None:
            self._socket_file.remove()
        for session in list(self._sessions):
            session.finish()
        if not self._sessions:
            self._all_ended.set()
        await self._all_ended.wait()


class _TurnedAway(asyncio.Protocol):
    """A client for whom there is no room: closed before a byte is exchanged."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def serve(backend: Backend, *, address: str, export_name: str = "perdure") -> NbdServer:
    """Serve `backend` at `address`, `unix:/path` or `tcp:host:port` (port 0: any free one).

    Clients are accepted when this returns. A socket file left behind by a dead server is replaced. Raises
    `Misuse` if the address has another form, is in use or cannot be had, or if the name or size cannot be served.
    """
    export = _export(backend, export_name)
    kind, _, place = address.partition(":")
    if kind == "unix" and place:
        sock = _bind_unix(os.path.abspath(place))
    elif kind == "tcp":
        sock = await _bind_tcp(place)
    else:
        raise Misuse(f"'{address}' is not an address to serve NBD at; {_USAGE}.")
    server = _server(backend, export, sock)
    await server._listen(sock)
    return server


async def resume(backend: Backend, carried: CarriedServer, *, export_name: str = "perdure") -> NbdServer:
    """Go on with a server that another program has paused: its address, its clients, whatever they have sent.

    Raises `Misuse` when a client's state is none that a connection can have.
    """
    sock = socket.socket(fileno=carried.listener)
    sock.setblocking(False)
    server = _server(backend, _export(backend, export_name), sock)
    for fd, client in carried.clients:
        await server._adopt(fd, client)
    await server._listen(sock)
    return server


def _export(backend: Backend, name: str) -> Export:
    return Export(name.encode(), b"Perdure array", backend.size_bytes)


def _server(backend: Backend, export: Export, sock: socket.socket) -> NbdServer:
    """A server that will listen at a bound socket."""
    name = quote(export.name, safe="")
    if sock.family == socket.AF_UNIX:
        path = sock.getsockname()
        return NbdServer(backend, export, f"unix:{path}", f"nbd+unix:///{name}?socket={quote(path)}")
    host, port = sock.getsockname()[:2]
    netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return NbdServer(backend, export, f"tcp:{netloc}", f"nbd://{netloc}/{name}")


# Unix sockets ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _SocketFile:
    """The file of a Unix socket, known by inode so that a successor's file of the same name is left alone."""

    path: str
    inode: tuple[int, int]

    @staticmethod
    def of(path: str) -> _SocketFile:
        found = os.stat(path)
        return _SocketFile(path, (found.st_dev, found.st_ino))

    def remove(self) -> None:
        try:
            if _SocketFile.of(self.path) == self:
                os.unlink(self.path)
        except FileNotFoundError:
            return


def _bind_unix(path: str) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        os.chmod(path, 0o600)  # before anyone can connect: that needs the listen() that follows
    except OSError as error:
        sock.close()
        raise Misuse(f"Cannot serve NBD at the Unix socket {path}: {error.strerror or error}.") from error
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket file at which nobody listens; raise `Misuse` for anything that is alive or not a socket."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # absent, or unreachable: then bind says why
    if not stat.S_ISSOCK(mode):
        raise Misuse(f"{path} exists and is not a socket; nothing was changed, choose another path.")
    try:
        stale = is_stale(Path(path))
    except OSError as error:
        raise Misuse(f"Cannot tell whether a server is alive at {path}: {error.strerror}.") from error
    if not stale:
        raise Misuse(f"A server already listens at the Unix socket {path}; stop it or choose another path.")
    os.unlink(path)


# TCP ------------------------------------------------------------------------------------------------------


async def _bind_tcp(place: str) -> socket.socket:
    host, _, port = place.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Misuse(f"'tcp:{place}' is not an address to serve NBD at; {_USAGE}.")
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # the latter for what cannot be a host name at all
        raise Misuse(f"Cannot serve NBD at tcp:{place}: the host name does not resolve.") from error
    family, kind, protocol, _, sockaddr = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for old connections
        sock.bind(sockaddr)
        sock.listen()  # here and not later, so that a port in use is found out now
    except OSError as error:
        sock.close()
        raise Misuse(f"Cannot serve NBD at tcp:{place}: {error.strerror}.") from error
    sock.setblocking(False)
    return sock

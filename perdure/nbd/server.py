"""The NBD server: listens on a Unix socket or a TCP port and serves one backend to every client. Shell.

NBD has neither encryption nor authentication here: who can connect can read and change the whole disk. A Unix
socket is made for its owner only (mode 0600); a TCP address should be loopback or lie inside a protected tunnel.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from perdure.errors import Misuse
from perdure.nbd.backend import Backend
from perdure.nbd.handshake import Export
from perdure.nbd.session import Session
from perdure.sockets import is_stale

CONNECTIONS_MAX = 64

_USAGE = "use unix:/path or tcp:host:port"

logger = logging.getLogger(__name__)


class NbdServer:
    """A server that listens; made by `serve`. `address` is in the form that `serve` takes, with the real port."""

    def __init__(self, backend: Backend, export: Export, address: str, uri: str) -> None:
        self.address = address
        self.uri = uri
        self._backend = backend
        self._export = export
        self._sessions: set[Session] = set()
        self._all_ended = asyncio.Event()
        self._closing = False
        self._listener: asyncio.Server | None = None
        self._socket_file: _SocketFile | None = None

    async def _listen(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if sock.family == socket.AF_UNIX:
            self._socket_file = _SocketFile.of(sock.getsockname())
            self._listener = await loop.create_unix_server(self._new_session, sock=sock)
        else:
            self._listener = await loop.create_server(self._new_session, sock=sock)

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

    async def close(self) -> None:
        """Stop listening, answer every request already taken, then close the connections. May be called twice.

        Waits for the backend as long as it takes, and 10 seconds more for clients that do not read.
        """
        self._closing = True
        if self._listener is not None:
            self._listener.close()
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
    export = Export(export_name.encode(), b"Perdure array", backend.size_bytes)
    kind, _, place = address.partition(":")
    quoted = quote(export_name, safe="")
    if kind == "unix" and place:
        path = os.path.abspath(place)
        sock = _bind_unix(path)
        server = NbdServer(backend, export, f"unix:{path}", f"nbd+unix:///{quoted}?socket={quote(path)}")
    elif kind == "tcp":
        sock = await _bind_tcp(place)
        host, port = sock.getsockname()[:2]
        netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        server = NbdServer(backend, export, f"tcp:{netloc}", f"nbd://{netloc}/{quoted}")
    else:
        raise Misuse(f"'{address}' is not an address to serve NBD at; {_USAGE}.")
    await server._listen(sock)
    return server


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

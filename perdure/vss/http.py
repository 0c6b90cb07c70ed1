"""VSS over HTTP/1.1, bounded. Shell: sockets and time; h11 has the protocol and `perdure.vss.service` the answers.

There is no encryption here, and what an Authorization header shows would be anybody's who sees it. So this listens on
loopback only; whoever serves others puts a TLS proxy in front, on the same machine and in the same TEE. Not even that
does for clients that write without versions: a host that holds back a connection undoes what they wrote after it.

Where nobody has to prove who they are, a web page that is open on this machine must not be able to ask either: then
requests that call this machine by another name than loopback, or that a browser marks with an Origin, are refused.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import h11

from perdure.errors import Misuse, NotAuthorised, PerdureError
from perdure.service.telling.http import is_loopback_name
from perdure.vss import service
from perdure.vss.auth import Authorizer, nobody
from perdure.vss.service import Reply
from perdure.vss.turns import Turns

CONNECTIONS_MAX: Final = 64
"""Beyond, the connection that has been silent for longest is closed."""
HEAD_BYTES_MAX: Final = 16_384
BODY_BYTES_MAX: Final = 32 << 20
"""Of one request: a node's largest value, a graph of the network, is about that large."""
BODIES_MAX: Final = 4
"""Requests that are taken in at the same time; the others wait. One that is not small counts until the database has
done it, so memory is bounded."""
SMALL_BYTES: Final = 1 << 18
IDLE_S: Final = 120.0
"""Between two requests of a connection."""
HEAD_S: Final = 10.0
BODY_S: Final = 60.0
SEND_S: Final = 60.0
_READ_BYTES: Final = 65_536
_HEADERS: Final = (("Content-Type", "application/octet-stream"), ("vss-protocol-version", "0"))
"""The client wants the version (`src/client.rs` of lightningdevkit/vss-client)."""

logger = logging.getLogger("perdure")


class VssServer:
    """Listens until `close`; `url` has the real port, and is what a client is given."""

    def __init__(self, turns: Turns, authorizer: Authorizer, bound: socket.socket) -> None:
        host, port = bound.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}{service.PREFIX}"
        self._turns = turns
        self._authorizer = authorizer
        self._bodies = asyncio.Semaphore(BODIES_MAX)
        self._clients: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        """The one that has been silent for longest comes first."""
        self._listener: asyncio.Server | None = None

    async def close(self) -> None:
        """Stop listening and drop every connection; a request that has begun is done all the same, or not at all."""
        if self._listener is not None:
            self._listener.close()
        tasks = list(self._clients.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _start(self, bound: socket.socket) -> None:
        self._listener = await asyncio.start_server(self._client, sock=bound, limit=_READ_BYTES)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) == CONNECTIONS_MAX:
            self._clients.pop(next(iter(self._clients))).cancel()
        self._clients[writer] = task
        try:
            with suppress(ConnectionError, TimeoutError, asyncio.CancelledError, h11.LocalProtocolError):
                await self._serve(reader, writer)
        except Exception:  # one connection's defect must not end the others, nor be silent
            logger.critical("a defect in Perdure: a request of VSS was not answered", exc_info=True)
        finally:
            self._clients.pop(writer, None)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _Peer(reader, writer)
        while True:
            try:
                request = await peer.next_request()
                if request is None:
                    return
                self._clients[writer] = self._clients.pop(writer)  # the last one that was heard
                reply = await self._answer(peer, request)
            except h11.RemoteProtocolError as error:
                reply = service.invalid(error.error_status_hint, "This is not a request over HTTP/1.1.")
            if not await peer.send(reply):
                return

    async def _answer(self, peer: _Peer, request: h11.Request) -> Reply:
        """The reply to a request. The body is not kept before it is known who asks."""
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in request.headers}
        try:
            user = self._user(request, headers)
        except PerdureError as error:
            await peer.body(is_kept=False)
            return service.refusal(error)
        try:
            async with self._bodies:
                body = await peer.body()
                if body is None:
                    return service.invalid(413, f"A request has at most {BODY_BYTES_MAX} bytes; nothing was changed.")
                work, is_small = service.work(request.target.decode("ascii"), user, body), len(body) <= SMALL_BYTES
                del body
                if not is_small:
                    return await self._done(work)
        except Misuse as error:
            return service.refusal(error)
        return await self._done(work)

    def _user(self, request: h11.Request, headers: dict[str, str]) -> str:
        if request.method != b"POST":
            raise Misuse("Every call of VSS is a POST.")
        if self._authorizer is nobody:
            _require_local(headers)
        return self._authorizer(headers, int(time.time()))

    async def _done(self, work: service.Work) -> Reply:
        try:
            return Reply(200, await self._turns.do(work))
        except PerdureError as error:
            return service.failed() if self._turns.has_ended else service.refusal(error)


async def listen(place: str, turns: Turns, authorizer: Authorizer) -> VssServer:
    """Serve at `place`, `HOST:PORT` on loopback; port 0 is any free one. Raises Misuse when that cannot be had."""
    host, _, port = place.rpartition(":")
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
        if not address.is_loopback:
            raise Misuse(
                f"{place} can be reached from elsewhere, and there is no encryption here; nothing was started. Listen "
                "on 127.0.0.1; docs/lightning.md says whom a TLS proxy in front may serve."
            )
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        bound = socket.create_server((str(address), int(port)), family=family, backlog=CONNECTIONS_MAX)
    except (OSError, ValueError, OverflowError) as error:
        raise Misuse(f"{place} cannot be listened at: {error}; nothing was started. Choose another place.") from None
    bound.setblocking(False)
    server = VssServer(turns, authorizer, bound)
    await server._start(bound)
    return server


def _require_local(headers: dict[str, str]) -> None:
    if "origin" in headers or not is_loopback_name(headers.get("host", "")):
        raise NotAuthorised("Without a token only programs on this machine are served, and no browser.")


# One connection -------------------------------------------------------------------------------------------


class _Peer:
    """The other side of one connection. What is read raises RemoteProtocolError, TimeoutError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        writer.transport.set_write_buffer_limits(0)  # so that `drain` means: taken

    async def next_request(self) -> h11.Request | None:
        """The next request's head; None at the end."""
        if not self._connection.trailing_data[0]:
            async with asyncio.timeout(IDLE_S):
                self._connection.receive_data(await self._reader.read(_READ_BYTES))
        async with asyncio.timeout(HEAD_S):
            event = await self._next_event()
        return event if isinstance(event, h11.Request) else None

    async def body(self, *, is_kept: bool = True) -> bytes | None:
        """The request's body, or nothing of it; None when it is larger than it may be."""
        if self._connection.they_are_waiting_for_100_continue:
            self._writer.write(self._connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        kept, size = bytearray(), 0
        async with asyncio.timeout(BODY_S):
            while isinstance(event := await self._next_event(), h11.Data):
                size += len(event.data)
                if size > BODY_BYTES_MAX:
                    return None
                kept += event.data if is_kept else b""
        return bytes(kept)

    async def send(self, reply: Reply) -> bool:
        """Send a reply, taken in time or not at all; whether another request may follow."""
        connection = self._connection
        is_last = connection.their_state is not h11.DONE
        headers = [*_HEADERS, ("Content-Length", str(len(reply.body))), ("Date", formatdate(usegmt=True))]
        headers += [("Connection", "close")] if is_last else []
        head = h11.Response(status_code=reply.status, reason=HTTPStatus(reply.status).phrase, headers=headers)
        events = (head, h11.Data(data=reply.body), h11.EndOfMessage())
        self._writer.writelines([connection.send(event) or b"" for event in events])
        async with asyncio.timeout(SEND_S):
            await self._writer.drain()
        if is_last or connection.our_state is not h11.DONE:
            return False
        connection.start_next_cycle()
        return True

    async def _next_event(self) -> h11.Event | None:
        while (event := self._connection.next_event()) is h11.NEED_DATA:
            self._connection.receive_data(await self._reader.read(_READ_BYTES))
        return event if isinstance(event, h11.Event) else None

"""The page, the metrics and the probes over HTTP/1.1: read-only, bounded, and nothing that it says is secret. Shell.

The protocol is h11's, which does no I/O; what is answered comes from `perdure.service.telling.views`. Here are the
socket, the time and the bounds: a client may send a request line and headers and nothing else, must be done with that
soon, must take its reply soon, and makes room for others when there are too many. There is neither a password nor
encryption: whoever connects sees what `perdure status` and `perdure events` show, and can change nothing.

The loop that runs this serves the array. So the whole server answers one request at a time, in the order in which they
came, and rests after each for a multiple of what it took: however many ask, for whatever, they get a fifth of the time.

A web site may point its own name at 127.0.0.1 and have a browser here ask (DNS rebinding). So where only this machine
can connect, only requests that call this machine by a loopback name are answered.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Final

import h11

from perdure.errors import Misuse
from perdure.service.telling.views import Reply, refusal

CONNECTIONS_MAX: Final = 32
"""One more takes the place of who has been silent for longest, or of who is answered next: a probe must get through."""
HEAD_BYTES_MAX: Final = 8192
"""Of a request line and its headers."""
DOOR_MAX: Final = 128
"""Connections that the system keeps until there is room; who comes then has to try again."""
IDLE_S: Final = 75.0
"""Between two requests of a connection: longer than most scrapes are apart."""
HEAD_S: Final = 5.0
"""From the first byte of a request to its last."""
SEND_S: Final = 10.0
"""For a reply to be taken."""
PAUSE_S: Final = 0.01
"""After each connection, and after each reply at least: there are a hundred of them in a second at most."""
REST: Final = 4
"""After each reply, this many times the processor's time that it took."""
_READ_BYTES: Final = 4096
_NOT_UNDERSTOOD: Final = f"What is understood is a GET or HEAD with a Host, without a body, of {HEAD_BYTES_MAX} bytes."

View = Callable[[str], Reply]
"""Answers the target of a GET, such as `/api/events?since=7`."""

logger = logging.getLogger("perdure")


class HttpServer:
    """A server that listens, from `listen` until `close`; `url` has the real port."""

    def __init__(self, view: View, bound: socket.socket) -> None:
        host, port = bound.getsockname()[:2]
        self.url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        self._view = view
        self._is_loopback = ipaddress.ip_address(host).is_loopback
        self._clients: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        """The one that has been silent for longest comes first."""
        self._asking: set[asyncio.StreamWriter] = set()
        """Those that wait for their turn: they are not silent."""
        self._is_full = False
        """Whether one more waits at the door until somebody was answered and leaves."""
        self._left = asyncio.Event()
        self._turns = asyncio.Lock()
        """Whoever waits for it is answered in the order of asking."""
        self._free_at = 0.0
        """The loop's time of the next turn."""
        self._bound = bound
        self._accepting = asyncio.ensure_future(self._accept())

    async def close(self) -> None:
        """Stop listening and drop every connection: whatever was asked can be asked again."""
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._bound.close()
        tasks = list(self._clients.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._clients:  # whose task had not begun
            writer.transport.abort()

    async def _accept(self) -> None:
        """Take one connection after another, each once there is room; the others wait in the system's queue."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._bound)
                await self._take(accepted)
            except OSError as error:  # such as no descriptor to be had
                logger.warning("a connection over HTTP could not be taken: %s", error)
            await asyncio.sleep(PAUSE_S)

    async def _take(self, accepted: socket.socket) -> None:
        try:
            await self._room()
            reader, writer = await asyncio.open_connection(sock=accepted)
        except BaseException:
            accepted.close()
            raise
        self._clients[writer] = asyncio.ensure_future(self._client(reader, writer))

    async def _room(self) -> None:
        """Return when one more can be had: who is silent goes at once, who waits for an answer goes when he has it."""
        while len(self._clients) == CONNECTIONS_MAX:
            silent = next((writer for writer in self._clients if writer not in self._asking), None)
            if silent is not None:
                self._clients.pop(silent).cancel()
                return
            self._is_full = True
            self._left.clear()
            await self._left.wait()
        self._is_full = False

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)  # so that `drain` means: taken
        try:
            with suppress(ConnectionError, TimeoutError, asyncio.CancelledError, h11.LocalProtocolError):
                await self._serve(reader, writer)
        except Exception:  # a defect here must not end the array's main program, nor be silent
            logger.critical("a defect in Perdure: a request over HTTP was not answered", exc_info=True)
        finally:
            self._clients.pop(writer, None)
            self._asking.discard(writer)
            self._left.set()
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after another until one of both sides wants no more."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        while True:
            try:
                request = await _next_request(connection, reader)
            except h11.RemoteProtocolError as error:
                refuse = partial(refusal, error.error_status_hint, _NOT_UNDERSTOOD)
                await self._in_turn(connection, writer, refuse, is_last=True)
                return
            if request is None:
                return
            self._clients[writer] = self._clients.pop(writer)  # the last one that was heard
            await self._in_turn(connection, writer, partial(self._answer, request), has_body=request.method != b"HEAD")
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _in_turn(
        self,
        connection: h11.Connection,
        writer: asyncio.StreamWriter,
        answer: Callable[[], Reply],
        *,
        has_body: bool = True,
        is_last: bool = False,
    ) -> None:
        """Make an answer when its turn has come and send it; it is taken in time or not at all."""
        loop = asyncio.get_running_loop()
        self._asking.add(writer)
        async with self._turns:
            await asyncio.sleep(self._free_at - loop.time())
            self._asking.discard(writer)
            began_s = time.thread_time()
            try:
                made = _bytes_of(connection, answer(), has_body=has_body, is_last=is_last or self._is_full)
                writer.writelines(made)
            finally:
                self._free_at = loop.time() + max(PAUSE_S, REST * (time.thread_time() - began_s))
        async with asyncio.timeout(SEND_S):
            await writer.drain()

    def _answer(self, request: h11.Request) -> Reply:
        if request.method not in (b"GET", b"HEAD"):
            return refusal(405, "Only GET and HEAD are known: nothing can be changed here.")
        host = next((value.decode("ascii", "replace") for name, value in request.headers if name == b"host"), "")
        if self._is_loopback and not is_loopback_name(host):
            return refusal(421, "This server is reached by a loopback name only, such as http://127.0.0.1.")
        return self._view(request.target.decode("ascii", "replace"))


async def listen(place: str, view: View) -> HttpServer:
    """Serve `view` at `place`, `HOST:PORT`; port 0 is any free one. Raises Misuse when that cannot be had."""
    host, _, port = place.rpartition(":")
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        bound = socket.create_server(found[0][4][:2], family=found[0][0], backlog=DOOR_MAX)
    except (OSError, UnicodeError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Misuse(
            f"The page cannot be served at {place}: {why}. The array was not changed; choose another."
        ) from None
    bound.setblocking(False)
    return HttpServer(view, bound)


def is_loopback_name(host: str) -> bool:
    """Whether a Host header, with or without its port, names this machine and could not name another."""
    name = host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    try:
        return name.lower() == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


# One connection -------------------------------------------------------------------------------------------


async def _next_request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The next request, whole; None at the end. Raises RemoteProtocolError for what is none, TimeoutError if late."""
    if not connection.trailing_data[0]:
        async with asyncio.timeout(IDLE_S):
            connection.receive_data(await reader.read(_READ_BYTES))
    async with asyncio.timeout(HEAD_S):
        request = await _next_event(connection, reader)
        if not isinstance(request, h11.Request):
            return None
        if not isinstance(await _next_event(connection, reader), h11.EndOfMessage):
            raise h11.RemoteProtocolError("a request here has no body", error_status_hint=413)
    return request


async def _next_event(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | None:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(_READ_BYTES))
    return event if isinstance(event, h11.Event) else None


def _bytes_of(connection: h11.Connection, reply: Reply, *, has_body: bool, is_last: bool) -> list[bytes]:
    """One reply, as it is sent."""
    always = [("Content-Length", str(len(reply.body))), ("Date", formatdate(usegmt=True))]
    always += [("Connection", "close")] if is_last else []
    events = [
        h11.Response(
            status_code=reply.status, reason=HTTPStatus(reply.status).phrase, headers=[*reply.headers, *always]
        ),
        *([h11.Data(data=reply.body)] if has_body else []),
        h11.EndOfMessage(),
    ]
    return [connection.send(event) or b"" for event in events]

"""The main program's control socket: one JSON object a line, such as `{"do": "status"}`, and one line back.

Only the owner of the socket file (mode 0600) can connect. Whoever can is trusted with stopping the main program, with
repair (evidence decides who may be a member, whatever address is asked for), and with erasing, as whoever reaches the
NBD socket is. Lines are bounded, requests and their arguments are a closed list, and no answer waits for a repair.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from perdure.errors import Misuse, PerdureError, Unavailable, error_from_json, error_to_json

REQUEST_BYTES_MAX: Final = 4096
REPLY_BYTES_MAX: Final = 1 << 20
CLIENTS_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class Request:
    """One request, checked; what was not given is None."""

    do: str
    seat: int | None = None
    address: str | None = None
    bytes_per_s_max: int | None = None
    offset: int | None = None
    length: int | None = None
    receipt: str | None = None
    since: int | None = None
    number: int | None = None


Handler = Callable[[Request], Awaitable[Mapping[str, Any]]]
"""Carries out one request; raises PerdureError."""

_TYPES: Final[Mapping[str, type]] = {
    "seat": int,
    "address": str,
    "bytes_per_s_max": int,
    "offset": int,
    "length": int,
    "receipt": str,
    "since": int,
    "number": int,
}
_REQUESTS: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    "status": (frozenset(), frozenset()),
    "stop": (frozenset(), frozenset()),
    "upgrade": (frozenset(), frozenset()),
    "replace": (frozenset({"seat"}), frozenset({"address", "bytes_per_s_max"})),
    "rejoin": (frozenset({"seat"}), frozenset({"bytes_per_s_max"})),
    "scrub": (frozenset(), frozenset({"bytes_per_s_max"})),
    "offline": (frozenset({"seat"}), frozenset()),
    "clear": (frozenset(), frozenset({"seat"})),
    "verify": (frozenset(), frozenset()),
    "events": (frozenset(), frozenset({"since"})),
    "event": (frozenset({"number"}), frozenset()),
    "erase": (frozenset({"offset", "length", "receipt"}), frozenset()),
}
"""What each request must and may have beside `do`."""


def parse_request(line: bytes) -> Request:
    """The request in a line. Raises Misuse, in one sentence, for anything that is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("do"), str):
        raise Misuse('A control request is one line of JSON such as {"do": "status"}; this one was not understood.')
    do = value.pop("do")
    if do not in _REQUESTS:
        raise Misuse(f"The main program knows {', '.join(map(repr, _REQUESTS))}, not {do!r:.80}.")
    needed, allowed = _REQUESTS[do]
    for name in sorted(needed - value.keys()):
        raise Misuse(f"The request {do!r} needs {name!r}; nothing was done.")
    for name, given in value.items():
        if name not in needed | allowed:
            raise Misuse(f"The request {do!r} has no {name!r:.80}; nothing was done.")
        if type(given) is not _TYPES[name]:
            kind = "a whole number" if _TYPES[name] is int else "text"
            raise Misuse(f"In the request {do!r} {name!r} must be {kind}; nothing was done.")
    return Request(do, **value)


# Server ---------------------------------------------------------------------------------------------------


class ControlServer:
    """Answers on a Unix socket from `listen` until `pause` or `close`."""

    def __init__(self, path: Path, inherited: int | None = None) -> None:
        """Take the path, or the socket that listens there already; raises Misuse when another program answers there.

        Nobody is answered before `listen`.
        """
        self._path = path
        self._socket = _bind(path) if inherited is None else socket.socket(fileno=inherited)
        self._socket.setblocking(False)
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def listen(self, handler: Handler) -> None:
        """Begin to answer, or go on with another handler."""
        self._handler = handler
        if self._server is None:
            sock = self._socket.dup()
            self._server = await asyncio.start_server(self._client, sock=sock, limit=REQUEST_BYTES_MAX)

    async def pause(self) -> None:
        """Let the answers under way go out, then drop the clients. Whoever connects waits until `listen`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._clients:
            await asyncio.wait(self._clients, timeout=1)
        for client in self._clients:
            client.cancel()

    def carried(self) -> int:
        """A descriptor of the socket that listens, the caller's own, for the program that comes after this one."""
        return os.dup(self._socket.fileno())

    async def close(self) -> None:
        """Let the answers under way go out, then drop everything and remove the file."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        await self.pause()
        self._socket.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        try:
            with suppress(ConnectionError):  # a client may leave at any time
                await self._serve(reader, writer)
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(self._clients) <= CLIENTS_MAX:
            try:
                line = await reader.readline()
            except ValueError:  # longer than the limit: there is no telling where the next line starts
                writer.write(_line({"error": error_to_json(Misuse("The control request is too long."))}))
                await writer.drain()
                return
            if not line.endswith(b"\n"):
                return
            writer.write(_line(await self._answer(line)))
            await writer.drain()

    async def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            return await self._handler(parse_request(line))
        except PerdureError as error:
            return {"error": error_to_json(error)}


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _bind(path: Path) -> socket.socket:
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            except OSError as error:
                raise Misuse(f"Cannot tell whether a program listens at {path}: {error.strerror}.") from None
            else:
                raise Misuse(
                    f"Another program answers at the control socket {path}; nothing was started. Stop it first."
                )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        os.chmod(path, 0o600)  # before anyone can connect: that needs the listen that follows
    except OSError as error:
        listener.close()
        raise Misuse(f"The control socket {path} cannot be made ({error}); nothing was started.") from None
    return listener


# Client ---------------------------------------------------------------------------------------------------


def ask(path: Path, do: str, *, timeout_s: float = 10, **arguments: int | str | None) -> dict[str, Any]:
    """Send one request and return the answer; arguments that are None are left out.

    Raises Unavailable when nobody answers, or the error that came back.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout_s)
            client.connect(str(path))
            client.sendall(_line({"do": do, **given}))
            with client.makefile("rb") as stream:
                line = stream.readline(REPLY_BYTES_MAX)
        reply = json.loads(line)
    except TimeoutError:
        raise Unavailable(
            f"The main program does not answer at {path} within {timeout_s:.0f} s; it was left as it is. See its log."
        ) from None
    except (OSError, ValueError):
        raise Unavailable(
            f"The main program does not run (nobody answers at {path}); what was flushed is safe on the disks that "
            "run. `perdure up` or `perdure import` mounts the array again."
        ) from None
    if "error" in reply:
        raise error_from_json(reply["error"])
    return dict(reply)

"""How one speaks with a loader: a JSON object on a line, bytes behind it where it says so, and one line back.

The connection is the host's and proves nothing: what must be believed is signed, sealed, or in evidence. Lines and
payloads are bounded. Bytes inside JSON are in Base64.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from perdure.disk import address as disk_address
from perdure.errors import Disconnected, Misuse, error_from_json
from perdure.manifest.tree import TARBALL_BYTES_MAX

LINE_BYTES_MAX: Final = 1 << 20
PAYLOAD_BYTES_MAX: Final = TARBALL_BYTES_MAX
"""Of a main program, packed."""
CONNECT_S_MAX: Final = 10.0
_CHUNK: Final = 1 << 18


class Talk:
    """One connection, either side of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self, *, payload_max: int = 0) -> tuple[dict[str, Any], bytes] | None:
        """The next object and its payload; None when the other side has ended. Raises Misuse for anything else."""
        try:
            line = await self._reader.readline()
        except ValueError:
            raise Misuse("A message to a loader is one line of at most 1 MiB; this one is longer.") from None
        except ConnectionError:
            return None
        if not line.endswith(b"\n"):
            return None
        try:
            value = json.loads(line)
            length = value.pop("payload", 0) if isinstance(value, dict) else None
        except (ValueError, RecursionError):
            length = None
        if type(length) is not int or length < 0:
            raise Misuse("A message to a loader is one line of JSON; this one was not understood.")
        if length > payload_max:
            raise Misuse(f"A loader takes {payload_max} bytes behind a line now, not {length}; nothing was done.")
        try:
            return value, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def send(self, value: Mapping[str, Any], payload: bytes = b"") -> None:
        """Send one object. Raises ConnectionError."""
        named = {**value, "payload": len(payload)} if payload else value
        self._writer.write(json.dumps(named).encode() + b"\n")
        for start in range(0, len(payload), _CHUNK):
            self._writer.write(payload[start : start + _CHUNK])
            await self._writer.drain()
        await self._writer.drain()

    async def ask(self, do: str, *, payload: bytes = b"", timeout_s: float = 30.0, **fields: Any) -> dict[str, Any]:  # noqa: ANN401  (JSON)
        """Ask and return the answer. Raises Disconnected, or the error that came back."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.send({"do": do, **fields}, payload)
                received = await self.receive()
        except TimeoutError:
            raise Disconnected(f"The loader does not answer within {timeout_s:.0f} s.") from None
        except ConnectionError:
            received = None
        if received is None:
            raise Disconnected("The loader ended the connection without an answer.")
        answer, _ = received
        error = answer.get("error")
        if error is not None:
            raise error_from_json(error) if isinstance(error, dict) else Misuse("The loader's answer is no answer.")
        return answer

    def close(self) -> None:
        """End it; what is still to be sent is."""
        self._writer.close()


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Talk]:
    """A connection to the loader at `address`. Raises Misuse for what is none, Disconnected when nobody is there."""
    try:
        family, target = disk_address.parse(address)
    except ValueError as error:
        raise Misuse(f"The loader's address is {error}") from None
    sock = await _connect(family, target, address)
    reader, writer = await asyncio.open_connection(sock=sock, limit=LINE_BYTES_MAX)
    try:
        yield Talk(reader, writer)
    finally:
        writer.close()


async def _connect(family: int, target: Any, address: str) -> Any:  # noqa: ANN401  (socket addresses)
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(CONNECT_S_MAX):
            await asyncio.get_running_loop().sock_connect(sock, target)
    except (OSError, TimeoutError) as error:
        sock.close()
        raise Disconnected(f"Nobody answers at {address} ({error or 'no answer'}); nothing was sent.") from None
    return sock


# Fields ---------------------------------------------------------------------------------------------------


def packed(data: bytes) -> str:
    """Bytes as a field."""
    return base64.b64encode(data).decode()


def unpacked(value: Mapping[str, Any], name: str) -> bytes:
    """The bytes of a field. Raises Misuse."""
    try:
        return base64.b64decode(text(value, name), validate=True)
    except ValueError:  # binascii.Error is one, and so is what text beyond ASCII gives
        raise Misuse(f"In a message to or from a loader {name!r} is not Base64.") from None


def unpacked_all(value: Mapping[str, Any], name: str) -> tuple[bytes, ...]:
    """The same for a list. Raises Misuse."""
    return tuple(unpacked({name: one}, name) for one in texts(value, name))


def text(value: Mapping[str, Any], name: str) -> str:
    """A field of text. Raises Misuse."""
    found = value.get(name)
    if not isinstance(found, str):
        raise Misuse(f"A message to or from a loader lacks {name!r}, or it is no text.")
    return found


def texts(value: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A field that is a list of texts. Raises Misuse."""
    found = value.get(name)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise Misuse(f"A message to or from a loader lacks {name!r}, or it is no list of texts.")
    return tuple(found)

"""An NBD client and the real protocol core between it and an array, over virtual time.

`perdure.nbd.protocol` is driven byte by byte: what the client sends arrives in pieces of any size, requests run at
once, replies go back as they finish. `perdure.nbd.session` stands on asyncio's transports and cannot run here; what
stands in its place does with events and replies what it does, without its limits. Half the clients ask for structured
replies.
"""

from __future__ import annotations

import struct

from perdure.array.engine import Array
from perdure.array.ports import Buffer
from perdure.errors import PerdureError
from perdure.nbd import wire
from perdure.nbd.events import Close, Flush, Read, Request, Send, Trim, Write
from perdure.nbd.handshake import Export
from perdure.nbd.protocol import Connection
from perdure.nbd.wire import Error, Option
from perdure.sim.history import Violation
from perdure.sim.loop import Future, Loop, Task

_LATENCY_MS = 0.1
_PIECE_BYTES_MAX = 6000


class NbdClient:
    """One client of one main program; the calls are those of `perdure.nbd.backend.Backend`."""

    def __init__(self, loop: Loop, array: Array, owner: object) -> None:
        self._loop = loop
        self._array = array
        self._owner = owner
        self._core = Connection(Export(b"", b"", array.size_bytes))
        self._cookie = 0
        self._waiting: dict[int, tuple[Future[bytes], int]] = {}
        """By cookie: who waits, and how many bytes a read asked for."""
        self._errors: dict[int, Exception] = {}
        self._inbox = b""

    async def connect(self) -> None:
        """Greet and agree on the export. Raises Violation when the server says another size."""
        flags = wire.CLIENT_FLAGS.pack(wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES)
        options = [(Option.GO, struct.pack(">IH", 0, 0))]
        if self._loop.rng.random() < 0.5:
            options.insert(0, (Option.STRUCTURED_REPLY, b""))
        await self._loop.sleep(_LATENCY_MS)
        asked = (wire.OPTION_HEADER.pack(wire.OPTION_MAGIC, kind, len(data)) + data for kind, data in options)
        self._arrive(flags + b"".join(asked))
        size = struct.pack(">HQ", wire.Info.EXPORT, self._array.size_bytes)
        if size not in self._inbox:
            raise Violation("the NBD server offers a disk of another size")
        self._inbox = b""

    async def pread(self, offset: int, length: int) -> bytes:
        """NBD_CMD_READ."""
        return await self._ask(wire.CMD_READ, 0, offset, length)

    async def pwrite(self, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """NBD_CMD_WRITE."""
        await self._ask(wire.CMD_WRITE, wire.CMD_FLAG_FUA * fua, offset, len(data), bytes(data))

    async def flush(self) -> None:
        """NBD_CMD_FLUSH."""
        await self._ask(wire.CMD_FLUSH, 0, 0, 0)

    async def trim(self, offset: int, length: int) -> None:
        """NBD_CMD_TRIM, or NBD_CMD_WRITE_ZEROES, which come to the same."""
        command = wire.CMD_TRIM if self._loop.rng.random() < 0.5 else wire.CMD_WRITE_ZEROES
        await self._ask(command, 0, offset, length)

    # The client's end -------------------------------------------------------------------------------------

    async def _ask(self, command: int, flags: int, offset: int, length: int, payload: bytes = b"") -> bytes:
        self._cookie += 1
        cookie = self._cookie
        future: Future[bytes] = Future(self._loop)
        self._waiting[cookie] = future, length if command == wire.CMD_READ else 0
        request = wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, command, cookie, offset, length) + payload
        self._loop.call_later(_LATENCY_MS, lambda: self._arrive(request))
        data = await future
        if cookie in self._errors:
            raise self._errors.pop(cookie)
        return data

    def _take_reply(self, data: bytes) -> None:
        """Read as many replies as have come."""
        self._inbox += data
        while len(self._inbox) >= wire.SIMPLE_REPLY.size:
            taken = self._one_reply()
            if not taken:
                return
            self._inbox = self._inbox[taken:]

    def _one_reply(self) -> int:
        """Give the first reply to who waits; its length, or 0 while it is not all there."""
        (magic,) = struct.unpack_from(">I", self._inbox)
        if magic == wire.SIMPLE_REPLY_MAGIC:
            _, error, cookie = wire.SIMPLE_REPLY.unpack_from(self._inbox)
            start = wire.SIMPLE_REPLY.size
            end = start + (0 if error else self._waiting[cookie][1])
        else:
            if len(self._inbox) < wire.CHUNK.size:
                return 0
            _, _, kind, cookie, length = wire.CHUNK.unpack_from(self._inbox)
            error, end = kind == wire.CHUNK_ERROR, wire.CHUNK.size + length
            start = wire.DATA_CHUNK.size if kind == wire.CHUNK_OFFSET_DATA else end
        if len(self._inbox) < end:
            return 0
        if bool(error) != (cookie in self._errors):
            raise Violation("an NBD reply says other than what became of the request")
        self._waiting.pop(cookie)[0].set_result(self._inbox[start:end])
        return end

    # The server's end -------------------------------------------------------------------------------------

    def _arrive(self, data: bytes) -> None:
        """Bytes of the client, in pieces."""
        while data:
            buffer = self._core.get_buffer()
            piece = data[: min(len(buffer), self._loop.rng.randint(1, _PIECE_BYTES_MAX))]
            buffer[: len(piece)] = piece
            self._core.received(len(piece))
            data = data[len(piece) :]
            while (event := self._core.next_event()) is not None:
                if isinstance(event, Send):
                    self._take_reply_in_handshake(event.data)
                elif isinstance(event, Close):
                    raise Violation(f"the NBD server hung up: {event.reason}")
                else:
                    Task(self._loop, self._serve(event), self._owner)

    def _take_reply_in_handshake(self, data: bytes) -> None:
        self._inbox += data

    async def _serve(self, request: Request) -> None:
        try:
            reply = await self._carry_out(request)
        except Exception as error:  # the client raises it again, with what it got for it
            self._errors[request.cookie] = error
            text = str(error) if isinstance(error, PerdureError) else "The server failed."
            reply = self._core.failed(request, Error.EIO, text)
        self._loop.call_later(_LATENCY_MS, lambda: self._take_reply(reply))

    async def _carry_out(self, request: Request) -> bytes:
        array = self._array
        if isinstance(request, Read):
            return self._core.data_header(request) + bytes(await array.pread(request.offset, request.length))
        if isinstance(request, Write):
            await array.pwrite(request.offset, request.data, fua=request.fua)
        elif isinstance(request, Flush):
            await array.flush()
        elif isinstance(request, Trim):
            await array.trim(request.offset, request.length, fua=request.fua)
        else:
            await array.write_zeroes(request.offset, request.length, fua=request.fua, may_trim=request.may_trim)
        return self._core.done(request)

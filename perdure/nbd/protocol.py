"""The server side of one NBD connection, without I/O: bytes in, events out, replies to bytes. Core.

Theory of operation. The shell puts received bytes into `get_buffer()`, says how many with `received(count)`, and
then takes events with `next_event()` until that returns None, which means "more bytes, please". Taking events one
by one is the backpressure: a shell that is full stops taking and stops reading. No event is taken between
`get_buffer()` and its `received(count)`.

    FLAGS --client flags--> HAGGLING --EXPORT_NAME or GO--> TRANSMISSION --DISC, Close(None)--> CLOSED
                               |                                                                 ^
                               +--ABORT, its answer--> GOODBYE --Close(None)---------------------+
                                                       any phase, a breach --Close(why)----------+

It is the connection that owns the memory for what arrives, so that a large payload is received where it stays.
Small requests gather in one fixed buffer; a payload above 64 KiB gets its own. Nothing else grows: an option
or payload over its limit is dropped as it comes (`_skip`) and refused, or ends the connection.

A client is not trusted with anything but its own requests: every length, range and flag is checked here, and a
request that leaves `next_event` is valid for the export. A breach is an event, not an exception; `Misuse` is
raised only for a shell that breaks the order above.

Source: doc/proto.md of the NetworkBlockDevice/nbd repository.
"""

from __future__ import annotations

from perdure.errors import Misuse
from perdure.nbd import wire
from perdure.nbd.carried import Carried, Phase
from perdure.nbd.events import Close, Event, Flush, Read, Request, Send, Trim, Write, WriteZeroes
from perdure.nbd.handshake import Export, Handshake, Then
from perdure.nbd.wire import Error, Option, Rep, option_reply

BUFFER_BYTES = 256 << 10
GATHER_BYTES_MAX = 64 << 10  # a larger payload is received in place instead of being copied out
_REQUEST_BYTES = wire.REQUEST.size

# FUA is valid, and harmless, on every command. DF is added when replies are structured.
_FLAGS_ALLOWED = {
    wire.CMD_READ: wire.CMD_FLAG_FUA,
    wire.CMD_WRITE: wire.CMD_FLAG_FUA,
    wire.CMD_FLUSH: wire.CMD_FLAG_FUA,
    wire.CMD_TRIM: wire.CMD_FLAG_FUA,
    wire.CMD_WRITE_ZEROES: wire.CMD_FLAG_FUA | wire.CMD_FLAG_NO_HOLE,
}


class Connection:
    """One client. `greeting` is to be sent first; memory stays within 256 KiB and one payload of 32 MiB."""

    greeting = wire.GREETING

    def __init__(self, export: Export) -> None:
        self._export = export
        self._phase = Phase.FLAGS
        self._handshake = Handshake(export, no_zeroes=False)
        self._structured = False
        self._flags_allowed = _FLAGS_ALLOWED
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0  # what arrived and was not yet used
        self._large: Write | None = None  # a payload that is received in place ...
        self._large_filled = 0  # ... and how much of it came
        self._skip = 0  # bytes to drop ...
        self._after_skip: Send | None = None  # ... and what to say then

    # Handing over -----------------------------------------------------------------------------------------

    def carried(self) -> Carried:
        """Where this connection stands. It must take nothing more, and must not be CLOSED; the buffers are shared."""
        return Carried(
            self._phase,
            self._handshake.no_zeroes,
            self._handshake.structured,
            self._handshake.options_count,
            self._view[self._start : self._end],
            self._skip,
            None if self._after_skip is None else self._after_skip.data,
            self._large,
            self._large_filled,
        )

    @classmethod
    def resumed(cls, export: Export, carried: Carried) -> Connection:
        """A connection that goes on where `carried` stands; its client was greeted long ago.

        The next step is `next_event`. Raises Misuse for more bytes than a connection can have had.
        """
        core = cls(export)
        core._phase = carried.phase
        core._handshake = Handshake(
            export,
            no_zeroes=carried.no_zeroes,
            structured=carried.structured,
            options_count=carried.options_count,
        )
        core._end = len(carried.unread)
        if core._end > BUFFER_BYTES:
            raise Misuse(f"A client was handed over with {core._end} unread bytes, which no connection has.")
        core._buffer[: core._end] = carried.unread
        core._skip = carried.skip
        core._after_skip = None if carried.after_skip is None else Send(carried.after_skip)
        core._large, core._large_filled = carried.large, carried.large_filled
        if core._phase is Phase.TRANSMISSION:
            core._begin_transmission()
        return core

    # Bytes in ---------------------------------------------------------------------------------------------

    def get_buffer(self) -> memoryview:
        """Where the next bytes go; never empty. Raises `Misuse` if events were left untaken and it is full."""
        if self._large is not None:
            return memoryview(self._large.data)[self._large_filled :]
        if self._start == self._end:
            self._start = self._end = 0
        elif BUFFER_BYTES - self._end < GATHER_BYTES_MAX:
            rest = self._end - self._start
            self._view[:rest] = self._view[self._start : self._end]
            self._start, self._end = 0, rest
        if self._end == BUFFER_BYTES:
            raise Misuse("The NBD receive buffer is full; take the events before receiving more.")
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """Note that `count` bytes were put into the buffer that `get_buffer` returned last."""
        if self._large is not None:
            self._large_filled += count
        elif self._phase is not Phase.CLOSED:
            self._end += count

    # Events out -------------------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        """Return the next event, or None when more bytes are needed (for ever, after `Close`)."""
        if self._large is not None:
            return self._finish_large()
        if self._after_skip is not None:
            return self._drop()
        if self._phase is Phase.TRANSMISSION:
            return self._next_request()
        return self._next_in_handshake()

    def _next_in_handshake(self) -> Event | None:
        match self._phase:
            case Phase.FLAGS:
                return self._client_flags()
            case Phase.HAGGLING:
                return self._next_option()
            case Phase.GOODBYE:
                return self._close(None)
            case _:
                return None

    def _client_flags(self) -> Event | None:
        if self._end - self._start < wire.CLIENT_FLAGS.size:
            return None
        (flags,) = wire.CLIENT_FLAGS.unpack_from(self._buffer, self._start)
        self._start += wire.CLIENT_FLAGS.size
        if flags & ~(wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES):
            return self._close(f"unknown client flags {flags:#x}")
        self._handshake = Handshake(self._export, no_zeroes=bool(flags & wire.FLAG_NO_ZEROES))
        self._phase = Phase.HAGGLING
        return self._next_option()

    def _next_option(self) -> Event | None:
        have = self._end - self._start
        if have < wire.OPTION_HEADER.size:
            return None
        magic, option, length = wire.OPTION_HEADER.unpack_from(self._buffer, self._start)
        if magic != wire.OPTION_MAGIC:
            return self._close("an option without its magic number")
        if length > wire.OPTION_BYTES_MAX:
            return self._option_too_big(option, length)
        if have < wire.OPTION_HEADER.size + length:
            return None
        body = self._start + wire.OPTION_HEADER.size
        self._start = body + length
        return self._answer_option(option, bytes(self._view[body : self._start]))

    def _option_too_big(self, option: int, length: int) -> Event | None:
        if option == Option.EXPORT_NAME or length > wire.DRAIN_BYTES_MAX:
            return self._close(f"an option of {length} bytes")
        self._start += wire.OPTION_HEADER.size
        text = f"Option data has at most {wire.OPTION_BYTES_MAX} bytes.".encode()
        return self._drop_then(length, Send(option_reply(option, Rep.ERR_TOO_BIG, text)))

    def _answer_option(self, option: int, data: bytes) -> Event:
        answer = self._handshake.answer(option, data)
        if answer.then is Then.HANG_UP:
            return self._close(answer.reason)
        if answer.then is Then.GOODBYE:
            self._phase = Phase.GOODBYE
        elif answer.then is Then.TRANSMIT:
            self._begin_transmission()
        return Send(answer.data)

    def _begin_transmission(self) -> None:
        self._phase = Phase.TRANSMISSION
        self._structured = self._handshake.structured
        if self._structured:
            self._flags_allowed = _FLAGS_ALLOWED | {wire.CMD_READ: wire.CMD_FLAG_FUA | wire.CMD_FLAG_DF}

    def _next_request(self) -> Event | None:
        start = self._start
        if self._end - start < _REQUEST_BYTES:
            return None
        magic, flags, command, cookie, offset, length = wire.REQUEST.unpack_from(self._buffer, start)
        if magic != wire.REQUEST_MAGIC:
            return self._close("a request without its magic number")
        if command == wire.CMD_DISC:
            return self._close(None)
        refusal = self._refusal(command, flags, offset, length)
        if refusal is not None:
            return self._refuse(command, cookie, length, refusal)
        if command == wire.CMD_WRITE:
            return self._write(cookie, offset, length, bool(flags & wire.CMD_FLAG_FUA))
        self._start = start + _REQUEST_BYTES
        return _request(command, flags, cookie, offset, length)

    def _refusal(self, command: int, flags: int, offset: int, length: int) -> tuple[Error, str] | None:
        """Say why a request is not valid, or None. The order decides which error wins."""
        allowed = self._flags_allowed.get(command)
        if allowed is None:
            return Error.EINVAL, "This server does not know the command."
        if flags & ~allowed:
            return Error.EINVAL, "The command does not take these flags."
        if command == wire.CMD_FLUSH:
            return (Error.EINVAL, "A flush has no offset and no length.") if offset or length else None
        if length == 0:
            return Error.EINVAL, "A request must cover at least one byte."
        return self._range_refusal(command, offset, length)

    def _range_refusal(self, command: int, offset: int, length: int) -> tuple[Error, str] | None:
        if length > wire.PAYLOAD_BYTES_MAX and command in (wire.CMD_READ, wire.CMD_WRITE):
            too_big = Error.EOVERFLOW if command == wire.CMD_READ and self._structured else Error.EINVAL
            return too_big, "A read or write has at most 32 MiB."
        if offset + length > self._export.size_bytes:
            beyond = Error.ENOSPC if command in (wire.CMD_WRITE, wire.CMD_WRITE_ZEROES) else Error.EINVAL
            return beyond, "The request reaches beyond the end of the disk."
        return None

    def _refuse(self, command: int, cookie: int, length: int, refusal: tuple[Error, str]) -> Event | None:
        self._start += _REQUEST_BYTES
        reply = Send(self._error(cookie, *refusal))
        if command != wire.CMD_WRITE:
            return reply
        if length > wire.DRAIN_BYTES_MAX:
            return self._close(f"a write of {length} bytes")
        return self._drop_then(length, reply)

    def _write(self, cookie: int, offset: int, length: int, fua: bool) -> Event | None:
        body = self._start + _REQUEST_BYTES
        stop = body + length
        if length <= GATHER_BYTES_MAX:
            if self._end < stop:
                return None
            self._start = stop
            return Write(cookie, offset, self._buffer[body:stop], fua)
        self._start = min(stop, self._end)
        self._large_filled = self._start - body
        self._large = Write(cookie, offset, bytearray(length), fua)
        self._large.data[: self._large_filled] = self._view[body : self._start]
        return self._finish_large()

    def _finish_large(self) -> Event | None:
        write = self._large
        if write is not None and self._large_filled == len(write.data):
            self._large = None
            return write
        return None

    def _drop_then(self, count: int, reply: Send) -> Event | None:
        self._skip, self._after_skip = count, reply
        return self._drop()

    def _drop(self) -> Event | None:
        dropped = min(self._skip, self._end - self._start)
        self._start += dropped
        self._skip -= dropped
        if self._skip:
            return None
        reply, self._after_skip = self._after_skip, None
        return reply

    def _close(self, reason: str | None) -> Close:
        self._phase = Phase.CLOSED
        self._start = self._end = 0
        return Close(reason)

    # Replies to bytes -------------------------------------------------------------------------------------

    def data_header(self, request: Read) -> bytes:
        """What goes before the data of a read that succeeded. The caller sends exactly `length` bytes after it."""
        if not self._structured:
            return wire.simple_reply(request.cookie, 0)
        return wire.data_header(request.cookie, request.offset, request.length)

    def done(self, request: Request) -> bytes:
        """Return the reply to a request without data that succeeded."""
        if not self._structured:
            return wire.simple_reply(request.cookie, 0)
        return wire.none_chunk(request.cookie)

    def failed(self, request: Request, error: Error, message: str) -> bytes:
        """Return the reply to a request that failed; `message` travels if replies are structured."""
        return self._error(request.cookie, error, message)

    def _error(self, cookie: int, error: Error, message: str) -> bytes:
        if not self._structured:
            return wire.simple_reply(cookie, error)
        return wire.error_chunk(cookie, error, message)


def _request(command: int, flags: int, cookie: int, offset: int, length: int) -> Request:
    """Build the event of a valid request without payload."""
    if command == wire.CMD_READ:
        return Read(cookie, offset, length)  # always one chunk, so DF asks for nothing more
    if command == wire.CMD_FLUSH:
        return Flush(cookie)
    fua = bool(flags & wire.CMD_FLAG_FUA)
    if command == wire.CMD_TRIM:
        return Trim(cookie, offset, length, fua)
    return WriteZeroes(cookie, offset, length, fua, not flags & wire.CMD_FLAG_NO_HOLE)

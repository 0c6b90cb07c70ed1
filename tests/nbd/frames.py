"""Hand-made NBD frames of the client role, written from the specification and not from `perdure.nbd.wire`.

What a server sends is parsed by `Replies`, strictly: a wrong magic number or length fails the test.
"""

import struct
from dataclasses import dataclass

from perdure.nbd.events import Close, Event, Send
from perdure.nbd.protocol import Connection

GREETING = b"NBDMAGIC" + b"IHAVEOPT" + b"\x00\x03"
FIXED, NO_ZEROES = 1, 2
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META = 1, 2, 3, 5, 6, 7, 8, 9, 10
ACK, SERVER, REP_INFO = 1, 2, 3
ERR_UNSUP, ERR_INVALID, ERR_UNKNOWN, ERR_TOO_BIG = 0x80000001, 0x80000003, 0x80000006, 0x80000009
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16
EIO, EINVAL, ENOSPC, EOVERFLOW, ESHUTDOWN = 5, 22, 28, 75, 108
MIB = 1 << 20


def flags(value=FIXED | NO_ZEROES):
    return struct.pack(">I", value)


def option(number, data=b"", length=None):
    return b"IHAVEOPT" + struct.pack(">II", number, len(data) if length is None else length) + data


def info(name=b"", wanted=()):
    return struct.pack(">I", len(name)) + name + struct.pack(f">H{len(wanted)}H", len(wanted), *wanted)


def queries(*texts, name=b""):
    head = struct.pack(">I", len(name)) + name + struct.pack(">I", len(texts))
    return head + b"".join(struct.pack(">I", len(text)) + text for text in texts)


def request(command, cookie=0, offset=0, length=0, flags=0, data=b"", magic=0x25609513):
    return struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length) + data


def write(cookie, offset, data, flags=0):
    return request(WRITE, cookie, offset, len(data), flags, data)


def opening(structured=True):
    """Everything a client sends to reach the transmission phase."""
    return flags() + (option(STRUCTURED) if structured else b"") + option(GO, info())


@dataclass
class Reply:
    """One reply of the transmission phase; `error` 0 is success."""

    cookie: int
    error: int
    data: bytes = b""
    message: str = ""
    offset: int | None = None


class Replies:
    """Parses a server's bytes. `lengths` maps the cookies of reads to their lengths, for simple replies."""

    def __init__(self, data=b""):
        self.data = data

    def take(self, layout):
        size = struct.calcsize(layout)
        assert len(self.data) >= size, "the server sent too little"
        values = struct.unpack(layout, self.data[:size])
        self.data = self.data[size:]
        return values

    def take_bytes(self, count):
        return self.take(f">{count}s")[0]

    def option(self):
        magic, number, kind, length = self.take(">QIII")
        assert magic == 0x3E889045565A9
        return number, kind, self.take_bytes(length)

    def reply(self, lengths=None):
        (magic,) = self.take(">I")
        if magic == 0x67446698:
            error, cookie = self.take(">IQ")
            length = (lengths or {}).get(cookie, 0)
            return Reply(cookie, error, self.take_bytes(length if not error else 0))
        assert magic == 0x668E33EF
        done, kind, cookie, length = self.take(">HHQI")
        assert done == 1, "the server always answers in one chunk"
        return self._chunk(kind, cookie, self.take_bytes(length))

    @staticmethod
    def _chunk(kind, cookie, body):
        if kind == 0:
            assert body == b""
            return Reply(cookie, 0)
        if kind == 1:
            assert len(body) >= 9
            return Reply(cookie, 0, body[8:], offset=int.from_bytes(body[:8]))
        assert kind == 0x8001
        error, size = struct.unpack(">IH", body[:6])
        assert error
        assert size == len(body) - 6
        return Reply(cookie, error, message=body[6:].decode())


def feed(core: Connection, data: bytes) -> list[Event]:
    """Give `data` to the core in as many steps as it asks for, and take all events."""
    events = []
    view = memoryview(data)
    while view:
        room = core.get_buffer()
        count = min(len(room), len(view))
        assert count, "the core must always have room"
        room[:count] = view[:count]
        core.received(count)
        view = view[count:]
        while (event := core.next_event()) is not None:
            events.append(event)
            if isinstance(event, Close):
                return events
    return events


def sent(events) -> Replies:
    return Replies(b"".join(event.data for event in events if isinstance(event, Send)))

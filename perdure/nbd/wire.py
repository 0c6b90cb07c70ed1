"""NBD on the wire: the numbers of the protocol, our limits, and the packing of what a server sends.

Source: doc/proto.md of the NetworkBlockDevice/nbd repository. Names are that document's without `NBD_`.
All integers are big-endian. Pure packing: nothing here decides.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

# Limits ---------------------------------------------------------------------------------------------------

PAYLOAD_BYTES_MAX: Final = 32 << 20  # what every client may assume of a server that states no other limit
DRAIN_BYTES_MAX: Final = 64 << 20  # a refused payload up to this is read and dropped; beyond it we hang up
OPTION_BYTES_MAX: Final = 64 << 10  # data of one option; room for a dozen strings of the longest kind
OPTION_COUNT_MAX: Final = 128  # options of one connection; real clients send fewer than ten
STRING_BYTES_MAX: Final = 4096  # the specification's bound for names and messages
SECTOR_BYTES: Final = 4096  # what requests should be aligned to for speed; nothing depends on it

# Handshake ------------------------------------------------------------------------------------------------

NBD_MAGIC: Final = 0x4E42444D41474943
OPTION_MAGIC: Final = 0x49484156454F5054
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9

FLAG_FIXED_NEWSTYLE: Final = 1 << 0
FLAG_NO_ZEROES: Final = 1 << 1

GREETING: Final = struct.pack(">QQH", NBD_MAGIC, OPTION_MAGIC, FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)
CLIENT_FLAGS: Final = struct.Struct(">I")
OPTION_HEADER: Final = struct.Struct(">QII")  # magic, option, length


class Option(IntEnum):
    """What a client may ask for before the disk is open."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Rep(IntEnum):
    """How an option is answered."""

    ACK = 1
    SERVER = 2
    INFO = 3
    ERR_UNSUP = 2**31 + 1
    ERR_INVALID = 2**31 + 3
    ERR_UNKNOWN = 2**31 + 6
    ERR_TOO_BIG = 2**31 + 9


class Info(IntEnum):
    """What NBD_REP_INFO carries."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


# Transmission ---------------------------------------------------------------------------------------------

TRANSMISSION_HAS_FLAGS: Final = 1 << 0
TRANSMISSION_SEND_FLUSH: Final = 1 << 2
TRANSMISSION_SEND_FUA: Final = 1 << 3
TRANSMISSION_SEND_TRIM: Final = 1 << 5
TRANSMISSION_SEND_WRITE_ZEROES: Final = 1 << 6
TRANSMISSION_SEND_DF: Final = 1 << 7
TRANSMISSION_CAN_MULTI_CONN: Final = 1 << 8
TRANSMISSION_FLAGS: Final = (  # what every connection is told; SEND_DF comes with structured replies
    TRANSMISSION_HAS_FLAGS
    | TRANSMISSION_SEND_FLUSH
    | TRANSMISSION_SEND_FUA
    | TRANSMISSION_SEND_TRIM
    | TRANSMISSION_SEND_WRITE_ZEROES
    | TRANSMISSION_CAN_MULTI_CONN
)

REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF

# Plain integers, not an enum: every request compares against them.
CMD_READ: Final = 0
CMD_WRITE: Final = 1
CMD_DISC: Final = 2
CMD_FLUSH: Final = 3
CMD_TRIM: Final = 4
CMD_WRITE_ZEROES: Final = 6

CMD_FLAG_FUA: Final = 1 << 0
CMD_FLAG_NO_HOLE: Final = 1 << 1
CMD_FLAG_DF: Final = 1 << 2

REQUEST: Final = struct.Struct(">IHHQQI")  # magic, flags, command, cookie, offset, length
SIMPLE_REPLY: Final = struct.Struct(">IIQ")  # magic, error, cookie
CHUNK: Final = struct.Struct(">IHHQI")  # magic, flags, type, cookie, length
DATA_CHUNK: Final = struct.Struct(">IHHQIQ")  # the same and the offset

CHUNK_FLAG_DONE: Final = 1 << 0
CHUNK_NONE: Final = 0
CHUNK_OFFSET_DATA: Final = 1
CHUNK_ERROR: Final = 2**15 + 1


class Error(IntEnum):
    """Error values of the transmission phase."""

    EIO = 5
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ESHUTDOWN = 108


def option_reply(option: int, kind: Rep, data: bytes = b"") -> bytes:
    """One reply to an option; `option` is echoed even if it is none of ours."""
    return struct.pack(">QIII", OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def simple_reply(cookie: int, error: int) -> bytes:
    """Answer a request of a client without structured replies; the data of a successful read follows it."""
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, cookie)


def none_chunk(cookie: int) -> bytes:
    """Answer with success and no data, structured."""
    return CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_FLAG_DONE, CHUNK_NONE, cookie, 0)


def data_header(cookie: int, offset: int, length: int) -> bytes:
    """Begin the one chunk that answers a read; exactly `length` bytes of data follow it."""
    return DATA_CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_FLAG_DONE, CHUNK_OFFSET_DATA, cookie, 8 + length, offset)


def error_chunk(cookie: int, error: Error, message: str) -> bytes:
    """The only chunk of a structured reply that failed; a message over the specification's bound is cut."""
    text = message.encode()[:STRING_BYTES_MAX].decode(errors="ignore").encode()
    head = CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_FLAG_DONE, CHUNK_ERROR, cookie, 6 + len(text))
    return head + struct.pack(">IH", error, len(text)) + text

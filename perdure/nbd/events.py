"""What an NBD connection tells its shell: bytes to send, requests to carry out, the end.

Requests are already valid: known flags, a range inside the export, a length within the limits. `cookie` is the
client's own number for the request and means nothing to us.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes for the client: an answer that needs no backend."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Nothing more will come. `reason` is None after a clean goodbye, else what the client did wrong."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class Read:
    """NBD_CMD_READ of `length` bytes at `offset`."""

    cookie: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Write:
    """NBD_CMD_WRITE of `data`, which belongs to this request alone."""

    cookie: int
    offset: int
    data: bytearray
    fua: bool


@dataclass(frozen=True, slots=True)
class Flush:
    """NBD_CMD_FLUSH."""

    cookie: int


@dataclass(frozen=True, slots=True)
class Trim:
    """NBD_CMD_TRIM of `length` bytes at `offset`."""

    cookie: int
    offset: int
    length: int
    fua: bool


@dataclass(frozen=True, slots=True)
class WriteZeroes:
    """NBD_CMD_WRITE_ZEROES of `length` bytes at `offset`; `may_trim` unless the client said NO_HOLE."""

    cookie: int
    offset: int
    length: int
    fua: bool
    may_trim: bool


Request = Read | Write | Flush | Trim | WriteZeroes
Event = Send | Close | Request

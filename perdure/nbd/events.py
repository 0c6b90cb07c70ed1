"""What an NBD connection tells its shell: bytes to send, requests to carry out, the end.

Requests are already valid: known flags, a range inside the export, a length within the limits. `cookie` is the
client's own number for the request and means nothing to us. Tuples, as they are made a hundred thousand times a second.
"""

from __future__ import annotations

from typing import NamedTuple


class Send(NamedTuple):
    """Bytes for the client: an answer that needs no backend."""

    data: bytes


class Close(NamedTuple):
    """Nothing more will come. `reason` is None after a clean goodbye, else what the client did wrong."""

    reason: str | None


class Read(NamedTuple):
    """NBD_CMD_READ of `length` bytes at `offset`."""

    cookie: int
    offset: int
    length: int


class Write(NamedTuple):
    """NBD_CMD_WRITE of `data`, which belongs to this request alone."""

    cookie: int
    offset: int
    data: bytearray
    fua: bool


class Flush(NamedTuple):
    """NBD_CMD_FLUSH."""

    cookie: int


class Trim(NamedTuple):
    """NBD_CMD_TRIM of `length` bytes at `offset`."""

    cookie: int
    offset: int
    length: int
    fua: bool


class WriteZeroes(NamedTuple):
    """NBD_CMD_WRITE_ZEROES of `length` bytes at `offset`; `may_trim` unless the client said NO_HOLE."""

    cookie: int
    offset: int
    length: int
    fua: bool
    may_trim: bool


Request = Read | Write | Flush | Trim | WriteZeroes
Event = Send | Close | Request

"""Where an NBD connection stands between two bytes, as a value: what another program needs to go on with it. Core.

A connection is carried when all that was asked for is answered and sent, so what is left is what was negotiated and
the bytes that came and were not yet used. Those may be plaintext, so whoever keeps a `Carried` keeps it in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from perdure.errors import Misuse
from perdure.nbd.events import Write
from perdure.nbd.wire import PAYLOAD_BYTES_MAX


class Phase(Enum):
    """Where a connection is; see the theory of operation in `perdure.nbd.protocol`."""

    FLAGS = "waiting for the client's flags"
    HAGGLING = "options"
    GOODBYE = "the answer to ABORT is out, Close is next"
    TRANSMISSION = "requests"
    CLOSED = "nothing more is taken"


@dataclass(frozen=True, slots=True)
class Carried:
    """One connection. The buffers are not copied: they are to be written out at once."""

    phase: Phase
    no_zeroes: bool
    structured: bool
    options_count: int
    unread: memoryview | bytes
    """What arrived and was not yet used: less than one request or option, unless the shell was full."""
    skip: int
    """How many bytes of a refused payload are still to be dropped ..."""
    after_skip: bytes | None
    """... and the reply that is due then."""
    large: Write | None
    """The write whose payload is being received in place ..."""
    large_filled: int
    """... and how much of it came."""

    def head(self) -> dict[str, Any]:
        """All but the bytes, for JSON."""
        large = self.large
        return {
            "phase": self.phase.name,
            "no_zeroes": self.no_zeroes,
            "structured": self.structured,
            "options_count": self.options_count,
            "unread": len(self.unread),
            "skip": self.skip,
            "after_skip": None if self.after_skip is None else len(self.after_skip),
            "large": None if large is None else [large.cookie, large.offset, len(large.data), large.fua],
            "large_filled": self.large_filled,
        }

    def blobs(self) -> list[memoryview | bytes]:
        """The bytes, in the order in which `decode` takes them."""
        payload = b"" if self.large is None else memoryview(self.large.data)[: self.large_filled]
        return [self.unread, self.after_skip or b"", payload]

    @classmethod
    def decode(cls, head: Mapping[str, Any], take: Callable[[int], bytes]) -> Carried:
        """Read one back; `take` gives the next so many bytes. Raises Misuse for what `head` never wrote."""
        try:
            return cls(
                phase=Phase[head["phase"]],
                no_zeroes=bool(head["no_zeroes"]),
                structured=bool(head["structured"]),
                options_count=int(head["options_count"]),
                unread=take(head["unread"]),
                skip=int(head["skip"]),
                after_skip=None if head["after_skip"] is None else take(head["after_skip"]),
                large=(large := _large(head, take)),
                large_filled=0 if large is None else int(head["large_filled"]),
            )
        except (KeyError, TypeError, ValueError):
            raise Misuse("A client was handed over in a form that this program does not know.") from None


def _large(head: Mapping[str, Any], take: Callable[[int], bytes]) -> Write | None:
    if head["large"] is None:
        return None
    cookie, offset, length, fua = head["large"]
    filled = head["large_filled"]
    if not 0 <= filled <= length <= PAYLOAD_BYTES_MAX:
        raise ValueError
    write = Write(cookie, offset, bytearray(length), fua)
    write.data[:filled] = take(filled)
    return write

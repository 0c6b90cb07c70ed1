"""NBD option haggling as a server: one option in, its answer out. Core.

There is one export. It goes by its name and by the empty name, which the protocol calls the default. There is no
TLS and there are no metadata contexts; both are answered as the specification wants of a server without them.
Malformed option data is refused option by option; only what cannot be answered ends the connection.

Source: doc/proto.md of the NetworkBlockDevice/nbd repository, "Option types".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum

from perdure.errors import Misuse
from perdure.nbd import wire
from perdure.nbd.wire import Info, Option, Rep, option_reply


@dataclass(frozen=True, slots=True)
class Export:
    """The disk on offer. `name` is at most 4096 bytes of UTF-8, `size_bytes` is in (0, 2**63)."""

    name: bytes
    description: bytes
    size_bytes: int

    def __post_init__(self) -> None:
        if len(self.name) > wire.STRING_BYTES_MAX:
            raise Misuse(f"An NBD export name has at most {wire.STRING_BYTES_MAX} bytes; choose a shorter one.")
        if not 0 < self.size_bytes < 2**63:
            raise Misuse(f"An NBD export cannot have {self.size_bytes} bytes; the size must be in 1 to 2^63 - 1.")

    def answers_to(self, name: bytes) -> bool:
        """Whether a client that asks for `name` means this export."""
        return name in (b"", self.name)


class Then(Enum):
    """What follows an answered option."""

    HAGGLE = "the next option"
    TRANSMIT = "the transmission phase"
    GOODBYE = "an orderly end, once the answer is sent"
    HANG_UP = "the end, because there is no way to answer"


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes that answer an option, and what follows them; `reason` says why we hang up."""

    data: bytes
    then: Then = Then.HAGGLE
    reason: str | None = None


class Handshake:
    """The state that options change: whether replies are structured, and how many options came."""

    def __init__(self, export: Export, *, no_zeroes: bool, structured: bool = False, options_count: int = 0) -> None:
        self.structured = structured
        self.no_zeroes = no_zeroes
        self.options_count = options_count
        self._export = export

    def answer(self, option: int, data: bytes) -> Answer:
        """Answer one complete option. Never raises on what a client sent."""
        self.options_count += 1
        if self.options_count > wire.OPTION_COUNT_MAX:
            return Answer(b"", Then.HANG_UP, f"more than {wire.OPTION_COUNT_MAX} options")
        if option == Option.EXPORT_NAME:
            return self._export_name(data)
        if option == Option.ABORT:
            return Answer(option_reply(option, Rep.ACK), Then.GOODBYE)
        try:
            return self._answerable(option, data)
        except Misuse as error:
            return Answer(option_reply(option, Rep.ERR_INVALID, str(error).encode()))

    def _answerable(self, option: int, data: bytes) -> Answer:
        match option:
            case Option.INFO | Option.GO:
                return self._info(option, data)
            case Option.LIST:
                _refuse_data(data)
                entry = struct.pack(">I", len(self._export.name)) + self._export.name
                return Answer(option_reply(option, Rep.SERVER, entry) + option_reply(option, Rep.ACK))
            case Option.STRUCTURED_REPLY:
                _refuse_data(data)
                self.structured = True
                return Answer(option_reply(option, Rep.ACK))
            case Option.LIST_META_CONTEXT | Option.SET_META_CONTEXT:
                return self._meta_context(option, data)
            case Option.STARTTLS:
                text = b"There is no TLS here; use a Unix socket or a tunnel."
                return Answer(option_reply(option, Rep.ERR_UNSUP, text))
            case _:
                return Answer(option_reply(option, Rep.ERR_UNSUP, b"This server does not know the option."))

    def _export_name(self, name: bytes) -> Answer:
        if not self._export.answers_to(name):
            return Answer(b"", Then.HANG_UP, "an export that is not here, by an option that has no error reply")
        padding = b"" if self.no_zeroes else bytes(124)
        return Answer(struct.pack(">QH", self._export.size_bytes, self._flags()) + padding, Then.TRANSMIT)

    def _info(self, option: int, data: bytes) -> Answer:
        name, rest = _take_string(memoryview(data))
        (count,), rest = _take(">H", rest)
        if len(rest) != 2 * count:
            raise Misuse("The list of information requests does not have the length it states.")
        if not self._export.answers_to(name):
            return self._unknown(option)
        wanted = set(struct.unpack(f">{count}H", rest))
        items = [item for kind, item in self._items() if kind is Info.EXPORT or kind in wanted]
        replies = b"".join(option_reply(option, Rep.INFO, item) for item in items)
        then = Then.TRANSMIT if option == Option.GO else Then.HAGGLE
        return Answer(replies + option_reply(option, Rep.ACK), then)

    def _items(self) -> list[tuple[Info, bytes]]:
        export = self._export
        return [
            (Info.EXPORT, struct.pack(">HQH", Info.EXPORT, export.size_bytes, self._flags())),
            (Info.NAME, struct.pack(">H", Info.NAME) + export.name),
            (Info.DESCRIPTION, struct.pack(">H", Info.DESCRIPTION) + export.description),
            (Info.BLOCK_SIZE, struct.pack(">HIII", Info.BLOCK_SIZE, 1, wire.SECTOR_BYTES, wire.PAYLOAD_BYTES_MAX)),
        ]

    def _meta_context(self, option: int, data: bytes) -> Answer:
        """Check the request in full, then offer nothing: an ACK without contexts."""
        if not self.structured:
            raise Misuse("Metadata contexts need structured replies, which were not negotiated.")
        name, rest = _take_string(memoryview(data))
        (count,), rest = _take(">I", rest)
        for _ in range(count):  # ends early: every query takes at least four bytes of a bounded option
            _, rest = _take_string(rest)
        if rest:
            raise Misuse("There are bytes after the last metadata query.")
        if not self._export.answers_to(name):
            return self._unknown(option)
        return Answer(option_reply(option, Rep.ACK))

    def _unknown(self, option: int) -> Answer:
        text = b"There is no export of that name; ask for '" + self._export.name + b"' or the default."
        return Answer(option_reply(option, Rep.ERR_UNKNOWN, text[: wire.STRING_BYTES_MAX]))

    def _flags(self) -> int:
        """What the backend honours. FAST_ZERO is absent: a backend does not say how quick its zeros are."""
        flags = wire.TRANSMISSION_FLAGS
        return flags | wire.TRANSMISSION_SEND_DF if self.structured else flags


def _refuse_data(data: bytes) -> None:
    if data:
        raise Misuse("This option takes no data.")


# A view and not bytes: sixteen thousand empty queries fit into one option, and each step would copy the rest.


def _take(layout: str, data: memoryview) -> tuple[tuple[int, ...], memoryview]:
    size = struct.calcsize(layout)
    if len(data) < size:
        raise Misuse("The option data ends early.")
    return struct.unpack_from(layout, data), data[size:]


def _take_string(data: memoryview) -> tuple[bytes, memoryview]:
    (length,), rest = _take(">I", data)
    if length > wire.STRING_BYTES_MAX:
        raise Misuse(f"A string has {length} bytes; at most {wire.STRING_BYTES_MAX} are allowed.")
    if length > len(rest):
        raise Misuse("The option data ends early.")
    return bytes(rest[:length]), rest[length:]

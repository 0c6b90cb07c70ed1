"""Protobuf by hand, field by field from `vss.proto`, so that a slip in the server's own table is seen.

Written after https://protobuf.dev/programming-guides/encoding: varints (type 0) and lengths (type 2) are all that
VSS has.
"""

from __future__ import annotations


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def data(field: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def key_value(key: str, version: int, value: bytes = b"") -> bytes:
    return data(1, key) + number(2, version) + data(3, value)


def fields(raw: bytes) -> dict[int, list[int | bytes]]:
    """Each field's values, by its number."""
    found: dict[int, list[int | bytes]] = {}
    at = 0

    def read() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = raw[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value - (1 << 64) if value >> 63 else value

    while at < len(raw):
        tag = read()
        value: int | bytes = read()
        if tag & 7 == 2:
            assert isinstance(value, int)
            value, at = raw[at : at + value], at + value
        found.setdefault(tag >> 3, []).append(value)
    return found

"""A decoder for the CBOR (RFC 8949) that attestation documents use; pure, total and bounded.

Trusts nothing: whatever the bytes, the result is a value or `MalformedEvidence`. Refuses trailing bytes, duplicate
map keys, chunked strings, keys that are not integers, text or bytes, and deep nesting. Accepts maps and arrays of
definite and indefinite length, since Nitro changed from one to the other in 2025.

Why not a general library: those give meaning to tags (dates, patterns, shared references), keep the last of two
equal keys or stop at the first value. Here a tag or a float is legal and means nothing: it decodes to `OPAQUE`, so
that a field added later does not break old readers, and can never pass for a value that is looked at.
"""

from __future__ import annotations

from typing import Final

from perdure.errors import MalformedEvidence


class Opaque:
    """The type of `OPAQUE`: a well-formed value whose meaning is not looked at."""

    __slots__ = ()


OPAQUE: Final = Opaque()

Key = int | str | bytes
Value = int | str | bytes | bool | list["Value"] | dict[Key, "Value"] | Opaque | None

DEPTH_MAX: Final = 8
_BREAK: Final = 0xFF
_INDEFINITE: Final = 31
_SIMPLE: Final[dict[int, Value]] = {20: False, 21: True, 22: None}


def decode(data: bytes) -> Value:
    """Return the one value that `data` holds; raise MalformedEvidence if it is not exactly one."""
    try:
        value, end = _value(data, 0, 0)
    except IndexError:
        raise MalformedEvidence("The evidence's CBOR is cut short.") from None
    except UnicodeDecodeError:
        raise MalformedEvidence("The evidence's CBOR holds text that is not UTF-8.") from None
    if end != len(data):
        raise MalformedEvidence(f"The evidence's CBOR has {len(data) - end} bytes after its end.")
    return value


def _value(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    major, info = data[at] >> 5, data[at] & 31
    if info == _INDEFINITE:
        return _indefinite(data, at, major, depth)
    argument, at = _argument(data, at + 1, info)
    if major in (2, 3):
        return _string(data, at, argument, major)
    if major in (0, 1):
        return (argument if major == 0 else -1 - argument), at
    if major == 7:
        return _SIMPLE.get(info, OPAQUE), at
    _check_depth(depth)
    if major == 6:  # a tag: its content must be well formed, no more
        return OPAQUE, _value(data, at, depth + 1)[1]
    return (_array if major == 4 else _map)(data, at, argument, depth)


def _string(data: bytes, at: int, length: int, major: int) -> tuple[bytes | str, int]:
    end = at + length
    if end > len(data):
        raise IndexError
    return (data[at:end] if major == 2 else str(data[at:end], "utf-8")), end


def _argument(data: bytes, at: int, info: int) -> tuple[int, int]:
    if info < 24:
        return info, at
    if info > 27:
        raise MalformedEvidence(f"The evidence's CBOR has the reserved length code {info}.")
    end = at + (1 << (info - 24))
    if end > len(data):
        raise IndexError
    return int.from_bytes(data[at:end], "big"), end


def _check_depth(depth: int) -> None:
    if depth >= DEPTH_MAX:
        raise MalformedEvidence(f"The evidence's CBOR is nested more than {DEPTH_MAX} deep.")


def _indefinite(data: bytes, at: int, major: int, depth: int) -> tuple[Value, int]:
    if major not in (4, 5):
        raise MalformedEvidence("The evidence's CBOR has an indefinite length where only arrays and maps may have one.")
    _check_depth(depth)
    return (_array if major == 4 else _map)(data, at + 1, None, depth)


def _array(data: bytes, at: int, count: int | None, depth: int) -> tuple[Value, int]:
    values: list[Value] = []
    while len(values) != count:
        if count is None and data[at] == _BREAK:
            return values, at + 1
        value, at = _value(data, at, depth + 1)
        values.append(value)
    return values, at


def _map(data: bytes, at: int, count: int | None, depth: int) -> tuple[Value, int]:
    entries: dict[Key, Value] = {}
    while len(entries) != count:
        if count is None and data[at] == _BREAK:
            return entries, at + 1
        key, at = _value(data, at, depth + 1)
        # `type` and not isinstance: True would be found equal to the key 1.
        if type(key) not in (int, str, bytes):
            raise MalformedEvidence("The evidence's CBOR has a map key that is neither integer, text nor bytes.")
        if key in entries:
            raise MalformedEvidence(f"The evidence's CBOR has the map key {key!r:.40} twice.")
        entries[key], at = _value(data, at, depth + 1)  # type: ignore[index]
    return entries, at

"""BER in, DER out, as far as CMS messages need it (ITU-T X.690, 8.1 and 10): so that one strict parser reads the rest.

Senders who stream write lengths as "until the end marker", and a string in pieces. Both are rewritten here, lengths in
their shortest form; nothing is interpreted, and what is not DER for other reasons stays so, for the parser to refuse.
Whatever the bytes, the result is bytes or ValueError; nesting is bounded, and the work is linear in size times depth.
"""

from __future__ import annotations

from typing import Final

DEPTH_MAX: Final = 16
_CONSTRUCTED: Final = 0x20
_LONG_TAG: Final = 0x1F
_INDEFINITE: Final = 0x80
_END: Final = b"\0\0"
_LENGTH_BYTES_MAX: Final = 4
_OCTET_STRING: Final = 0x04
_PIECES: Final = 0xA0

Element = tuple[int, bytes]
"""Tag and content, the content in DER."""


def to_der(data: bytes) -> bytes:
    """Return the one element that `data` is, with definite lengths. Raises ValueError if it is not exactly one.

    A constructed [0] that holds nothing but octet strings becomes one primitive [0]: an IMPLICIT OCTET STRING in
    pieces, as CMS's encryptedContent. An EXPLICIT [0] around one octet string would look the same; there CMS has none.
    """
    element, end = _element(data, 0, 0)
    if end != len(data):
        raise ValueError("bytes after the end")
    return _encode(element)


def _element(data: bytes, at: int, depth: int) -> tuple[Element, int]:
    """The element at `at` and where it ends."""
    tag, first = data[at : at + 2]  # a ValueError if they are not there
    if tag & _LONG_TAG == _LONG_TAG or depth > DEPTH_MAX:
        raise ValueError("a long tag, or too deep")
    at += 2
    if first == _INDEFINITE:
        if not tag & _CONSTRUCTED:
            raise ValueError("a primitive element without a length")
        parts, end = _until_end(data, at, depth + 1)
        return (_joined(tag, parts), end)
    length, at = _length(data, at, first)
    content = data[at : at + length]
    if len(content) != length:
        raise ValueError("cut short")
    if tag & _CONSTRUCTED:
        return (_joined(tag, _all(content, depth + 1)), at + length)
    return ((tag, content), at + length)


def _length(data: bytes, at: int, first: int) -> tuple[int, int]:
    """The length whose first byte is `first`, and where the content begins."""
    if first < _INDEFINITE:
        return first, at
    count = first & ~_INDEFINITE
    if count > _LENGTH_BYTES_MAX or at + count > len(data):
        raise ValueError("a length that cannot be")
    return int.from_bytes(data[at : at + count], "big"), at + count


def _all(content: bytes, depth: int) -> list[Element]:
    parts, at = [], 0
    while at < len(content):
        part, at = _element(content, at, depth)
        parts.append(part)
    return parts


def _until_end(data: bytes, at: int, depth: int) -> tuple[list[Element], int]:
    parts = []
    while data[at : at + len(_END)] != _END:
        part, at = _element(data, at, depth)
        parts.append(part)
    return parts, at + len(_END)


def _joined(tag: int, parts: list[Element]) -> Element:
    if tag == _PIECES and parts and all(kind == _OCTET_STRING for kind, _ in parts):
        return tag & ~_CONSTRUCTED, b"".join(content for _, content in parts)
    return tag, b"".join(map(_encode, parts))


def _encode(element: Element) -> bytes:
    tag, content = element
    length = len(content)
    if length < _INDEFINITE:
        return bytes((tag, length)) + content
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, _INDEFINITE | len(digits))) + digits + content

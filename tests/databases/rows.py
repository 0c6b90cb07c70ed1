"""What the key-value databases hold: row N at the key of N, and its content, which everybody can compute."""

from __future__ import annotations

from collections.abc import Iterable

from tests.system import sqlite_writer

BUSY_EVERY = sqlite_writer.BUSY_EVERY
CONTENT_BYTES_MAX = 2000


def key(number: int) -> bytes:
    """In the order of numbers."""
    return b"%012d" % number


def content(number: int) -> bytes:
    """From some bytes to half a page."""
    return sqlite_writer.content(number)[:CONTENT_BYTES_MAX]


def count(rows: Iterable[tuple[bytes, bytes]]) -> int:
    """N, if they are rows 1 to N, in order, each with its content. Raises AssertionError."""
    number = 0
    for number, (found, held) in enumerate(rows, 1):
        assert found == key(number), f"{found!r} is where row {number} should be"
        assert held == content(number), f"row {number} has another content"
    return number

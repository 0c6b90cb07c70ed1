"""Reads POSIX ustar archives (IEEE Std 1003.1, pax, "ustar Interchange Format"), files and directories only.

A parser of its own because the archive is the host's until its digest is known: extensions (pax headers, GNU long
names, sparse files, links) are where parsers were fooled, and a program needs none of them. Whatever bytes come, only
Misuse is raised; the work is linear in their number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from perdure.errors import Misuse

BLOCK: Final = 512
PATH_BYTES_MAX: Final = 256
"""What the header has room for: a prefix of 155, a slash and a name of 100."""
_MAGIC: Final = b"ustar\x0000"
_NUMBER: Final = re.compile(rb" *([0-7]+)[ \0]*")
_HINT: Final = "make it with `tar --format=ustar`"


@dataclass(frozen=True, slots=True)
class Member:
    """One entry, its path as it stands there but without `./` in front and a directory's `/`; `.` for the root."""

    path: str
    is_directory: bool
    is_executable: bool
    contents: memoryview


def members(archive: bytes) -> Iterator[Member]:
    """The archive's entries in order. Raises Misuse, naming the entry, at the first that is not allowed."""
    view, at = memoryview(archive), 0
    while True:
        header = archive[at : at + BLOCK]
        if len(header) != BLOCK:
            raise Misuse(f"The tarball is cut short after {at} bytes.")
        if not any(header):
            break
        path = _path(header, at)
        size = _size(header, path)
        end = at + BLOCK + size
        if end > len(archive):
            raise Misuse(f"The tarball is cut short within {path!a:.300}.")
        yield _member(header, path, view[at + BLOCK : end])
        at = -(-end // BLOCK) * BLOCK
    if archive.count(0, at) != len(archive) - at:
        raise Misuse(f"The tarball goes on behind its end, at byte {at}.")


def _path(header: bytes, at: int) -> str:
    if header[257:265] != _MAGIC:
        raise Misuse(f"The tarball has at byte {at} no header of the plain ustar format; {_HINT}.")
    if _number(header[148:156]) != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
        raise Misuse(f"The tarball has at byte {at} a header with a wrong checksum.")
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix else name


def _size(header: bytes, path: str) -> int:
    size = _number(header[124:136])
    if size is None:
        raise Misuse(f"In the tarball {path!a:.300} has no size.")
    return size


def _member(header: bytes, path: str, contents: memoryview) -> Member:
    kind, mode = header[156:157], _number(header[100:108])
    if kind not in (b"0", b"\0", b"5"):
        raise Misuse(
            f"In the tarball {path!a:.300} is neither a file nor a directory (type {kind!a}); links, devices and "
            f"extended headers are not allowed: copy with `cp -rL`, and {_HINT}."
        )
    is_directory = kind == b"5"
    if mode is None or (is_directory and contents):
        raise Misuse(f"In the tarball the header of {path!a:.300} is malformed.")
    plain = (path.removesuffix("/") if is_directory else path).removeprefix("./")
    return Member(plain, is_directory, bool(mode & 0o100), contents)


def _number(field: bytes) -> int | None:
    match = _NUMBER.fullmatch(field)
    return None if match is None else int(match[1], 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")

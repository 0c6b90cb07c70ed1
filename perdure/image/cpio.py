"""Ramdisks as deterministic "newc" cpio archives (Linux, Documentation/driver-api/early-userspace/buffer-format).

`pack` has no choices: sorted names, each directory before its contents, no times, owners or devices; a file may be
executed exactly if it starts as a program or a script does. `unpack` reads only what `pack` writes, so two archives
with the same files are the same bytes, and nothing can hide in padding, in order, in a link or in a name that leaves
the directory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from perdure.errors import Misuse

_MAGIC: Final = b"070701"
_HEADER_BYTES: Final = 110
_TRAILER: Final = "TRAILER!!!"
_FILE_MODE: Final = 0o100644
_EXECUTABLE_MODE: Final = 0o100755
_EXECUTABLE_STARTS: Final = (b"\x7fELF", b"#!")
_DIRECTORY_MODE: Final = 0o040755
_PART: Final = re.compile(r"[A-Za-z0-9_.+-]{1,100}")
_NAME_CHARS_MAX: Final = 200


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the archive of `files`: relative path (parts joined by "/") to contents; directories are implied.

    Raises Misuse for a path that is empty, absolute, leaves the directory, is both file and directory, or has
    characters outside of A-Z a-z 0-9 _ . + -.
    """
    directories = {parent for name in files for parent in _parents(name)}
    if both := sorted(directories & files.keys()):
        raise Misuse(f"The archive would hold {both[0]!r} both as a file and as a directory.")
    records = []
    for number, name in enumerate(sorted(directories | files.keys()), start=1):
        if name in directories:
            records.append(_record(name, number, _DIRECTORY_MODE, 2, b""))
        else:
            mode = _EXECUTABLE_MODE if files[name].startswith(_EXECUTABLE_STARTS) else _FILE_MODE
            records.append(_record(name, number, mode, 1, files[name]))
    return b"".join(records) + _record(_TRAILER, 0, 0, 1, b"")


def unpack(archive: bytes) -> dict[str, bytes]:
    """Return the files of an archive; raise Misuse unless it is exactly what `pack` makes of them."""
    files: dict[str, bytes] = {}
    at = 0
    while True:
        name, mode, contents, at = _read(archive, at)
        if name == _TRAILER:
            break
        if mode != _DIRECTORY_MODE:
            files[name] = contents
    if pack(files) != archive:
        raise Misuse("The ramdisk is a cpio archive, but not one that this program makes.")
    return files


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    if name == _TRAILER or len(name) > _NAME_CHARS_MAX or not all(_is_part(part) for part in parts):
        raise Misuse(f"{name!r:.80} is not a path that an archive may hold.")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _is_part(part: str) -> bool:
    return part not in (".", "..") and _PART.fullmatch(part) is not None


def _record(name: str, number: int, mode: int, links: int, contents: bytes) -> bytes:
    # inode, mode, uid, gid, links, mtime, size, device (2), its own device (2), name length, checksum (unused)
    fields = (number, mode, 0, 0, links, 0, len(contents), 0, 0, 0, 0, len(name) + 1, 0)
    header = _MAGIC + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name.encode("ascii") + b"\0") + _padded(contents)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _read(archive: bytes, at: int) -> tuple[str, int, bytes, int]:
    header = archive[at : at + _HEADER_BYTES]
    if not re.fullmatch(rb"070701[0-9A-F]{104}", header):
        raise Misuse("The ramdisk is not an uncompressed newc cpio archive, or it is cut short.")
    mode, size, name_bytes = (int(header[start : start + 8], 16) for start in (14, 54, 94))
    name_at = at + _HEADER_BYTES
    contents_at = name_at + name_bytes + -(_HEADER_BYTES + name_bytes) % 4
    contents = archive[contents_at : contents_at + size]
    name = archive[name_at : name_at + name_bytes].rstrip(b"\0").decode("ascii", "replace")
    return name, mode, contents, contents_at + size + -size % 4

"""Connections to the databases of a volume."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from perdure.errors import Misuse
from perdure.sqlite.vfs import VolumeVFS
from perdure.volume.record import check_name
from perdure.volume.volume import Volume

BUSY_MS = 5000
"""How long a connection waits for another one's lock."""
_SETTINGS = ("temp_store=MEMORY", "synchronous=FULL", "secure_delete=ON")
_WAL_SETTINGS = ("locking_mode=EXCLUSIVE", "journal_mode=WAL")
_MAGIC = b"SQLite format 3\0"
_LONGEST_SUFFIX = "-mj012345678"  # a super-journal's: the longest that SQLite adds to a database's name
_guard = threading.Lock()
_users: dict[Volume, tuple[VolumeVFS, int]] = {}
"""The file system of each volume that has connections, and how many: they must share its locks."""


@contextmanager
def connect(volume: Volume, name: str, *, wal: bool = False) -> Iterator[apsw.Connection]:
    """A connection to the database `name`, which is made if it is not there; closed when the block ends.

    A commit that returned is durable, as `Volume.sync` has it, with `synchronous` FULL, which is the default here, or
    EXTRA. Temporary tables and files stay in memory. What is deleted is overwritten (`secure_delete`). Several
    connections, also to one database, may be open, each used by one thread at a time.

    `wal`: keep a write-ahead log: one flush for each commit instead of two, one connection to this database alone.
    Raises Misuse for a name that does not fit, and for a database with such a log unless `wal` is true. What fails
    while it is used is an `apsw.Error`; `perdure.sqlite.files.ArrayError` for what the array or the volume raises.
    """
    _check(volume, name, wal=wal)
    with _file_system(volume) as vfs:
        connection = apsw.Connection(name, vfs=vfs.name)
        try:
            connection.set_busy_timeout(BUSY_MS)
            for setting in (_WAL_SETTINGS if wal else ()) + _SETTINGS:
                connection.execute(f"PRAGMA {setting}").fetchall()
            yield connection
        finally:
            connection.close()


def databases(volume: Volume) -> list[str]:
    """The names of all SQLite databases in a volume, sorted; other files are left out."""
    return [name for name in volume.names if _header(volume, name).startswith(_MAGIC)]


def _header(volume: Volume, name: str) -> bytes:
    """The first 20 bytes: magic, page size, and how it is written and read, 2 with a write-ahead log
    (https://www.sqlite.org/fileformat.html, section 1.3).
    """
    return volume.read(volume.file(name), 0, 20)


def _check(volume: Volume, name: str, *, wal: bool) -> None:
    if not name or name.startswith((":", "file:")):
        raise Misuse(
            f"{name!r} cannot be a database's name: SQLite takes what is empty or starts with ':' or 'file:' for something "
            "else. Nothing was changed; choose another."
        )
    check_name(name + _LONGEST_SUFFIX)
    if not wal and name in volume and _header(volume, name)[18:20] == b"\2\2":
        raise Misuse(
            f"The database {name!r} was left with a write-ahead log; nothing was changed. Connect with `wal=True`; "
            "`PRAGMA journal_mode=DELETE` there gives the log up."
        )


@contextmanager
def _file_system(volume: Volume) -> Iterator[VolumeVFS]:
    """The volume's, registered as long as somebody uses it."""
    with _guard:
        vfs, count = _users.get(volume) or (VolumeVFS(volume), 0)
        _users[volume] = vfs, count + 1
    try:
        yield vfs
    finally:
        with _guard:
            vfs, count = _users.pop(volume)
            if count > 1:
                _users[volume] = vfs, count - 1
            else:
                vfs.unregister()

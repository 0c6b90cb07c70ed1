"""A virtual file system for SQLite over a volume (https://www.sqlite.org/vfs.html)."""

from __future__ import annotations

import secrets
import time

import apsw

from perdure.sqlite.files import MemoryFile, VolumeFile, told_to_sqlite
from perdure.sqlite.locks import Locks
from perdure.volume.volume import Volume

_KEPT = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
"""What belongs to a database. All else is temporary, and stays in memory."""


class VolumeVFS(apsw.VFS):
    """Registered under a name of its own until `unregister`. Of the host's file system only its clock and its
    randomness are used.
    """

    def __init__(self, volume: Volume) -> None:
        self.name = f"perdure-{secrets.token_hex(8)}"
        self._volume = volume
        self._locks: dict[str, Locks] = {}
        super().__init__(self.name, base="")

    def xFullPathname(self, name: str) -> str:
        """The name itself: a volume has no folders."""
        return name

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        """A file of the volume, made if SQLite asks for that; a temporary one in memory. Raises ArrayError."""
        wanted = flags[0]
        flags[1] = wanted
        if name is None or not wanted & _KEPT:
            return MemoryFile()
        text = name.filename() if isinstance(name, apsw.URIFilename) else name
        with told_to_sqlite():
            if text not in self._volume and not wanted & apsw.SQLITE_OPEN_CREATE:
                raise apsw.CantOpenError(f"the volume has no file {text!r}")
            file = self._volume.file(text) if text in self._volume else self._volume.create(text)
        return VolumeFile(self._volume, file, self._locks.setdefault(text, Locks()))

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Delete and wipe a file, and return when that is durable. Raises ArrayError.

        Whether SQLite asks for durability or not: to delete the journal is what commits a transaction, and with
        `synchronous=FULL` it does not ask. A commit that returned must not be undone by a crash.
        """
        del syncdir
        with told_to_sqlite():
            if filename not in self._volume:
                raise apsw.exception_for(apsw.SQLITE_IOERR_DELETE_NOENT)
            self._volume.delete(filename)
            self._volume.sync()

    def xAccess(self, pathname: str, flags: int) -> bool:
        """Whether there is such a file. Raises ArrayError."""
        del flags
        with told_to_sqlite():
            return pathname in self._volume

    def xSleep(self, microseconds: int) -> int:
        """Wait for another connection's lock, as long as SQLite says, while other threads run.

        The method of the same name that `apsw` would call keeps Python's interpreter lock: nobody could give a lock
        back meanwhile, nor could the array answer.
        """
        time.sleep(microseconds / 1e6)
        return microseconds

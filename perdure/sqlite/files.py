"""What SQLite opens: files of a volume, and temporary ones in memory (https://www.sqlite.org/c3ref/io_methods.html)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from perdure.array.geometry import SECTOR_BYTES
from perdure.array.ports import Buffer
from perdure.errors import PerdureError
from perdure.sqlite.locks import Level, Locks
from perdure.volume.file import File
from perdure.volume.volume import Volume

# https://www.sqlite.org/c3ref/c_iocap_atomic.html has what each of these means; SQLite leaves out work for some.
CHARACTERISTICS = (
    # "writes of blocks that are nnn bytes in size and are aligned to an address which is an integer multiple of nnn are
    # atomic": a file starts on a sector, the array keeps sectors whole, and merges parts of one before it sends it.
    apsw.SQLITE_IOCAP_ATOMIC512
    | apsw.SQLITE_IOCAP_ATOMIC1K
    | apsw.SQLITE_IOCAP_ATOMIC2K
    | apsw.SQLITE_IOCAP_ATOMIC4K
    # "when data is appended to a file, the data is appended first then the size of the file is extended, never the
    # other way around": `perdure.volume.store` does it in this order. SQLite then needs no second sync for a journal.
    | apsw.SQLITE_IOCAP_SAFE_APPEND
    # "information is written to disk in the same order as calls to xWrite()": P3, across all files of the volume, and
    # for xTruncate and xDelete too. SQLite then syncs once for a transaction's pages and not for its journal.
    | apsw.SQLITE_IOCAP_SEQUENTIAL
    # "following an application crash, the only bytes in a file that were written by the application ever change": for
    # the reason of the first. SQLite then does not pad to whole sectors.
    | apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE
)


class ArrayError(apsw.IOError):
    """SQLITE_IOERR with the sentence of the array or the volume; their own error is its `__cause__`."""

    result = apsw.SQLITE_IOERR
    extendedresult = apsw.SQLITE_IOERR


@contextmanager
def told_to_sqlite() -> Iterator[None]:
    """Raise what the array or the volume raises as ArrayError: SQLite sees its number, the caller its sentence."""
    try:
        yield
    except PerdureError as why:
        raise ArrayError(str(why)) from why


class VolumeFile(apsw.VFSFile):
    """A database, its journal or its log. Everything raises ArrayError."""

    def __init__(self, volume: Volume, file: File, locks: Locks) -> None:
        self._volume = volume
        self._file = file
        self._locks = locks
        self._is_alone = False
        """Whether the connection asked for exclusive locking, without which there is no write-ahead log here."""

    def xRead(self, amount: int, offset: int) -> bytes:
        """Bytes, fewer at the file's end."""
        with told_to_sqlite():
            return self._volume.read(self._file, offset, amount)

    def xWrite(self, data: Buffer, offset: int) -> None:
        """All of it, in order after all earlier writes."""
        with told_to_sqlite():
            self._volume.write(self._file, offset, data)

    def xTruncate(self, newsize: int) -> None:
        """In one step; what is cut off is wiped."""
        with told_to_sqlite():
            self._volume.truncate(self._file, newsize)

    def xSync(self, flags: int) -> None:
        """Return when it is durable: every disk has proved to have it."""
        del flags
        with told_to_sqlite():
            self._volume.sync()

    def xFileSize(self) -> int:
        """Bytes."""
        return self._file.size

    def xLock(self, level: int) -> None:
        """Raise the lock. Raises BusyError."""
        if not self._locks.raise_to(self, Level(level)):
            raise apsw.BusyError("another connection of this program has the database locked")

    def xUnlock(self, level: int) -> None:
        """Lower the lock."""
        self._locks.lower_to(self, Level(level))

    def xCheckReservedLock(self) -> bool:
        """Whether anybody writes or is about to."""
        return self._locks.is_reserved

    def xFileControl(self, op: int, ptr: int) -> bool:
        """Refuse a write-ahead log where its index would have to be shared."""
        if op == apsw.SQLITE_FCNTL_PRAGMA:
            pragma = apsw.VFSFcntlPragma(ptr)
            name, value = pragma.name.lower(), (pragma.value or "").lower()
            if name == "locking_mode" and value:
                self._is_alone = value == "exclusive"
            if name == "journal_mode" and value == "wal" and not self._is_alone:
                pragma.result = NO_WAL
                raise apsw.SQLError(NO_WAL)
        return False

    def xSectorSize(self) -> int:
        """Bytes that the array keeps whole."""
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:
        """See `CHARACTERISTICS`."""
        return CHARACTERISTICS

    def xClose(self) -> None:
        """Let go of its lock."""
        self._locks.lower_to(self, Level.NONE)


NO_WAL = (
    "A write-ahead log needs a connection that has the database to itself; nothing was changed. Give "
    "`PRAGMA locking_mode=EXCLUSIVE` first, or use `connect(volume, name, wal=True)`."
)


class MemoryFile(apsw.VFSFile):
    """A temporary file: in this program's memory, never on the host's disk, since it holds plaintext."""

    def __init__(self) -> None:
        self._data = bytearray()

    def xRead(self, amount: int, offset: int) -> bytes:
        """Bytes, fewer at the file's end."""
        return bytes(self._data[offset : offset + amount])

    def xWrite(self, data: Buffer, offset: int) -> None:
        """All of it."""
        if offset > len(self._data):
            self._data.extend(bytes(offset - len(self._data)))
        self._data[offset : offset + len(data)] = data

    def xTruncate(self, newsize: int) -> None:
        """Cut or lengthen it."""
        del self._data[newsize:]
        self._data.extend(bytes(newsize - len(self._data)))

    def xSync(self, flags: int) -> None:
        """Nothing: it ends with the program."""

    def xFileSize(self) -> int:
        """Bytes."""
        return len(self._data)

    def xLock(self, level: int) -> None:
        """Nothing: it is one connection's."""

    def xUnlock(self, level: int) -> None:
        """Nothing."""

    def xCheckReservedLock(self) -> bool:
        """Never."""
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:
        """Nothing is known."""
        del op, ptr
        return False

    def xSectorSize(self) -> int:
        """Any would do."""
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:
        """None matters."""
        return 0

    def xClose(self) -> None:
        """Overwrite it."""
        self._data[:] = bytes(len(self._data))

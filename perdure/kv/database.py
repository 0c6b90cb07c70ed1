"""One SQLite database, on an array or in an ordinary file, whose commits are proved before anybody is told of them.

On an array a turn returns when a FLUSH with evidence has returned, also where it only read: a main program that was
fenced can prove nothing, so what it still reads is never given out as the latest. On an ordinary file the same code
keeps what the host's disk keeps, and whoever can write that file can put yesterday's in its place.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw

from perdure.array.geometry import SECTOR_BYTES
from perdure.errors import Misuse, PerdureError, Unavailable
from perdure.sqlite.connection import connect, databases
from perdure.volume.file import Bytes
from perdure.volume.record import DATA_START
from perdure.volume.store import GROWTH_SECTORS
from perdure.volume.volume import Volume

PAGE_BYTES: Final = 4096
CHECKPOINT_PAGES: Final = 256
"""When the write-ahead log is carried into the database, so how large it is at rest."""
PAGES_MIN: Final = 64
_FRAME_BYTES: Final = PAGE_BYTES + 24
"""A page in the log (https://www.sqlite.org/fileformat.html, section 4.1)."""
_OVERHEAD_BYTES: Final = (DATA_START + 2 * GROWTH_SECTORS) * SECTOR_BYTES + CHECKPOINT_PAGES * _FRAME_BYTES
"""The volume's records, what two files may have taken ahead, and a log that was not carried into the database yet."""
_FULL: Final = (
    "The database is full; nothing of this request was kept, and all that was kept before is safe. Delete what is not "
    "needed, or move to a larger array."
)
_OUTCOME: Final = "What was acknowledged before is safe; whether this request was kept is not known. Open it anew."

logger = logging.getLogger("perdure")
Work = Callable[[apsw.Connection], object]
_T = TypeVar("_T")


class Database:
    """A connection that has the database to itself; every method may be called from any thread, and blocks it."""

    def __init__(self, connection: apsw.Connection, volume: Volume | None) -> None:
        """`volume`: what it is on, None for an ordinary file."""
        self._connection = connection
        self._volume = volume
        self._lock = threading.Lock()
        self.failure: PerdureError | None = None
        """What ended this database: from then on everything raises it."""

    @property
    def is_rollback_proof(self) -> bool:
        """Whether it is on an array."""
        return self._volume is not None

    def do(self, work: Callable[[apsw.Connection], _T]) -> _T:
        """What `work` returns, once it is durable and proved. Raises what `work` raises; then nothing was changed.

        Raises what the array raises; then what became of the change is not known, and the database has ended. An
        interrupt comes through, and ends it too.
        """
        results: list[_T] = []
        error = self.turn([lambda connection: results.append(work(connection))])[0]
        if error is not None:
            raise error
        return results[0]

    def turn(self, works: Sequence[Work]) -> list[PerdureError | None]:
        """Do each of `works` whole or not at all, in order, and make all of it durable with one commit.

        For each: None, or the error that it raised and that undid it alone. Raises as `do` for what concerns all.
        """
        with self._one_turn():
            errors = self._turn(works)
        if errors is None:
            raise Unavailable(_FULL)
        return errors

    def alone(self, work: Callable[[apsw.Connection], _T]) -> _T:
        """The same for `work` that begins and ends its own transactions, or must be outside of any. Raises as `do`.

        An error of `work` ends the database, unless it is a PerdureError.
        """
        with self._one_turn():
            result = self._alone(work)
        if isinstance(result, PerdureError):
            raise result
        return result

    @contextmanager
    def _one_turn(self) -> Iterator[None]:
        """Nobody else's meanwhile; what is raised within ends the database. An interrupt is for whoever interrupts."""
        with self._lock:
            if self.failure is not None:
                raise self.failure
            try:
                yield
            except Exception as error:
                raise self._ended(error) from error
            except BaseException as interrupt:
                self._ended(interrupt)
                raise

    def _alone(self, work: Callable[[apsw.Connection], _T]) -> _T | PerdureError:
        """What `work` returns, or the PerdureError that it raised, undone; proved. What is raised ends the database."""
        result: _T | PerdureError
        try:
            result = work(self._connection)
        except PerdureError as why:
            self._roll_back()
            result = why
        if self._volume is not None:
            self._volume.sync()
        return result

    def _turn(self, works: Sequence[Work]) -> list[PerdureError | None] | None:
        """As `turn`; None for a full database, where all is undone. What is raised ends the database."""
        try:
            return self._all(works)
        except apsw.FullError:
            self._roll_back()
            return None

    def _all(self, works: Sequence[Work]) -> list[PerdureError | None]:
        self._connection.execute("BEGIN IMMEDIATE")
        errors = [self._one(work) for work in works]
        syncs = None if self._volume is None else self._volume.sync_count
        self._connection.execute("COMMIT")
        if self._volume is not None and self._volume.sync_count == syncs:  # nothing was changed
            self._volume.sync()
        return errors

    def _one(self, work: Work) -> PerdureError | None:
        self._connection.execute("SAVEPOINT one")
        error: PerdureError | None = None
        try:
            work(self._connection)
        except PerdureError as why:
            error = why
        except apsw.FullError:
            if not self._connection.in_transaction:  # SQLite has undone the others too
                raise
            error = Unavailable(_FULL)
        if error is not None:
            self._connection.execute("ROLLBACK TO one")
        self._connection.execute("RELEASE one")
        return error

    def _ended(self, error: BaseException) -> PerdureError:
        self.failure = _why(error)
        logger.critical("a database has ended: %s", self.failure)
        return self.failure

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def rows(connection: apsw.Connection, statement: str, *values: str | int | bytes | None) -> list[tuple[Any, ...]]:
    """All rows of one statement."""
    return connection.execute(statement, values).fetchall()


def _why(error: BaseException) -> PerdureError:
    """What ended a database: the array's own error where there is one."""
    cause = error if isinstance(error, PerdureError) else error.__cause__
    if isinstance(cause, PerdureError):
        return cause
    return Unavailable(f"The database failed: {str(error) or type(error).__name__}. {_OUTCOME}")


@contextmanager
def on_array(array: Bytes, name: str) -> Iterator[Database]:
    """The database `name` of the volume on `array`; both are made if the array is zeros throughout.

    It may become almost as large as half of the array, since a transaction needs its size again until it is home: so
    it is the volume's only one. Raises Misuse for an array that holds something else or another database, is too small,
    or is open as a volume already, and what the array raises.
    """
    pages = (array.size - _OVERHEAD_BYTES) // (PAGE_BYTES + _FRAME_BYTES)  # each may stand in the log as well
    if pages < PAGES_MIN:
        raise Misuse(
            f"An array of {array.size} bytes is too small for a database; nothing was changed. Create one of "
            f"at least {PAGES_MIN * (PAGE_BYTES + _FRAME_BYTES) + _OVERHEAD_BYTES} bytes."
        )
    database: Database | None = None
    try:
        with Volume(array) as volume, _alone_in(volume, name) as connection:
            connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}").fetchall()
            connection.execute(f"PRAGMA max_page_count={pages}").fetchall()
            database = Database(connection, volume)
            yield database
    except apsw.Error as error:  # also of closing, which carries the log home
        raise (None if database is None else database.failure) or _why(error) from error


def _alone_in(volume: Volume, name: str) -> AbstractContextManager[apsw.Connection]:
    """A connection to the only database of a volume. Raises Misuse if there is another."""
    for other in databases(volume):
        if other != name:
            raise Misuse(
                f"This array holds the database {other!r}, and each takes half of an array; nothing was changed. "
                f"Give {name!r} an array of its own."
            )
    return connect(volume, name, wal=True)


@contextmanager
def on_file(path: Path) -> Iterator[Database]:
    """The database in an ordinary file, for tests and for comparison: NOT rollback-proof. Raises Misuse.

    A commit that returned survives a crash of the machine; it does not survive somebody who has an older copy.
    """
    try:
        connection = apsw.Connection(str(path))
        settings = ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON")
        for setting in (*settings, f"wal_autocheckpoint={CHECKPOINT_PAGES}"):
            connection.execute(f"PRAGMA {setting}").fetchall()
    except apsw.Error as error:
        raise Misuse(f"{path} cannot be used as a database: {error}; nothing was changed. Name another file.") from None
    try:
        yield Database(connection, None)
    finally:
        connection.close()

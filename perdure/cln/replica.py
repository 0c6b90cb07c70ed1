"""The node's database again, on an array, one transaction ahead of the node's own at most.

lightningd reports each transaction before it commits it, and does not commit without our answer (hook `db_write`). So
what is here has every state that the node has acted on. The node's own file, which its host can put back, is then no
more than a copy: it is made anew from here before each start (`restore`), and a node that begins from an older one is
stopped at its first write, since `data_version` does not go on from what is kept.

`data_version` is the node's own count of its transactions (`vars.intval`, 32 bits), and part of each of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import apsw

from perdure.errors import Fork, Misuse
from perdure.kv.database import Database, rows

DATABASE: Final = "cln.db"
"""Its name in a volume."""
VERSIONS: Final = 1 << 32
FOREIGN_KEYS: Final = {"PRAGMA foreign_keys = ON": True, "PRAGMA foreign_keys = OFF": False}
"""Reported alone and without a new version: the node turns them off while it changes a table (`db/db_sqlite3.c`)."""
_HALF: Final = VERSIONS // 2
_REFUSED: Final = (
    apsw.SQLError,
    apsw.ConstraintError,
    apsw.MismatchError,
    apsw.TooBigError,
    apsw.BindingsError,
    ValueError,  # a zero byte, or half a character
)
"""What SQLite raises when it is the statement's fault, not the database's."""


class OldDatabase(Fork):
    """The node runs on a database that lacks what was acknowledged to it."""


class Replica:
    """Every method returns when the database has proved it, and raises what `Database.do` raises."""

    def __init__(self, database: Database) -> None:
        """Foreign keys are on, as lightningd has them when it opens its own."""
        self._database = database
        database.alone(lambda connection: _set_foreign_keys(connection, is_on=True))

    @property
    def version(self) -> int:
        """The `data_version` that is kept; 0 if there is none."""
        return self._database.do(_version)

    def write(self, version: int, writes: Sequence[str]) -> None:
        """Keep one transaction of the node.

        Raises OldDatabase if the node does not have all that is kept, Misuse if it has what was never reported and for
        a statement that SQLite refuses; then nothing was kept, and it must not go on.
        """
        settings = [FOREIGN_KEYS.get(statement.rstrip("; ")) for statement in writes]
        if writes and None not in settings:
            self._require(version, self.version)
            is_on = bool(settings[-1])
            self._database.alone(lambda connection: _set_foreign_keys(connection, is_on=is_on))
            return
        self._database.do(lambda connection: self._write(connection, version, writes))

    def take(self, file: Path) -> int:
        """Keep a copy of the node's database as it is now, while lightningd does not run; its version.

        Raises Misuse for what is no such database, and if one is kept already.
        """
        if self.version or self._database.do(_has_tables):
            raise Misuse("A database is kept here already; nothing was changed. `perdure cln restore` shows it.")
        source = _opened(file, apsw.SQLITE_OPEN_READONLY)
        try:
            if not _version(source):
                raise Misuse(f"{file} is not the database of a Core Lightning node; nothing was changed.")
            self._database.alone(lambda connection: _copy(source, connection))
        finally:
            source.close()
        return self.version

    def restore(self, file: Path) -> int:
        """Write what is kept to a new file, readable by its owner alone; its version.

        The file appears once it is proved that this is the latest, and that it is on the host's disk. Raises Misuse if
        it is there, and if nothing is kept: a node would take an empty database for a new life.
        """
        if not self._database.do(_has_tables):
            raise Misuse(
                "No database is kept here, so none was written: is it the right array? A node that has lived begins "
                "with `perdure cln take`, and a new one without a file."
            )
        partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
        try:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            target = _opened(partial, apsw.SQLITE_OPEN_READWRITE)
            try:
                version = self._database.alone(lambda connection: _copy_out(connection, target))
            finally:
                target.close()
            os.link(partial, file)  # which does not replace what is there
        except OSError as error:
            raise Misuse(f"{file} cannot be written: {error.strerror}; nothing was changed. Name a new file.") from None
        finally:
            partial.unlink(missing_ok=True)
        return version

    def _write(self, connection: apsw.Connection, version: int, writes: Sequence[str]) -> None:
        kept = _version(connection)
        self._require((version - 1) % VERSIONS, kept)
        try:
            for statement in writes:
                connection.execute(statement).fetchall()
        except _REFUSED as error:
            raise Misuse(
                f"The node's write {version} cannot be done on what is kept: {error}. Nothing of it was kept, and all "
                "before it is safe. Give `perdure cln restore` before the next start; a lightningd before 0.9.2 must "
                "be updated, as it reports statements that SQLite cannot read."
            ) from None
        made = _version(connection)
        if made != version:
            raise Misuse(f"The transaction says that it makes version {version}, and made {made}; it was not kept.")

    def _require(self, before: int, kept: int) -> None:
        """That the node's transaction goes on from what is kept. Raises OldDatabase, Misuse."""
        if before == kept:
            return
        if (kept - before) % VERSIONS < _HALF:
            raise OldDatabase(
                f"The node's database has version {before}, but it was told that {kept} is kept: it runs on an older "
                "copy. It must not go on, or it may publish a revoked state. What is kept is safe; stop the node, move "
                "its database away, and give `perdure cln restore`."
            )
        raise Misuse(
            f"The node's database has version {before}, and {kept} is kept: the node has run without this plugin. "
            "Nothing was kept of this write. If its database is the right one, keep it anew with `perdure cln take`, "
            "on an array of its own."
        )


def _version(connection: apsw.Connection) -> int:
    if not rows(connection, "SELECT 1 FROM pragma_table_info('vars') WHERE name='intval'"):
        return 0
    found = rows(connection, "SELECT intval FROM vars WHERE name='data_version'")
    return int(found[0][0]) % VERSIONS if found else 0


def _has_tables(connection: apsw.Connection) -> bool:
    return bool(rows(connection, "SELECT 1 FROM sqlite_schema"))


def _set_foreign_keys(connection: apsw.Connection, *, is_on: bool) -> None:
    rows(connection, f"PRAGMA foreign_keys={'ON' if is_on else 'OFF'}")


def _opened(file: Path, flags: int) -> apsw.Connection:
    try:
        connection = apsw.Connection(str(file), flags)
        rows(connection, "SELECT 1 FROM sqlite_schema")
    except apsw.Error as error:
        raise Misuse(f"{file} cannot be read as a SQLite database: {error}; nothing was changed.") from None
    return connection


def _copy_out(source: apsw.Connection, target: apsw.Connection) -> int:
    """The same, without a write-ahead log, as lightningd has it: then the file alone is the whole database."""
    version = _copy(source, target)
    rows(target, "PRAGMA journal_mode=DELETE")
    return version


def _copy(source: apsw.Connection, target: apsw.Connection) -> int:
    """Page by page, in one transaction; the version."""
    with target.backup("main", source, "main") as backup:
        backup.step(-1)
    return _version(source)

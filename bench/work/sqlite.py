"""SQLite: one client that commits one row at a time, with a write-ahead log and `synchronous=FULL`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from bench.model import Result, Work
from bench.work import timed


def run(folder: Path, work: Work, seconds: float) -> Result:
    """Commit for so long to a database in `folder`; each commit replaces one row and waits for one fsync."""
    with closing(sqlite3.connect(folder / "bench.sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")  # no shared memory, which some file systems lack
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY, value BLOB)")

        def commit(row: int, value: bytes) -> None:
            database.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (row, value))

        return timed.commits(commit, work, seconds)

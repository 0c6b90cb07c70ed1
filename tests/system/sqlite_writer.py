"""Commits numbered rows to an SQLite database, one a transaction; a process of its own.

    python -m tests.system.sqlite_writer FILE JOURNAL_MODE SYNCHRONOUS NEXT_NUMBER

Prints a number once its COMMIT has returned. Ends at the first error, as a program would that lost its disk.
"""

from __future__ import annotations

import hashlib
import sqlite3
import sys

BUSY_EVERY = 7
"""Every so many rows an old one is changed and changed back, so that pages all over the file are written."""


def content(number: int) -> bytes:
    """What row `number` holds: from some bytes to several pages."""
    seed = hashlib.sha256(str(number).encode()).digest()
    return hashlib.shake_256(seed).digest(40 + (seed[0] * seed[1]) % 9000)


def opened(file: str, mode: str, synchronous: str) -> sqlite3.Connection:
    """The database, with autocommit off our hands: we say BEGIN and COMMIT."""
    database = sqlite3.connect(file, isolation_level=None)
    assert database.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0] == mode.lower()
    database.execute(f"PRAGMA synchronous = {synchronous}")
    database.execute("CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, content BLOB NOT NULL)")
    return database


def main(file: str, mode: str, synchronous: str, number: int) -> None:
    """Write until killed."""
    database = opened(file, mode, synchronous)
    while True:
        database.execute("BEGIN")
        database.execute("INSERT INTO rows VALUES (?, ?)", (number, content(number)))
        if number % BUSY_EVERY == 0:
            database.execute("UPDATE rows SET content = content WHERE number = ?", (number // 2,))
        database.execute("COMMIT")
        print(number, flush=True)
        number += 1


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
    except sqlite3.Error as error:
        sys.exit(f"sqlite_writer: {error}")

"""Commits numbered rows to LMDB, each in a transaction that syncs; or checks them. A process of its own.

    python -m tests.databases.lmdb_rows write DIRECTORY NEXT_NUMBER
    python -m tests.databases.lmdb_rows check DIRECTORY

Prints a number once its commit has returned; or how many rows there are.
"""

from __future__ import annotations

import sys

import lmdb

from tests.databases import rows

MAP_BYTES = 48 << 20


def write(directory: str, number: int) -> None:
    """Until killed."""
    with lmdb.open(directory, map_size=MAP_BYTES) as database:
        while True:
            with database.begin(write=True) as transaction:
                transaction.put(rows.key(number), rows.content(number))
                if number % rows.BUSY_EVERY == 0:
                    transaction.put(rows.key(number // 2), rows.content(number // 2))
            print(number, flush=True)
            number += 1


def check(directory: str) -> int:
    """Read all of them."""
    with lmdb.open(directory, map_size=MAP_BYTES) as database, database.begin() as transaction:
        found = rows.count(transaction.cursor())
        assert found == transaction.stat()["entries"]
        return found


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], int(sys.argv[3]))
    else:
        print(check(sys.argv[2]))

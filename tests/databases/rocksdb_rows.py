"""Commits numbered rows to RocksDB, each with a synced write; or checks them. A process of its own.

    python -m tests.databases.rocksdb_rows write DIRECTORY NEXT_NUMBER
    python -m tests.databases.rocksdb_rows check DIRECTORY

Prints a number once its write has returned; or how many rows there are.
"""

from __future__ import annotations

import sys

from rocksdict import BlockBasedOptions, Options, Rdict, WriteBatch, WriteOptions

from tests.databases import rows

MEMTABLE_BYTES = 64 << 10
"""Small, so that memory is written out and files are merged all the time."""
FORMAT = 5
"""Of table files; the one that Debian's `ldb` reads too."""


def opened(directory: str) -> Rdict:
    """The database, with paranoid checks."""
    tables = BlockBasedOptions()
    tables.set_format_version(FORMAT)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_paranoid_checks(True)
    options.set_write_buffer_size(MEMTABLE_BYTES)
    options.set_block_based_table_factory(tables)
    return Rdict(directory, options)


def write(directory: str, number: int) -> None:
    """Until killed."""
    database, synced = opened(directory), WriteOptions()
    synced.sync = True
    while True:
        batch = WriteBatch(raw_mode=True)
        batch.put(rows.key(number), rows.content(number))
        if number % rows.BUSY_EVERY == 0:
            batch.put(rows.key(number // 2), rows.content(number // 2))
        database.write(batch, synced)
        print(number, flush=True)
        number += 1


def check(directory: str) -> int:
    """Read all of them; each block is verified as it is read."""
    database = opened(directory)
    try:
        return rows.count(database.items())
    finally:
        database.close()


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], int(sys.argv[3]))
    else:
        print(check(sys.argv[2]))

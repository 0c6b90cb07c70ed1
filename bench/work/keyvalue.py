"""LMDB and RocksDB: one client that commits one row at a time and waits until it is durable."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from bench.model import Result, Skip, Work
from bench.work import timed

MAP_BYTES = 32 << 20


def run_lmdb(folder: Path, work: Work, seconds: float) -> Result:
    """A transaction a row; each writes the pages from leaf to root, syncs, and writes its meta page. Raises Skip."""
    lmdb = _imported("lmdb")
    with lmdb.open(str(folder / "bench.lmdb"), map_size=MAP_BYTES) as database:

        def commit(row: int, value: bytes) -> None:
            with database.begin(write=True) as transaction:
                transaction.put(b"%08d" % row, value)

        return timed.commits(commit, work, seconds)


def run_rocksdb(folder: Path, work: Work, seconds: float) -> Result:
    """A put a row with `sync`: each adds to the write-ahead log and syncs it. Raises Skip."""
    rocksdict = _imported("rocksdict")
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    synced = rocksdict.WriteOptions()
    synced.sync = True
    database = rocksdict.Rdict(str(folder / "bench.rocksdb"), options)
    try:

        def commit(row: int, value: bytes) -> None:
            database.put(b"%08d" % row, value, synced)

        return timed.commits(commit, work, seconds)
    finally:
        database.close()


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Skip(f"the Python package {name} is not installed") from None

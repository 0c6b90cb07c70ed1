"""SQLite: one client that commits one row at a time, with a write-ahead log and `synchronous=FULL`."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from bench.model import Result, Work
from bench.stats import percentile

ROWS = 2000
ROW_BYTES = 1000


def run(folder: Path, work: Work, seconds: float) -> Result:
    """Commit for so long to a database in `folder`; each commit replaces one row and waits for one fsync."""
    draw, times_us = random.Random(), []  # noqa: S311  (which row is no secret)
    with closing(sqlite3.connect(folder / "bench.sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")  # no shared memory, which some file systems lack
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY, value BLOB)")
        start, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - start < seconds:
            row = (draw.randrange(ROWS), draw.randbytes(ROW_BYTES))
            begun = time.perf_counter()
            database.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", row)
            times_us.append((time.perf_counter() - begun) * 1e6)
        duration_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    times_us.sort()
    p50, p99 = percentile(times_us, 50), percentile(times_us, 99)
    return Result(len(times_us), duration_s, work.block_bytes, p50, p99, cpu_s)

"""pgbench's `simple-update`: a commit is an update, a select and an insert by a client that waits for it."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterable
from pathlib import Path

from bench import processes
from bench.model import Result, Work
from bench.stats import percentile

SCALE = 1
"""100,000 accounts, 15 MB: what matters here is the commit."""


class Database:
    """A server that is reached at a Unix socket; pgbench's tables are in its database `postgres`."""

    def __init__(self, sockets: Path, port: int, folder: Path, user: str | None) -> None:
        self._where = ("-h", sockets, "-p", port, "-U", "bench")
        self._user = user
        self._folder = folder
        folder.mkdir()
        if user is not None:
            shutil.chown(folder, user, user)

    def sql(self, statement: str) -> str:
        """Run a statement; what it gives."""
        words = ("psql", "-XAtq", *self._where, "-d", "postgres", "-c", statement)
        return processes.call(*words, user=self._user, cwd=self._folder).strip()

    def fill(self) -> None:
        """Make pgbench's tables."""
        words = ("pgbench", "--initialize", "--quiet", "--scale", SCALE, *self._where, "postgres")
        processes.call(*words, user=self._user, cwd=self._folder, timeout_s=300)

    def run(self, work: Work, seconds: float) -> Result:
        """`work.depth` clients for so long. Raises RuntimeError."""
        for old in self._folder.glob("log.*"):
            old.unlink()
        words = ("pgbench", "--builtin=simple-update", "--no-vacuum", "--client", work.depth, "--jobs", 2)
        words = words if work.depth > 1 else (*words[:-1], 1)
        logged = ("--time", max(round(seconds), 1), "--log", f"--log-prefix={self._folder}/log")
        before = _client_cpu_s()
        processes.call(*words, *logged, *self._where, "postgres", user=self._user, cwd=self._folder)
        cpu_s = _client_cpu_s() - before
        lines = (line for path in self._folder.glob("log.*") for line in path.read_text().splitlines())
        return parse(lines, work, cpu_s)


def parse(lines: Iterable[str], work: Work, client_cpu_s: float) -> Result:
    """The result in pgbench's log of transactions: client, number, microseconds, script, seconds, microseconds."""
    rows = [[int(word) for word in line.split()[:6]] for line in lines]
    if not rows:
        raise RuntimeError("pgbench committed nothing in its time")
    times = sorted(row[2] for row in rows)
    ends = [row[4] * 1_000_000 + row[5] for row in rows]
    first = min(end - row[2] for end, row in zip(ends, rows, strict=True))
    p50, p99 = percentile(times, 50), percentile(times, 99)
    return Result(len(rows), (max(ends) - first) / 1e6, work.block_bytes, p50, p99, client_cpu_s)


def _client_cpu_s() -> float:
    """Of programs that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

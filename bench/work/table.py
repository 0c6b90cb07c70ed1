"""Every piece of work, by name. Pure.

A durable write at depth d is d clients, each of which writes and then waits for its own fsync: group commit is up to
the target. Reads are of data that was written before, so they are deciphered and verified.
"""

from __future__ import annotations

from bench.model import MIB, Access, Kind, Work

DEPTHS = (1, 4, 16, 32, 64)
SEQUENTIAL_DEPTH = 4
MIXED_DEPTH = 32
MIXED_READ_PERCENT = 70
GOAL_DEPTHS = (1, 32)


def durable(depth: int) -> Work:
    """4 KiB random writes, each with its fsync."""
    title = f"4 KiB random write + fsync, depth {depth}"
    return Work(f"durable-write-{depth}", title, Kind.BLOCK, depth, fsync=True, goal=depth in GOAL_DEPTHS)


def write(depth: int) -> Work:
    """4 KiB random writes, without fsync."""
    return Work(f"write-{depth}", f"4 KiB random write, depth {depth}", Kind.BLOCK, depth, goal=depth == 32)


def read(depth: int) -> Work:
    """4 KiB random reads."""
    title = f"4 KiB random read, depth {depth}"
    return Work(f"read-{depth}", title, Kind.BLOCK, depth, Access.READ, goal=depth in GOAL_DEPTHS)


def sequential(access: Access) -> Work:
    """1 MiB after another."""
    title = f"sequential 1 MiB {access}"
    return Work(
        f"sequential-{access}",
        title,
        Kind.BLOCK,
        SEQUENTIAL_DEPTH,
        access,
        block_bytes=MIB,
        sequential=True,
        goal=True,
    )


MIXED = Work("mixed-32", "4 KiB random, 70 % reads, 30 % writes, depth 32", Kind.BLOCK, MIXED_DEPTH, Access.MIXED)
BLOCK = (
    *(durable(depth) for depth in DEPTHS),
    *(write(depth) for depth in DEPTHS),
    *(read(depth) for depth in DEPTHS),
    sequential(Access.WRITE),
    sequential(Access.READ),
    MIXED,
)
COMMITS = (
    Work("sqlite", "SQLite commits, one client", Kind.SQLITE, 1, block_bytes=0),
    Work("pgbench-1", "pgbench commits, one client", Kind.PGBENCH, 1, block_bytes=0),
    Work("pgbench-8", "pgbench commits, 8 clients", Kind.PGBENCH, 8, block_bytes=0),
    Work("lmdb", "LMDB commits, one client", Kind.LMDB, 1, block_bytes=0),
    Work("rocksdb", "RocksDB synced writes, one client", Kind.ROCKSDB, 1, block_bytes=0),
)
ALL = {work.name: work for work in (*BLOCK, *COMMITS)}


def chosen(names: tuple[str, ...], *, quick: bool) -> list[Work]:
    """The work whose name is one of `names` or begins with one; without names all, or what goals are about."""
    if names:
        return [work for work in ALL.values() if any(_fits(work.name, name) for name in names)]
    return [work for work in ALL.values() if work.goal or not quick]


def _fits(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}-")

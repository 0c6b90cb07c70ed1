"""Databases on mounted file systems: the array under nbdfuse, a loop device and ext4; GlusterFS's mount; tmpfs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench import processes
from bench.model import GIB, Kind, Result, Skip, Target, Work
from bench.ours.array import Mode, Running, array
from bench.ours.targets import PLAIN
from bench.peers import postgres
from bench.peers.gluster import gluster
from bench.work import keyvalue, pgbench, sqlite

ARRAY_SIZE = "512M"
_LIBRARIES = {Kind.SQLITE: sqlite.run, Kind.LMDB: keyvalue.run_lmdb, Kind.ROCKSDB: keyvalue.run_rocksdb}


@contextlib.contextmanager
def ours() -> Iterator[Target]:
    """ext4 on the array."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Skip("mounting a file system needs root and /dev/fuse")
    for name in ("nbdfuse", "mkfs.ext4", "losetup"):
        processes.tool(name)
    what = "the array under nbdfuse, a loop device and ext4"
    with array(Mode(size=ARRAY_SIZE)) as running, _ext4(running) as (root, fuse_pid):

        def parts() -> dict[str, list[int]]:
            roles = running.processes()
            return {**roles, "main": [*roles["main"], fuse_pid]}

        with _databases(f"{PLAIN}, ext4", what, root, parts) as target:
            yield target


@contextlib.contextmanager
def theirs() -> Iterator[Target]:
    """GlusterFS."""
    with (
        gluster(need_bytes=2 * GIB) as volume,
        _databases("GlusterFS", "files on the mounted disperse volume", volume.mount, volume.processes) as target,
    ):
        yield target


@contextlib.contextmanager
def memory() -> Iterator[Target]:
    """tmpfs, where a sync is nothing: what the database itself takes."""
    what = "files on tmpfs of one machine, which keeps nothing: what the database itself takes"
    with (
        processes.scratch(in_memory=True, need_bytes=GIB) as root,
        _databases("tmpfs", what, root, dict) as target,
    ):
        yield target


@contextlib.contextmanager
def _ext4(running: Running) -> Iterator[tuple[Path, int]]:
    """The array as a file, formatted and mounted; nothing of it is left when the block ends."""
    with processes.scratch(in_memory=False) as folder:
        shown, root = folder / "array" / "disk", folder / "fs"
        shown.parent.mkdir()
        root.mkdir()
        with processes.started("nbdfuse", shown, running.uri, log=folder / "nbdfuse.log") as fuse:
            try:
                processes.until(lambda: processes.is_mounted(shown.parent), "nbdfuse", process=fuse)
                features = ("-E", "lazy_itable_init=0,lazy_journal_init=0")
                processes.call("mkfs.ext4", "-q", "-F", *features, shown)
                processes.call("mount", "-t", "ext4", "-o", "loop,noatime", shown, root)
                yield root, fuse.pid
            finally:
                processes.unmount(root)
                processes.unmount(shown.parent)


@contextlib.contextmanager
def _databases(name: str, what: str, root: Path, parts: Callable[[], Mapping[str, Sequence[int]]]) -> Iterator[Target]:
    """Databases in `root`, and a PostgreSQL server there if there is one; without it, the others alone."""
    with processes.scratch(in_memory=False) as folder, contextlib.ExitStack() as stack:
        try:
            database: pgbench.Database | Skip = stack.enter_context(_postgres(root, folder))
        except Skip as missing:
            database = missing

        def do(work: Work, seconds: float) -> Result:
            if work.kind in _LIBRARIES:
                return _LIBRARIES[work.kind](root, work, seconds)
            if isinstance(database, Skip):
                raise database
            return database.run(work, seconds)

        yield Target(name, what, do, parts, takes=lambda work: work.kind is not Kind.BLOCK)


@contextlib.contextmanager
def _postgres(root: Path, folder: Path) -> Iterator[pgbench.Database]:
    data, sockets, [port] = postgres.owned(root / "postgres"), postgres.owned(folder / "s"), processes.free_ports(1)
    postgres.initialise(data)
    with postgres.server(data, sockets, port, folder / "log", {}):
        database = pgbench.Database(sockets, port, folder / "client", postgres.user())
        database.fill()
        yield database

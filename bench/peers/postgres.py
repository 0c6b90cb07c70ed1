"""PostgreSQL: alone on somebody's file system, or on tmpfs with two synchronous standbys, all on loopback.

It does not run as root: then everything of it runs as the user `postgres`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench import processes
from bench.model import GIB, Kind, Skip, Target, Work
from bench.work import pgbench

HOST = "127.0.0.1"
STANDBYS = 2
_SETTINGS = {
    "listen_addresses": HOST,
    "shared_buffers": "64MB",
    "max_wal_size": "128MB",
    "min_wal_size": "32MB",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "synchronous_commit": "on",
    "fsync": "on",
    "full_page_writes": "on",
    "autovacuum": "off",
    "logging_collector": "off",
}


def binary(name: str) -> Path:
    """The newest server program of this name. Raises Skip when PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1]
    return Path(processes.tool(name))


def user() -> str | None:
    """Who runs it: the user `postgres` when we are root, else ourselves. Raises Skip when there is no such user."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise Skip("PostgreSQL does not run as root, and there is no user postgres") from None


def owned(directory: Path) -> Path:
    """A new directory of the server's user."""
    directory.mkdir(mode=0o700)
    if (name := user()) is not None:
        shutil.chown(directory, name, name)
    return directory


@contextlib.contextmanager
def server(data: Path, sockets: Path, port: int, log: Path, settings: dict[str, str]) -> Iterator[int]:
    """A server on a directory that has been initialised; its process id once it takes connections."""
    given = {**_SETTINGS, **settings, "unix_socket_directories": str(sockets), "port": str(port)}
    options = [word for key, value in given.items() for word in ("-c", f"{key}={value}")]
    with processes.started(binary("postgres"), "-D", data, *options, log=log, user=user()) as process:
        try:
            processes.until(lambda: _answers(sockets, port), "PostgreSQL", process=process)
            yield process.pid
        finally:
            if process.poll() is None:
                process.send_signal(2)  # "fast": clients are sent away and everything is written


def initialise(data: Path) -> None:
    """An empty cluster in a directory that `owned` made."""
    words = ("-D", data, "-A", "trust", "-U", "bench", "--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C")
    processes.call(binary("initdb"), *words, user=user(), timeout_s=120, cwd=data)


def _answers(sockets: Path, port: int) -> bool:
    try:
        processes.call(binary("pg_isready"), "-q", "-h", sockets, "-p", port, "-U", "bench")
    except RuntimeError:
        return False
    return True


@contextlib.contextmanager
def target() -> Iterator[Target]:
    """A primary that answers a commit once both standbys have flushed it."""
    who = user()
    with processes.scratch(in_memory=True, need_bytes=2 * GIB) as folder, contextlib.ExitStack() as stack:
        ports = processes.free_ports(1 + STANDBYS, HOST)
        sockets, data = owned(folder / "sockets"), owned(folder / "primary")
        initialise(data)
        names = [f"standby{number}" for number in range(1, STANDBYS + 1)]
        primary = stack.enter_context(server(data, sockets, ports[0], folder / "primary.log", {}))
        standbys = []
        for name, port in zip(names, ports[1:], strict=True):
            copy = owned(folder / name)
            words = ("-D", copy, "-h", HOST, "-p", ports[0], "-U", "bench", "-c", "fast", "--no-sync")
            processes.call(binary("pg_basebackup"), *words, user=who, cwd=copy)
            (copy / "standby.signal").touch()
            origin = f"host={HOST} port={ports[0]} user=bench application_name={name}"
            more = {"primary_conninfo": origin, "hot_standby": "on"}
            standbys.append(stack.enter_context(server(copy, sockets, port, folder / f"{name}.log", more)))
        database = pgbench.Database(sockets, ports[0], folder / "client", who)
        database.sql(f"ALTER SYSTEM SET synchronous_standby_names = 'FIRST {STANDBYS} ({', '.join(names)})'")
        database.sql("SELECT pg_reload_conf()")
        processes.until(lambda: database.sql(_SYNCHRONOUS) == str(STANDBYS), "the synchronous standbys")
        database.fill()
        yield Target(
            "PostgreSQL, 2 standbys",
            "a primary on tmpfs whose commits wait until two standbys on tmpfs have flushed them",
            database.run,
            lambda: {"main": processes.tree([primary]), "disks": processes.tree(standbys)},
            takes=takes,
            has_tcp=True,
        )


def takes(work: Work) -> bool:
    """Its own benchmark."""
    return work.kind is Kind.PGBENCH


_SYNCHRONOUS = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"

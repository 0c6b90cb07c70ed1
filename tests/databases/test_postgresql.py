"""PostgreSQL in the file system of `perdure run`, killed with everything below it, as a user who is not root.

One client commits numbered rows and says each once the server has acknowledged it; two of pgbench commit beside it, and
the sums of their tables must agree after each kill.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.databases.kills import WAIT_S, Said, survive
from tests.databases.mounted import Mounted
from tests.system.rig import CLIENT_S, tool

USER = "postgres"
AHEAD = 20_000
"""Statements that are ready for the client; more than it commits before it is killed."""
SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "4MB",  # less than the tables, so that pages are written all the time
    "max_wal_size": "4MB",
    "min_wal_size": "2MB",
    "checkpoint_timeout": "30s",
    "listen_addresses": "",
    "restart_after_crash": "off",
    "recovery_init_sync_method": "syncfs",  # as fsync of every file does, in one call
}
ROWS = "CREATE TABLE rows (number int PRIMARY KEY, content text NOT NULL)"
CONTENT = "repeat(md5({0}::text), 1 + {0} % 40)"
COUNTED = (
    f"SELECT count(*) = coalesce(max(number), 0), count(*), bool_and(content = {CONTENT.format('number')}) FROM rows"
)
EVEN = """SELECT (SELECT sum(abalance) FROM pgbench_accounts) = coalesce(sum(delta), 0)
    AND (SELECT sum(bbalance) FROM pgbench_branches) = coalesce(sum(delta), 0)
    AND (SELECT sum(tbalance) FROM pgbench_tellers) = coalesce(sum(delta), 0) FROM pgbench_history"""


def binary(name: str) -> str:
    """The newest of this name; skips when there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(found[-1]) if found else tool(name)


class PostgreSql:
    """A server, its clients and their socket; only the data is on the array."""

    undone_max = 0

    def __init__(self, folder: Path) -> None:
        self.sockets, self.log, self.script = folder, folder / "log", folder / "script.sql"
        self._server: subprocess.Popen[bytes] | None = None
        self._clients: list[subprocess.Popen[str]] = []

    def create(self, root: Path) -> None:
        self.data = root / "postgresql"
        words = ("--data-checksums", "--wal-segsize=1", "--auth=trust", "--encoding=UTF8", "--locale=C")
        self._call("initdb", "-D", self.data, *words)
        self._up()
        self._call("pgbench", "--initialize", "--quiet", *self._where, "postgres")
        self._sql("CREATE EXTENSION amcheck")
        self._sql(ROWS)
        self._down()

    def start(self, first: int) -> Said:
        self._up()
        statement = f"INSERT INTO rows VALUES ({{0}}, {CONTENT});\n\\echo {{0}}\n"
        self.script.write_text("".join(statement.format(number) for number in range(first, first + AHEAD)))
        words = ("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *self._where, "-d", "postgres", "-f", self.script)
        client = self._begin("stdbuf", "-oL", *words)  # it would keep what it says until it has much
        self._begin("pgbench", "--no-vacuum", "--client=2", "--time=600", *self._where, "postgres")
        return Said(client.stdout, first)

    def kill(self) -> None:
        """The server's processes each have a session of their own."""
        server = psutil.Process(self._server.pid)
        self._left = [server, *server.children(recursive=True)]
        for process in (*self._left, *self._clients):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def kill_what_is_left(self) -> None:
        """After a test that failed."""
        if self._server is not None and self._server.poll() is None:
            self.kill()

    def wait(self) -> None:
        self._server.wait(WAIT_S)
        _, alive = psutil.wait_procs(self._left, WAIT_S)
        assert not alive, alive
        for client in self._clients:
            client.wait(WAIT_S)
        self._clients = []

    def check(self) -> int:
        """Recovery, then every row, every index against its table, the sums; and every page's checksum."""
        self._up()
        whole, count, is_sound = self._sql(COUNTED).split("|")
        assert (whole, is_sound or "t") == ("t", "t"), "rows are missing, or their contents are others"
        assert self._sql(EVEN) == "t", "pgbench's sums do not agree"
        self._call("pg_amcheck", "--heapallindexed", *self._where, "-d", "postgres")
        self._down()
        self._call("pg_checksums", "--check", "-D", self.data)
        return int(count)

    # Its programs -----------------------------------------------------------------------------------------

    @property
    def _where(self) -> tuple[object, ...]:
        return ("-h", self.sockets, "-U", USER)

    def _up(self) -> None:
        options = [word for key, value in SETTINGS.items() for word in ("-c", f"{key}={value}")]
        words = [binary("postgres"), "-D", self.data, "-k", self.sockets, *options]
        with self.log.open("ab") as log:
            self._server = subprocess.Popen(list(map(str, words)), stdout=log, stderr=log, **_user())
        give_up = time.monotonic() + WAIT_S
        while self._run("pg_isready", "-q", *self._where).returncode:
            assert self._server.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < give_up, self.log.read_text()[-3000:]
            time.sleep(0.05)  # how often to look, not how long to wait

    def _down(self) -> None:
        self._server.send_signal(2)  # "fast"
        assert self._server.wait(WAIT_S) == 0, self.log.read_text()[-3000:]

    def _sql(self, statement: str) -> str:
        return self._call("psql", "-XAtq", *self._where, "-d", "postgres", "-c", statement).strip()

    def _call(self, name: str, *words: object) -> str:
        done = self._run(name, *words)
        assert done.returncode == 0, f"{name}: {done.stderr}{done.stdout}"
        return done.stdout

    def _run(self, name: str, *words: object) -> subprocess.CompletedProcess[str]:
        command = [binary(name), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_S, check=False, **_user())

    def _begin(self, name: str, *words: object) -> subprocess.Popen[str]:
        command, null = [tool(name), *map(str, words)], subprocess.DEVNULL
        client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=null, stdin=null, text=True, **_user())
        self._clients.append(client)
        return client


def _user() -> dict[str, object]:
    entry = pwd.getpwnam(USER)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/"}


@pytest.fixture
def folder():
    """Of the server's user, outside pytest's directories, which are closed to it."""
    with contextlib.suppress(KeyError):
        entry, path = pwd.getpwnam(USER), Path("/tmp") / f"perdure-postgresql-{os.getpid()}"
        path.mkdir(mode=0o755)
        os.chown(path, entry.pw_uid, entry.pw_gid)
        yield path
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
        return
    pytest.skip(f"POSTGRESQL NOT TESTED: there is no user {USER}")


@pytest.mark.timeout(1200)
def test_postgresql_keeps_every_commit_that_it_acknowledged_whatever_is_killed(tmp_path, folder):
    for name in ("postgres", "initdb", "pgbench", "pg_amcheck", "pg_checksums"):
        binary(name)
    with Mounted(tmp_path, size="160M", user=USER) as mounted:
        database = PostgreSql(folder)
        try:
            survive(mounted, database)
        finally:
            database.kill_what_is_left()

"""Connections: several databases and several connections, what is refused, what stays in memory, what is wiped."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import apsw
import pytest

from perdure.errors import Misuse
from perdure.sqlite import vfs as vfs_module
from perdure.sqlite.connection import connect, databases
from perdure.sqlite.files import ArrayError, MemoryFile
from perdure.volume.volume import Volume
from tests.volume.look import require_clean
from tests.volume.recorded import Recorded

SECRET = b"a preimage that must not come back"


@pytest.fixture
def array():
    return Recorded(4000)


@pytest.fixture
def volume(array):
    with Volume(array) as made:
        yield made
    require_clean(array)


def rows(connection, query: str):
    return connection.execute(query).fetchall()


def test_several_databases_share_an_array_with_other_files(array):
    with Volume(array) as volume:
        with volume.open("notes.txt", "w") as notes:
            notes.write("not a database")
        for name in ("one.db", "two.db"):
            with connect(volume, name) as connection:
                connection.execute("CREATE TABLE t(a); INSERT INTO t VALUES(?)", (name,))
    with Volume(array) as volume:
        assert databases(volume) == ["one.db", "two.db"]
        with connect(volume, "one.db") as one, connect(volume, "two.db") as two:
            assert rows(one, "SELECT a FROM t") == [("one.db",)]
            assert rows(two, "SELECT a FROM t") == [("two.db",)]
            one.execute("ATTACH 'two.db' AS two")
            assert rows(one, "SELECT a FROM two.t") == [("two.db",)]
    assert not [name for name in apsw.vfs_names() if name.startswith("perdure-")]


def test_connections_in_threads_take_turns_and_lose_nothing(volume):
    with connect(volume, "main.db") as connection:
        connection.execute("CREATE TABLE t(a); INSERT INTO t VALUES(0)")

    failures = []

    def count() -> None:
        try:
            with connect(volume, "main.db") as connection:
                for _ in range(25):
                    connection.execute("BEGIN IMMEDIATE; UPDATE t SET a = a + 1; COMMIT")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with connect(volume, "main.db") as connection:
        assert rows(connection, "SELECT a FROM t") == [(100,)]
        assert rows(connection, "PRAGMA integrity_check") == [("ok",)]


def test_other_threads_run_while_a_connection_waits_for_a_lock(volume):
    """As the array's own must, and whoever has the lock."""
    with connect(volume, "main.db") as holder, connect(volume, "main.db") as waiter:
        holder.execute("BEGIN EXCLUSIVE")
        waiter.set_busy_timeout(2000)
        refusals = []

        def wait() -> None:
            try:
                waiter.execute("BEGIN IMMEDIATE")
            except apsw.BusyError as error:
                refusals.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        turns = 0
        while thread.is_alive():
            time.sleep(0.001)
            turns += 1
        assert len(refusals) == 1
        assert turns > 100, "no more than some 30 if each of SQLite's sleeps stops everybody"


def test_a_writer_waits_for_readers_and_readers_see_no_half_transaction(volume):
    with connect(volume, "main.db") as writer, connect(volume, "main.db") as reader:
        writer.execute("CREATE TABLE t(a); INSERT INTO t VALUES(1)")
        writer.set_busy_timeout(0)
        reader.set_busy_timeout(0)
        reader.execute("BEGIN")
        assert rows(reader, "SELECT a FROM t") == [(1,)]
        writer.execute("BEGIN; UPDATE t SET a = 2")
        assert rows(reader, "SELECT a FROM t") == [(1,)]
        with pytest.raises(apsw.BusyError):
            writer.execute("COMMIT")
        with pytest.raises(apsw.BusyError):
            reader.execute("COMMIT; UPDATE t SET a = 3")
        writer.execute("COMMIT")
        assert rows(reader, "SELECT a FROM t") == [(2,)]


@pytest.mark.parametrize(("mode", "flushes"), [("DELETE", 2), ("TRUNCATE", 2), ("PERSIST", 2), ("WAL", 1)])
def test_a_commit_is_durable_and_costs_as_few_flushes_as_it_can(array, volume, mode, flushes):
    with connect(volume, "main.db", wal=mode == "WAL") as connection:
        assert rows(connection, f"PRAGMA journal_mode={mode}") == [(mode.lower(),)]
        connection.execute("CREATE TABLE t(a)")
        connection.execute("INSERT INTO t VALUES(1)")
        before = len(array.flushes)
        connection.execute("INSERT INTO t VALUES(2)")
        assert len(array.flushes) - before == flushes


# Write-ahead log ------------------------------------------------------------------------------------------


def test_a_write_ahead_log_is_refused_where_its_index_would_be_shared(volume):
    with connect(volume, "main.db") as connection:
        with pytest.raises(apsw.SQLError, match=r"has the database to itself.*wal=True"):
            connection.execute("PRAGMA journal_mode=WAL")
        assert rows(connection, "PRAGMA journal_mode") == [("delete",)]


def test_a_database_with_a_write_ahead_log_is_one_connections_alone(volume):
    with connect(volume, "main.db", wal=True) as connection:
        assert rows(connection, "PRAGMA journal_mode") == [("wal",)]
        connection.execute("CREATE TABLE t(a); INSERT INTO t VALUES(1)")
        with pytest.raises(Misuse, match="left with a write-ahead log"), connect(volume, "main.db"):
            pass
        with pytest.raises(apsw.BusyError), connect(volume, "main.db", wal=True):
            pass
    with connect(volume, "main.db", wal=True) as connection:
        assert rows(connection, "SELECT a FROM t") == [(1,)]
        assert rows(connection, "PRAGMA journal_mode=DELETE") == [("delete",)]
    with connect(volume, "main.db") as connection:
        assert rows(connection, "SELECT a FROM t") == [(1,)]


# Temporary files ------------------------------------------------------------------------------------------


def test_temporary_files_are_in_memory_and_never_on_the_hosts_disk(volume, monkeypatch):
    made = []

    class Seen(MemoryFile):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(vfs_module, "MemoryFile", Seen)
    before = opened()
    with connect(volume, "main.db") as connection:
        for setting in ("temp_store=FILE", "cache_size=10", "cache_spill=10"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute("CREATE TABLE t(a)")
        connection.executemany("INSERT INTO t VALUES(randomblob(?))", [(800,)] * 2000)
        connection.execute("CREATE TEMP TABLE s AS SELECT a FROM t")
        sorted_rows = connection.execute("SELECT a FROM s ORDER BY a")
        first = next(sorted_rows)
        assert opened() == before
        assert [first, *sorted_rows] == sorted(rows(connection, "SELECT a FROM s"))
        with connection:  # a statement's own journal, which is left half-way
            connection.execute("CREATE UNIQUE INDEX i ON t(a)")
            with pytest.raises(apsw.ConstraintError):
                connection.execute("UPDATE t SET a = CASE WHEN rowid < 1900 THEN randomblob(900) ELSE 1 END")
        assert rows(connection, "SELECT count(*) FROM t") == [(2000,)]
    assert len(made) >= 2
    assert sum(each.xFileSize() for each in made) > 1 << 20
    assert not any(any(each._data) for each in made), "they are overwritten when they are closed"
    assert volume.names == ["main.db"]


def opened() -> list[str]:
    """The files of the host that this process has open, by name."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            names.append(os.readlink(entry))
        except FileNotFoundError:  # that of the listing itself
            continue
    return sorted(name for name in names if name.startswith("/") and "/proc/" not in name)


# Deletion -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE"])
@pytest.mark.parametrize("is_long", [False, True])
def test_a_deleted_row_is_nowhere_once_its_commit_returned(array, volume, mode, is_long):
    with connect(volume, "main.db") as connection:
        rows(connection, f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE t(a)")
        connection.execute("INSERT INTO t VALUES(?), (x'00')", (SECRET.ljust(20_000 if is_long else 0, b"."),))
        assert SECRET in array.data
        connection.execute("DELETE FROM t WHERE rowid = 1")
        assert SECRET not in array.data
        size = volume.file("main.db").size
        connection.execute("VACUUM")
        assert (volume.file("main.db").size < size) == is_long
        assert SECRET not in array.data


@pytest.mark.parametrize("mode", ["PERSIST", "WAL"])
def test_journals_that_stay_keep_a_deleted_row_until_they_are_given_up(array, volume, mode):
    """What docs/recipes/sqlite-without-a-mount.md says of them."""
    with connect(volume, "main.db", wal=mode == "WAL") as connection:
        rows(connection, f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE t(a)")
        connection.execute("INSERT INTO t VALUES(?), (x'00')", (SECRET,))
        connection.execute("DELETE FROM t WHERE rowid = 1")
        assert SECRET in array.data
        rows(connection, "PRAGMA wal_checkpoint(TRUNCATE)" if mode == "WAL" else "PRAGMA journal_mode=TRUNCATE")
        connection.execute("INSERT INTO t VALUES(1)")
        assert SECRET not in array.data


def test_a_deleted_database_is_nowhere(array, volume):
    with connect(volume, "main.db") as connection:
        connection.execute("CREATE TABLE t(a)")
        connection.execute("INSERT INTO t VALUES(?)", (SECRET,))
    volume.delete("main.db")
    assert SECRET not in array.data
    assert databases(volume) == []


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_what_a_crash_left_beside_a_database_keeps_a_deleted_row_until_somebody_connects(array, mode):
    """What docs/recipes/sqlite-without-a-mount.md says of it."""
    with Volume(array) as volume, connect(volume, "main.db", wal=mode == "WAL") as connection:
        connection.execute("CREATE TABLE t(a)")
        connection.execute("INSERT INTO t VALUES(?), (x'00')", (SECRET,))
        connection.execute("BEGIN; DELETE FROM t WHERE rowid = 1")
        connection.cache_flush()
        crashed = [Recorded(content=bytes(array.data)) for _ in range(2)]
        connection.execute("ROLLBACK")
    with Volume(crashed[0]) as volume:
        volume.delete("main.db")
        assert SECRET in crashed[0].data
    with Volume(crashed[1]) as volume:
        with connect(volume, "main.db", wal=mode == "WAL"):
            pass
        volume.delete("main.db")
        assert SECRET not in crashed[1].data
        assert volume.names == []


# Refusals and errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ":memory:", "file:x", "x" * 229, "a\0b"])
def test_a_name_that_sqlite_or_the_volume_cannot_have_is_refused(volume, name):
    with pytest.raises(Misuse, match="name"), connect(volume, name):
        pass
    assert volume.names == []


def test_the_longest_name_has_room_for_its_journals(volume):
    with connect(volume, "x" * 228) as connection, connect(volume, "y" * 228):
        connection.execute(f"ATTACH '{'y' * 228}' AS second")
        connection.execute("CREATE TABLE main.t(a); CREATE TABLE second.t(a)")
        connection.execute("BEGIN; INSERT INTO main.t VALUES(1); INSERT INTO second.t VALUES(1); COMMIT")
    assert databases(volume) == ["x" * 228, "y" * 228]


def test_a_full_volume_rolls_the_transaction_back_and_says_why(volume):
    with connect(volume, "main.db") as connection:
        connection.execute("CREATE TABLE t(a); INSERT INTO t VALUES(1)")
        with pytest.raises(apsw.Error) as caught:
            connection.execute("INSERT INTO t VALUES(zeroblob(20000000))")
        assert isinstance(caught.value, ArrayError)
        assert "The volume is full: 'main.db'" in str(caught.value)
        assert isinstance(caught.value.__cause__, Misuse)
        assert rows(connection, "SELECT a FROM t") == [(1,)]
        connection.execute("INSERT INTO t VALUES(2)")
        assert rows(connection, "PRAGMA integrity_check") == [("ok",)]


def test_a_closed_volume_says_so_through_sqlite(array):
    volume = Volume(array)
    with connect(volume, "main.db") as connection:
        connection.execute("CREATE TABLE t(a)")
        volume.close()
        with pytest.raises(ArrayError, match="not open any more: it was closed"):
            connection.execute("INSERT INTO t VALUES(1)")

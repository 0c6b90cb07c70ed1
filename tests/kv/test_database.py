"""What ends a database, and that nothing else does."""

from __future__ import annotations

import apsw
import pytest

from perdure.errors import Fenced, Misuse, Unavailable
from perdure.kv.database import CHECKPOINT_PAGES, on_array, rows
from perdure.kv.store import Store
from tests.volume.recorded import Recorded

SECTORS = 4096
FENCED = Fenced("another main program has the array")


class Fencible(Recorded):
    """An array whose flushes, from some moment on, prove that it has another owner; or whose reads fail."""

    is_fenced = False
    is_gone = False

    def flush(self) -> None:
        if self.is_fenced:
            raise FENCED
        super().flush()

    def pread(self, offset: int, length: int) -> bytes:
        if self.is_gone:
            raise Unavailable("too few disks")
        return super().pread(offset, length)


@pytest.mark.parametrize("method", ["do", "alone"])
def test_a_flush_that_failed_has_ended_the_database_and_nothing_is_told_of_what_was_read(method: str) -> None:
    array = Fencible(SECTORS)
    with pytest.raises(Fenced), on_array(array, "some.db") as database:
        database.do(lambda connection: rows(connection, "CREATE TABLE t(x)"))
        array.is_fenced = True
        with pytest.raises(Fenced):
            getattr(database, method)(lambda connection: rows(connection, "SELECT count(*) FROM t"))
        assert database.failure is FENCED
        array.is_fenced = False
        with pytest.raises(Fenced):
            database.do(lambda connection: rows(connection, "SELECT count(*) FROM t"))
        raise FENCED


def test_work_that_refuses_is_undone_and_ends_nothing() -> None:
    def refuse(connection: apsw.Connection) -> None:
        if not connection.in_transaction:
            connection.execute("BEGIN")
        rows(connection, "INSERT INTO t VALUES(1)")
        raise Misuse("not this")

    with on_array(Recorded(SECTORS), "some.db") as database:
        database.do(lambda connection: rows(connection, "CREATE TABLE t(x)"))
        for method in (database.do, database.alone):
            with pytest.raises(Misuse, match="not this"):
                method(refuse)
        assert database.failure is None
        assert database.do(lambda connection: rows(connection, "SELECT count(*) FROM t")) == [(0,)]


@pytest.mark.parametrize("method", ["do", "alone"])
def test_what_work_refuses_is_told_only_by_who_still_owns_the_array(method: str) -> None:
    """What it says is about what it read: `version 3, not 2`, or that there is no such key."""

    def refuse(_: apsw.Connection) -> None:
        raise Misuse("not this")

    array = Fencible(SECTORS)
    with on_array(array, "some.db") as database:
        array.is_fenced = True
        with pytest.raises(Fenced):
            getattr(database, method)(refuse)
        array.is_fenced = False


@pytest.mark.parametrize("method", ["do", "alone"])
def test_an_interrupt_comes_through_and_ends_the_database(method: str) -> None:
    def interrupt(connection: apsw.Connection) -> None:
        rows(connection, "CREATE TABLE t(x)")
        raise KeyboardInterrupt

    array = Recorded(SECTORS)
    with on_array(array, "some.db") as database:
        with pytest.raises(KeyboardInterrupt):
            getattr(database, method)(interrupt)
        with pytest.raises(Unavailable, match="The database failed: KeyboardInterrupt"):
            database.do(lambda connection: rows(connection, "SELECT * FROM sqlite_schema"))


def test_where_nothing_can_be_undone_any_more_the_database_has_ended_and_closing_says_why() -> None:
    array = Fencible(SECTORS)

    def fill(connection: apsw.Connection) -> None:
        rows(connection, "PRAGMA cache_size=10")
        rows(connection, "UPDATE t SET x = zeroblob(100)")
        array.is_gone = True
        raise apsw.FullError

    with pytest.raises(Unavailable, match="too few disks"), on_array(array, "some.db") as database:
        database.do(lambda connection: rows(connection, "CREATE TABLE t(x)"))
        many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200) "
        database.do(lambda connection: rows(connection, many + "INSERT INTO t SELECT zeroblob(3000) FROM n"))
        with pytest.raises(Unavailable):
            database.do(fill)
        assert database.failure is not None
        raise database.failure


@pytest.mark.parametrize("pending", [0, CHECKPOINT_PAGES // 2, CHECKPOINT_PAGES - 1])
def test_a_full_database_can_be_changed_from_end_to_end_at_once(pending: int) -> None:
    """Its log then has every page of it, behind what was there before: else it could never be carried home again."""
    array = Recorded(SECTORS)
    with on_array(array, "some.db") as database:
        database.do(lambda connection: rows(connection, "CREATE TABLE t(x INTEGER PRIMARY KEY, y BLOB)"))
        with pytest.raises(Unavailable, match="full"):
            for at in range(SECTORS):
                database.do(lambda connection, at=at: rows(connection, "INSERT INTO t VALUES(?, zeroblob(3000))", at))
        database.do(lambda connection: rows(connection, "UPDATE t SET y=zeroblob(2999)"))
        for _ in range(pending):
            database.do(lambda connection: rows(connection, "UPDATE t SET y=zeroblob(2998) WHERE x=0"))
        database.do(lambda connection: rows(connection, "UPDATE t SET y=zeroblob(2997)"))
    with on_array(array, "some.db") as database:
        assert database.do(lambda connection: rows(connection, "SELECT DISTINCT length(y) FROM t")) == [(2997,)]
        database.do(lambda connection: rows(connection, "DELETE FROM t"))


def test_a_deleted_value_stays_in_the_log_until_the_log_is_carried_home() -> None:
    """A limit: so `Store.delete` is no erasure, and secrets belong into a key store."""
    array, value = Recorded(SECTORS), b"a value that was deleted" * 20
    with on_array(array, "some.db") as database:
        store = Store(database)
        store.put(b"k", value, expected=0)
        store.delete(b"k", expected=1)
        assert value[:24] in array.data
    assert value[:24] not in array.data


def test_an_array_has_one_database_since_each_takes_half_of_it() -> None:
    array = Recorded(SECTORS)
    with on_array(array, "vss.db"):
        pass
    before = bytes(array.data)
    with pytest.raises(Misuse, match="holds the database 'vss"), on_array(array, "cln.db"):
        pass
    assert array.data == before
    with on_array(array, "vss.db"):
        pass

"""SQLite on an array of real disk processes: a disk is lost, another main program takes over."""

from __future__ import annotations

import pytest

from perdure import api
from perdure.errors import Fenced, Misuse
from perdure.sqlite.connection import connect
from perdure.sqlite.files import ArrayError
from perdure.volume.volume import Volume
from tests.shell.test_api import Disks

SIZE_BYTES = 4 << 20


@pytest.fixture
def disks(tmp_path):
    running = Disks(tmp_path)
    yield running
    running.end()


def test_a_disk_lost_in_the_middle_of_transactions_loses_none_of_them(disks):
    with api.create_array(disks.settings(), k=2, n=3, size_bytes=SIZE_BYTES) as array:
        array_id = array.array_id
        with Volume(array) as volume, connect(volume, "main.db") as connection:
            connection.execute("CREATE TABLE t(a)")
            for number in range(20):
                connection.execute("BEGIN; INSERT INTO t VALUES(?)", (number,))
                if number == 10:
                    disks.kill(1)
                connection.execute("COMMIT")
    with (
        api.open_array(disks.settings(), array_id) as array,
        Volume(array) as volume,
        connect(volume, "main.db") as connection,
    ):
        assert connection.execute("SELECT a FROM t").fetchall() == [(number,) for number in range(20)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_fenced_program_is_told_so_by_sqlite_and_commits_nothing_more(disks):
    with api.create_array(disks.settings(), k=2, n=3, size_bytes=SIZE_BYTES) as array:
        array_id = array.array_id
        with Volume(array) as volume, connect(volume, "main.db") as connection:
            connection.execute("CREATE TABLE t(a); INSERT INTO t VALUES(1)")
    with pytest.raises((Fenced, Misuse)), api.open_array(disks.settings(), array_id) as first:
        volume = Volume(first)
        with connect(volume, "main.db") as earlier:
            earlier.execute("INSERT INTO t VALUES(2)")
            with (
                api.open_array(disks.settings(), array_id) as second,
                Volume(second) as its,
                connect(its, "main.db") as later,
            ):
                with pytest.raises(ArrayError) as caught:
                    earlier.execute("INSERT INTO t VALUES(3)")
                assert isinstance(caught.value.__cause__, Fenced)
                assert str(caught.value) == str(caught.value.__cause__)
                later.execute("INSERT INTO t VALUES(4)")
                assert later.execute("SELECT a FROM t").fetchall() == [(1,), (2,), (4,)]
        volume.close()

"""The node's database again: whole transactions, in order, and never from an older state."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.cln.replica import DATABASE, OldDatabase, Replica
from perdure.errors import Misuse, Unavailable
from perdure.kv.database import on_array, on_file
from tests.cln.node import Node, dump
from tests.volume.recorded import Recorded

SECTORS = 4096


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    with on_file(tmp_path / "kept") as database:
        yield Replica(database)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    found = Node(tmp_path / "node.sqlite3")
    yield found
    found.close()


def live(replica: Replica, node: Node, count: int) -> None:
    for _ in range(count):
        writes = node.next()
        replica.write(node.version + 1, writes)
        node.commit(writes)


def test_what_is_kept_is_what_the_node_has(replica: Replica, node: Node, tmp_path: Path) -> None:
    live(replica, node, 120)
    assert replica.restore(tmp_path / "again") == node.version == 120
    assert dump(tmp_path / "again") == dump(node.file)
    assert (tmp_path / "again").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "again").read_bytes()[18:20] == b"\1\1", "without a write-ahead log, as the node's own"


def test_a_node_that_died_before_its_commit_begins_from_what_is_kept(
    replica: Replica, node: Node, tmp_path: Path
) -> None:
    live(replica, node, 10)
    writes = node.next()
    replica.write(11, writes)  # and the node is killed
    with pytest.raises(OldDatabase):
        replica.write(11, writes)
    assert replica.restore(tmp_path / "again") == 11
    again = Node(tmp_path / "again")
    live(replica, again, 10)
    assert replica.version == again.version == 21
    again.close()


@pytest.mark.parametrize("back", [1, 2, 9])
def test_a_node_on_an_older_copy_is_stopped_at_its_first_write(replica: Replica, node: Node, back: int) -> None:
    live(replica, node, 10)
    with pytest.raises(OldDatabase, match="cln restore") as caught:
        replica.write(10 - back + 1, ["UPDATE vars SET intval = intval + 1 WHERE name = 'data_version'"])
    assert caught.value.exit_code == 3
    assert replica.version == 10


def test_a_node_that_ran_without_us_is_stopped(replica: Replica, node: Node) -> None:
    live(replica, node, 3)
    with pytest.raises(Misuse, match="without this plugin"):
        replica.write(5, ["UPDATE vars SET intval = 5 WHERE name = 'data_version'"])
    assert replica.version == 3


def test_a_transaction_that_does_not_make_its_version_is_not_kept(replica: Replica, node: Node) -> None:
    live(replica, node, 3)
    for writes in ([], ["INSERT INTO peers VALUES (99, x'00')"]):
        with pytest.raises(Misuse, match="made 3"):
            replica.write(4, writes)
    live(replica, node, 1)
    assert replica.version == 4


def test_a_statement_that_fails_stops_everything_and_leaves_what_was_kept(node: Node, tmp_path: Path) -> None:
    with on_file(tmp_path / "kept") as database:
        replica = Replica(database)
        live(replica, node, 3)
        with pytest.raises(Misuse, match="NONSENSE"):
            replica.write(4, ["INSERT INTO peers VALUES (99, x'00')", "NONSENSE"])
        with pytest.raises(Unavailable):
            replica.write(4, ["COMMIT"])
    with on_file(tmp_path / "kept") as database:
        assert Replica(database).version == 3
        assert Replica(database).restore(tmp_path / "again") == 3
    assert dump(tmp_path / "again") == dump(node.file)


@pytest.mark.parametrize(
    "refused",
    [
        "INSERT INTO peers VALUES (?, x'00')",
        "INSERT INTO peers VALUES ('no number', x'00')",
        "INSERT INTO peers VALUES (99, zeroblob(2000000000))",
        "INSERT INTO peers VALUES (99, x'00')\0;",
        "INSERT INTO peers VALUES (99, '\ud800')",
    ],
)
def test_whatever_sqlite_refuses_it_for_a_statement_is_undone_and_named_so(
    replica: Replica, node: Node, refused: str
) -> None:
    live(replica, node, 3)
    with pytest.raises(Misuse, match="cannot be done on what is kept"):
        replica.write(4, ["INSERT INTO peers VALUES (98, x'00')", refused])
    live(replica, node, 1)
    assert replica.version == 4


def test_while_foreign_keys_are_off_nothing_is_taken_along(replica: Replica, node: Node, tmp_path: Path) -> None:
    """The node reports the two settings by themselves and without a new version, around a change of a table."""
    live(replica, node, 60)
    count = node.db.execute("SELECT count(*) FROM channels").fetchone()[0]
    assert count > 0
    change = ["ALTER TABLE channels RENAME TO temp_channels;", "CREATE TABLE channels (id, peer_id, state, last_tx);"]
    change += ["INSERT INTO channels SELECT * FROM temp_channels;", "DROP TABLE temp_channels;"]
    for setting in ("PRAGMA foreign_keys = OFF;", "PRAGMA foreign_keys = ON;"):
        replica.write(node.version, [setting])
        node.db.execute(setting)
        for writes in (["DELETE FROM peers;"], change) if setting.endswith("OFF;") else ():
            replica.write(node.version + 1, [*writes, Node.count(node.version)])
            node.commit([*writes, Node.count(node.version)])
    assert node.db.execute("SELECT count(*) FROM channels").fetchone()[0] == count
    live(replica, node, 20)
    replica.restore(tmp_path / "again")
    assert dump(tmp_path / "again") == dump(node.file)
    with pytest.raises(OldDatabase):
        replica.write(node.version - 1, ["PRAGMA foreign_keys = OFF;"])


def test_the_version_goes_round_after_32_bits(replica: Replica, node: Node) -> None:
    live(replica, node, 1)
    last = (1 << 32) - 1
    node.db.execute("UPDATE vars SET intval = ?", (last,))
    node.db.execute("VACUUM")
    with on_file(node.file.with_name("other")) as database:
        other = Replica(database)
        assert other.take(node.file) == last
        other.write(0, ["UPDATE vars SET intval = 0 WHERE name = 'data_version'"])
        with pytest.raises(OldDatabase):
            other.write(last, ["UPDATE vars SET intval = 0 WHERE name = 'data_version'"])
        assert other.version == 0


def test_a_node_that_has_lived_is_taken_as_it_is_and_only_once(replica: Replica, node: Node, tmp_path: Path) -> None:
    for _ in range(30):
        node.commit(node.next())
    assert replica.take(node.file) == 30
    live(replica, node, 10)
    replica.restore(tmp_path / "again")
    assert dump(tmp_path / "again") == dump(node.file)
    with pytest.raises(Misuse, match="already"):
        replica.take(node.file)


def test_what_is_no_database_of_a_node_is_not_taken(replica: Replica, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be looked at" * 100)
    sqlite3.connect(tmp_path / "empty").close()
    for name in ("text", "empty", "missing"):
        with pytest.raises(Misuse, match="nothing was changed"):
            replica.take(tmp_path / name)


def test_an_array_that_keeps_no_database_restores_none(replica: Replica, tmp_path: Path) -> None:
    """A node would take an empty one for a new life, and forget every channel of the one that it had."""
    with pytest.raises(Misuse, match=r"No database is kept here.* cln take"):
        replica.restore(tmp_path / "again")
    assert list(tmp_path.glob("again*")) == []


def test_restoring_replaces_no_file_and_leaves_none_behind(replica: Replica, node: Node, tmp_path: Path) -> None:
    live(replica, node, 2)
    (tmp_path / "there").write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Misuse, match="Name a new file"):
        replica.restore(tmp_path / "there")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there").read_text() == "mine"


def test_after_a_crash_anywhere_what_was_answered_is_kept_whole(node: Node, tmp_path: Path) -> None:
    array = Recorded(SECTORS)
    answered, states = [], {}
    with on_array(array, DATABASE) as database:
        replica = Replica(database)
        for _ in range(12):
            live(replica, node, 1)
            answered.append((array.flushes[-1], node.version))
            states[node.version] = dump(node.file)
    for count, cut in array.cuts(answered[0][0]):
        if count % 5 and count not in dict(answered):
            continue  # every flush, and a fifth of what is between
        with on_array(cut, DATABASE) as database:
            found = Replica(database)
            told = max(version for at, version in answered if at <= count)
            assert told <= found.version <= told + 1
            again = tmp_path / f"cut-{count}"
            found.restore(again)
            assert dump(again) == states[found.version]

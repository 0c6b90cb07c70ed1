"""What real lightningds said, to the plugin and into the replica. Which words are theirs is said in `recorded.py`: the
tables here, the counting of versions and what is said between are ours, after the documentation.
"""

from __future__ import annotations

import sqlite3
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.cln.plugin import Plugin
from perdure.cln.replica import Replica
from perdure.errors import Misuse
from perdure.kv.database import on_file
from tests.cln.node import Node, dump, request
from tests.cln.recorded import (
    HISTORY,
    HISTORY_COUNT,
    HISTORY_SOURCE,
    INVOICE,
    RECENT_ID,
    UNREADABLE,
    UTXO,
    UTXO_BLOCK,
    WARNING,
    history,
)
from tests.cln.rig import Running, answers, perdure
from tests.vss.served import array_place

TABLES = [
    "CREATE TABLE invoices (payment_hash, payment_key, state, msatoshi, label, expiry_time, pay_index,"
    " msatoshi_received, paid_timestamp, bolt11, description, features)",
    "CREATE TABLE blocks (height INT, UNIQUE (height))",
    "CREATE TABLE utxoset (txid, outnum, blockheight REFERENCES blocks (height) ON DELETE CASCADE, spendheight,"
    " txindex, scriptpubkey, satoshis, PRIMARY KEY (txid, outnum))",
    "CREATE TABLE outputs (prev_out_tx, reserved_til)",
]
"""The smallest that the statements need."""
BLOCK = f"INSERT INTO blocks VALUES ({UTXO_BLOCK})"
REORGANISED = [f"DELETE FROM blocks WHERE height >= {UTXO_BLOCK}", BLOCK, UTXO]


def versioned(node: Node) -> tuple[bytes, list[str]]:
    """The recorded request as a later lightningd would send it, and its statements."""
    count = Node.count(node.version)
    message = INVOICE.replace(b'"params":{', b'"params":{"data_version":%d,' % (node.version + 1))
    message = message.replace(b'"]}}', f'","{count}"]}}}}'.encode())
    statement = INVOICE[INVOICE.index(b"INSERT") : INVOICE.index(b'"]}}')].decode()
    return message, [statement, count]


def kept(plugin: Running, node: Node, writes: list[str]) -> None:
    writes = [*writes, Node.count(node.version)]
    reply = plugin.ask(request(RECENT_ID, node.version + 1, writes))
    assert reply == {"jsonrpc": "2.0", "id": RECENT_ID, "result": {"result": "continue"}}
    node.commit(writes)


@given(st.lists(st.integers(0, len(WARNING + INVOICE)), max_size=8))
def test_a_notification_and_a_write_cut_anywhere_are_one_answer(places: list[int]) -> None:
    plugin = Plugin(lambda version, writes: pytest.fail("it has no version"))
    bounds = [0, *sorted(places), len(WARNING + INVOICE)]
    raw = b"".join(plugin.receive((WARNING + INVOICE)[at:end]) for at, end in pairwise(bounds))
    (reply,) = answers(raw)
    assert reply["id"] == 8
    assert "result" not in reply


@pytest.mark.timeout(400)
def test_what_nodes_wrote_comes_back_from_an_array(tmp_path: Path) -> None:
    with array_place(tmp_path / "a") as place, Running(*place.words) as plugin:
        node = Node(tmp_path / "node.sqlite3")
        plugin.live(node, 1)
        kept(plugin, node, TABLES)
        reply = plugin.ask(WARNING + INVOICE)
        assert "data_version" in reply["error"]["message"], "a lightningd that counts no versions is stopped"
        message, writes = versioned(node)
        assert plugin.ask(message) == {"jsonrpc": "2.0", "id": 8, "result": {"result": "continue"}}
        node.commit(writes)
        kept(plugin, node, [BLOCK, UTXO])
        kept(plugin, node, REORGANISED)
        assert plugin.end() == 0
        assert "version 5" in perdure("cln", "restore", *place.words, "-o", tmp_path / "again")
        node.close()
    assert dump(tmp_path / "again") == dump(tmp_path / "node.sqlite3")
    db = sqlite3.connect(tmp_path / "again")
    assert db.execute("SELECT label, description, features FROM invoices").fetchall() == [("c", "a", b"\x82\x00")]
    assert db.execute("SELECT satoshis FROM utxoset").fetchall() == [(1129870000,)]
    db.close()


def test_the_reorganisation_that_broke_a_backup_is_kept_as_foreign_keys_are_on(tmp_path: Path) -> None:
    """A block that goes takes its outputs along, in the node and here: then they can be written again."""
    with on_file(tmp_path / "kept") as database:
        replica, node = Replica(database), Node(tmp_path / "node.sqlite3")
        for writes in (node.next()[:-1], TABLES, [BLOCK, UTXO], REORGANISED):
            whole = [*writes, Node.count(node.version)]
            replica.write(node.version + 1, whole)
            node.commit(whole)
        replica.write(4, ["PRAGMA foreign_keys = OFF;"])  # as it was in that backup
        with pytest.raises(Misuse, match=r"UNIQUE constraint failed: utxoset\.txid, utxoset\.outnum"):
            replica.write(5, [*REORGANISED, Node.count(4)])
        node.close()


def test_a_write_that_sqlite_refuses_is_undone_whole_and_said_so(tmp_path: Path) -> None:
    unreadable = f"UPDATE outputs SET reserved_til={UNREADABLE} prev_out_tx=x'00'"
    with on_file(tmp_path / "kept") as database:
        replica, node = Replica(database), Node(tmp_path / "node.sqlite3")
        replica.write(1, node.next())
        replica.write(2, [*TABLES, Node.count(1)])
        with pytest.raises(Misuse, match=rf"{UNREADABLE}.*before 0\.9\.2"):
            replica.write(3, [BLOCK, Node.count(2), unreadable])
        assert replica.version == 2
        replica.write(3, [BLOCK, unreadable.replace("WHERE", " WHERE"), Node.count(2)])
        node.close()


@pytest.mark.skipif(HISTORY is None, reason=f"PERDURE_CLN_HISTORY names no copy of {HISTORY_SOURCE}")
@pytest.mark.timeout(400)
def test_the_whole_life_of_a_node_comes_back_from_an_array(tmp_path: Path) -> None:
    node, refused = sqlite3.connect(tmp_path / "node.sqlite3", isolation_level=None), []
    node.execute("PRAGMA foreign_keys = ON")
    with array_place(tmp_path / "a") as place, Running(*place.words) as plugin:
        for version, recorded in history(Path(HISTORY or "")):
            reply = plugin.ask(request(version, version, recorded))
            if "error" in reply:  # neither does the SQLite of the node that is played here read it
                assert "before 0.9.2" in reply["error"]["message"]
                refused.append(version)
            writes = [one.replace("WHERE prev_out_tx", " WHERE prev_out_tx") for one in recorded]
            if "error" in reply:
                assert "result" in plugin.ask(request(version, version, writes))
            node.execute("BEGIN")
            for statement in writes:
                node.execute(statement)
            node.execute("COMMIT")
        assert plugin.end() == 0
        assert f"version {HISTORY_COUNT}" in perdure("cln", "restore", *place.words, "-o", tmp_path / "again")
    node.close()
    assert refused == [11, 14]
    assert dump(tmp_path / "again") == dump(tmp_path / "node.sqlite3")

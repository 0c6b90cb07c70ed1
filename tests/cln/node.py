"""What a Core Lightning node does to its database, without a node: transactions that are reported before they are
committed, as `db/exec.c` and `db/db_sqlite3.c` of ElementsProject/lightning do it. There is no lightningd here.
"""

from __future__ import annotations

import json
import random
import sqlite3
from pathlib import Path

FIRST = [
    "CREATE TABLE version (version INTEGER)",
    "INSERT INTO version VALUES (1)",
    "CREATE TABLE vars (  name VARCHAR(32), val VARCHAR(255), PRIMARY KEY (name));",
    "CREATE TABLE peers (id INTEGER, node_id BLOB UNIQUE, PRIMARY KEY (id))",
    "CREATE TABLE channels (  id INTEGER,  peer_id INTEGER REFERENCES peers(id) ON DELETE CASCADE,  state INTEGER,"
    "  last_tx BLOB,  PRIMARY KEY (id));",
    "ALTER TABLE vars ADD COLUMN intval INTEGER",
    "ALTER TABLE vars ADD COLUMN blobval BLOB",
    "INSERT INTO vars (name, intval) VALUES ('data_version', 0)",
]
"""After the first of `dbmigrations` in `wallet/db.c`."""


class Node:
    """The node's own database, and the transactions that it would report."""

    def __init__(self, file: Path, seed: int = 1) -> None:
        self.file = file
        self.db = sqlite3.connect(file, isolation_level=None)
        self.db.execute("PRAGMA foreign_keys = ON")
        self.random = random.Random(seed)

    def close(self) -> None:
        self.db.close()

    @property
    def version(self) -> int:
        try:
            found = self.db.execute("SELECT intval FROM vars WHERE name='data_version'").fetchall()
        except sqlite3.OperationalError:
            return 0
        return found[0][0] if found else 0

    def next(self) -> list[str]:
        """The statements of another transaction, which are not yet done."""
        if self.version == 0:
            return [*FIRST, self.count(0)]
        chosen = self.random.randrange(4)
        number = self.random.randrange(1, 40)
        blob = self.random.randbytes(self.random.randrange(1, 3000)).hex()
        statements = [
            [f"INSERT OR IGNORE INTO peers VALUES ({number}, x'{blob[:66]}');"],
            [
                f"INSERT OR IGNORE INTO peers VALUES ({number}, x'{number:066x}');",
                f"INSERT OR REPLACE INTO channels VALUES ({number}, (SELECT min(id) FROM peers), 3, x'{blob}');",
            ],
            [f"UPDATE channels SET state={number}, last_tx=x'{blob}' WHERE id <= {number};"],
            [f"DELETE FROM peers WHERE id={number};"],  # takes channels along
        ][chosen]
        return [*statements, self.count(self.version)]

    def commit(self, writes: list[str]) -> None:
        self.db.execute("BEGIN")
        for statement in writes:
            self.db.execute(statement)
        self.db.execute("COMMIT")

    @staticmethod
    def count(version: int) -> str:
        return f"UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {version}"


def request(number: object, version: object, writes: object) -> bytes:
    """By hand, after the documentation of the hook `db_write`; no lightningd sent one like it."""
    params = {"data_version": version, "writes": writes}
    message = {"jsonrpc": "2.0", "id": number, "method": "db_write", "params": params}
    return json.dumps(message).encode() + b"\n\n"


def dump(file: Path) -> list[str]:
    """All that a database holds."""
    db = sqlite3.connect(file)
    try:
        return list(db.iterdump())
    finally:
        db.close()

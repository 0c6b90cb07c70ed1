"""Keys whose versions only ever rise: compare-and-set, all or nothing, with tombstones.

The version of a key is 0 until it is first written and one more after each change, also after a deletion, which leaves
a tombstone. So no version of a key ever comes twice, and who says `expected=0` knows that the key is new for good.
On an array that holds across crashes, mounts and whatever a host shows; on an ordinary file it holds as long as nobody
puts an older file in its place (`perdure.kv.database`).

    CREATE TABLE kv(key BLOB PRIMARY KEY, version INTEGER, value BLOB)  -- a value of NULL is a tombstone
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import apsw

from perdure.errors import Conflict, Misuse
from perdure.kv.database import Database, rows

KEY_BYTES_MAX: Final = 1024
VALUE_BYTES_MAX: Final = 1 << 20
CHANGES_MAX: Final = 1000
"""In one transaction."""
TRANSACTION_BYTES_MAX: Final = 16 << 20
PAGE_KEYS_MAX: Final = 1000
_BEHIND: Final = b"\xff" * (KEY_BYTES_MAX + 1)
"""A prefix with this is greater than every key with that prefix."""
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS kv(key BLOB PRIMARY KEY NOT NULL, version INTEGER NOT NULL CHECK(version > 0), "
    "value BLOB)"
)
_WRITE: Final = (
    "INSERT INTO kv VALUES(?, 1, ?) ON CONFLICT(key) DO UPDATE SET version=version+1, value=excluded.value "
    "RETURNING version"
)
_KEYS: Final = (
    "SELECT key, version FROM kv WHERE key > ? AND key >= ? AND key < ? AND value IS NOT NULL ORDER BY key LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Item:
    """What a key has: `version` counts its changes from 1."""

    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Change:
    """What to make of a key, if its version is `expected` (0: it was never there). A `value` of None deletes.

    Raises Misuse when something is larger than it may be.
    """

    key: bytes
    value: bytes | None
    expected: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.key) <= KEY_BYTES_MAX or len(self.value or b"") > VALUE_BYTES_MAX or self.expected < 0:
            raise Misuse(
                f"A key has 1 to {KEY_BYTES_MAX} bytes, a value at most {VALUE_BYTES_MAX}, a version is 0 or more; "
                f"this change has {len(self.key)}, {len(self.value or b'')} and {self.expected}. Nothing was changed."
            )


class Store:
    """All keys of a database; every method may be called from any thread, and returns when the database has proved it.

    Every method raises what `Database.do` raises.
    """

    def __init__(self, database: Database) -> None:
        """Make the table if it is not there."""
        self._database = database
        database.do(lambda connection: connection.execute(_TABLE).fetchall())

    def get(self, key: bytes) -> Item | None:
        """The latest value and its version; None if the key is not there, or not any more."""
        found = self._database.do(
            lambda connection: rows(connection, "SELECT value, version FROM kv WHERE key=? AND value IS NOT NULL", key)
        )
        return Item(*found[0]) if found else None

    def version(self, key: bytes) -> int:
        """How often the key was changed, deletions included; 0 if it was never there."""
        return self._database.do(lambda connection: _version(connection, key))

    def put(self, key: bytes, value: bytes, *, expected: int) -> int:
        """Set `value` if the key's version is `expected`; the new version. Raises Conflict, Misuse."""
        return self.transaction([Change(key, value, expected)])[0]

    def delete(self, key: bytes, *, expected: int) -> int:
        """Delete the key if its version is `expected`; the tombstone's version. Raises Conflict.

        The value is overwritten in the database, but stands in the write-ahead log until that is overwritten by later
        changes, or closed. So this is no erasure: secrets that must be gone belong into `perdure.keystore`.
        """
        return self.transaction([Change(key, None, expected)])[0]

    def transaction(self, changes: Sequence[Change]) -> list[int]:
        """Make all changes or none; the new versions. Raises Conflict for the first that does not fit, Misuse."""
        size = sum(len(change.key) + len(change.value or b"") for change in changes)
        if len(changes) > CHANGES_MAX or size > TRANSACTION_BYTES_MAX:
            raise Misuse(
                f"A transaction has at most {CHANGES_MAX} changes of {TRANSACTION_BYTES_MAX} bytes together, and this "
                f"one has {len(changes)} of {size}. Nothing was changed."
            )
        if len({change.key for change in changes}) < len(changes):
            raise Misuse("A transaction changes each key once, and this one has a key twice. Nothing was changed.")
        return self._database.do(lambda connection: [_change(connection, change) for change in changes])

    def keys(
        self, prefix: bytes = b"", *, after: bytes = b"", count_max: int = PAGE_KEYS_MAX
    ) -> list[tuple[bytes, int]]:
        """Keys that are there and their versions, in order, beginning behind `after`; one page. Raises Misuse."""
        if not 1 <= count_max <= PAGE_KEYS_MAX:
            raise Misuse(f"A page has 1 to {PAGE_KEYS_MAX} keys, not {count_max}; nothing was read.")
        return self._database.do(lambda connection: rows(connection, _KEYS, after, prefix, prefix + _BEHIND, count_max))


def _version(connection: apsw.Connection, key: bytes) -> int:
    found = rows(connection, "SELECT version FROM kv WHERE key=?", key)
    return int(found[0][0]) if found else 0


def _change(connection: apsw.Connection, change: Change) -> int:
    found = _version(connection, change.key)
    if found != change.expected:
        raise Conflict(
            f"The key {change.key[:40].hex()} has version {found}, not {change.expected}; nothing was changed. Read "
            "it, and decide anew.",
            found,
        )
    if found == 0 and change.value is None:
        return 0  # what was never there is not there
    return int(rows(connection, _WRITE, change.key, change.value)[0][0])

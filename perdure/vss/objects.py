"""What VSS keeps, and its rules of versions: a core over one connection, without a commit of its own.

The versions of VSS are the protocol's, not those of `perdure.kv.store`: an unconditional write sets a key's version to
1, and a key that was deleted begins at 1 again. What an array adds is that no acknowledged state ever comes back.

    CREATE TABLE vss(place, user, store, key, version, value)  -- `place` rises with each key that is made
"""

from __future__ import annotations

from typing import Final

import apsw

from perdure.errors import Conflict, Misuse, PerdureError
from perdure.kv.database import rows
from perdure.vss.messages import Delete, Get, KeyValue, List, Page, Put

GLOBAL_VERSION_KEY: Final = "global_version"
"""The key under which the version of a whole store is kept; never listed."""
ANY_VERSION: Final = -1
FIRST_VERSION: Final = 1
PAGE_ITEMS_MAX: Final = 100
PUT_ITEMS_MAX: Final = 1000
STORE_CHARACTERS_MAX: Final = 120
USER_CHARACTERS_MAX: Final = 120
KEY_CHARACTERS_MAX: Final = 600
_VERSION_MAX: Final = (1 << 63) - 1
SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS vss(place INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, store TEXT NOT NULL, "
    "key TEXT NOT NULL, version INTEGER NOT NULL, value BLOB NOT NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS vss_keys ON vss(user, store, key)",
    "CREATE INDEX IF NOT EXISTS vss_places ON vss(user, store, place)",
)
_FIND: Final = "SELECT version, value FROM vss WHERE user=? AND store=? AND key=?"
_INSERT: Final = "INSERT INTO vss(user, store, key, version, value) VALUES(?, ?, ?, 1, ?)"
_UPDATE: Final = "UPDATE vss SET version=?, value=? WHERE user=? AND store=? AND key=?"
_DELETE: Final = "DELETE FROM vss WHERE user=? AND store=? AND key=?"
_LIST: Final = (
    "SELECT key, version, place FROM vss WHERE user=? AND store=? AND place < ? AND key <> ? "
    "AND substr(key, 1, length(?)) = ? ORDER BY place DESC LIMIT ?"
)
_NO_NUL: Final = "Names have no NUL character here; nothing was changed."


class NoSuchKey(PerdureError):
    """The key is not there."""


def make(connection: apsw.Connection) -> None:
    """Make the tables if they are not there."""
    for statement in SCHEMA:
        connection.execute(statement).fetchall()


def get(connection: apsw.Connection, user: str, request: Get) -> KeyValue:
    """The latest value. Raises NoSuchKey, Misuse."""
    _require_names(user, request.store, request.key)
    found = rows(connection, _FIND, user, request.store, request.key)
    if found:
        return KeyValue(request.key, int(found[0][0]), bytes(found[0][1]))
    if request.key == GLOBAL_VERSION_KEY:
        return KeyValue(request.key)
    raise NoSuchKey("The key is not there.")


def put(connection: apsw.Connection, user: str, request: Put) -> None:
    """Write and delete all that is asked for; after an error, what was done so far must be undone.

    Raises Conflict for a version that does not fit and for a deletion of what is not there; Misuse.
    """
    writes = list(request.items)
    if request.global_version is not None:
        writes.append(KeyValue(GLOBAL_VERSION_KEY, request.global_version))
    keys = [item.key for item in (*writes, *request.deletes)]
    if len(keys) > PUT_ITEMS_MAX + 1 or len(request.items) + len(request.deletes) > PUT_ITEMS_MAX:
        raise Misuse(f"A request has at most {PUT_ITEMS_MAX} items; nothing was changed.")
    if len(set(keys)) < len(keys):
        raise Misuse("All items of a request have different keys, and here one comes twice; nothing was changed.")
    for item in writes:
        _write(connection, user, request.store, item)
    for item in request.deletes:
        if not _delete(connection, user, request.store, item):
            raise _conflict(item)


def delete(connection: apsw.Connection, user: str, request: Delete) -> None:
    """Delete the key if its version fits; if it is not there, or does not fit, nothing happens. Raises Misuse."""
    _delete(connection, user, request.store, request.item)


def list_keys(connection: apsw.Connection, user: str, request: List) -> Page:
    """Keys and versions, the newest key first; the first page has the version of the whole store too. Raises Misuse."""
    _require_names(user, request.store, request.prefix)
    store_version = None
    before = _VERSION_MAX
    if request.page_token is None:
        store_version = get(connection, user, Get(request.store, GLOBAL_VERSION_KEY)).version
    else:
        before = _place(request.page_token)
    wanted = PAGE_ITEMS_MAX if request.page_size is None else min(request.page_size, PAGE_ITEMS_MAX)
    if wanted < 0:
        raise Misuse("A page has no negative size; nothing was read.")
    if wanted == 0:
        return Page((), "", store_version)
    names = (GLOBAL_VERSION_KEY, request.prefix, request.prefix)
    found = rows(connection, _LIST, user, request.store, before, *names, wanted + 1)
    items = tuple(KeyValue(str(key), int(version)) for key, version, _ in found[:wanted])
    return Page(items, str(found[wanted - 1][2]) if len(found) > wanted else "", store_version)


# Inside ---------------------------------------------------------------------------------------------------


def _write(connection: apsw.Connection, user: str, store: str, item: KeyValue) -> None:
    _require_names(user, store, item.key)
    found = rows(connection, _FIND, user, store, item.key)
    version = int(found[0][0]) if found else 0
    if item.version not in (ANY_VERSION, version):
        raise _conflict(item)
    if not found:
        rows(connection, _INSERT, user, store, item.key, item.value)
        return
    version = FIRST_VERSION if item.version == ANY_VERSION else min(version + 1, _VERSION_MAX)
    rows(connection, _UPDATE, version, item.value, user, store, item.key)


def _delete(connection: apsw.Connection, user: str, store: str, item: KeyValue) -> bool:
    """Whether it was there in that version."""
    _require_names(user, store, item.key)
    found = rows(connection, _FIND, user, store, item.key)
    if not found or item.version not in (ANY_VERSION, int(found[0][0])):
        return False
    rows(connection, _DELETE, user, store, item.key)
    return True


def _place(token: str) -> int:
    """Where the page before ended. Raises Misuse."""
    if not (token.isascii() and token.isdigit() and len(token) <= 19 and int(token) <= _VERSION_MAX):
        raise Misuse("The page token is none that was given out; nothing was read.")
    return int(token)


def _require_names(user: str, store: str, key: str) -> None:
    if len(user) > USER_CHARACTERS_MAX or len(store) > STORE_CHARACTERS_MAX or len(key) > KEY_CHARACTERS_MAX:
        raise Misuse(
            f"A store's name has at most {STORE_CHARACTERS_MAX} characters and a key {KEY_CHARACTERS_MAX}; nothing was "
            "changed."
        )
    if "\0" in user + store + key:  # SQLite's length() and substr() of text end there
        raise Misuse(_NO_NUL)


def _conflict(item: KeyValue) -> Conflict:
    return Conflict(f"The key {item.key[:80]!r} does not have version {item.version}; nothing was changed.")

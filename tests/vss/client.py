"""A client of VSS over real HTTP, with the errors of the protocol by name."""

from __future__ import annotations

import http.client
import secrets
from dataclasses import dataclass
from urllib.parse import urlparse

from tests.vss import wire

CODES = {1: "CONFLICT", 2: "INVALID_REQUEST", 3: "INTERNAL_SERVER", 4: "NO_SUCH_KEY", 5: "AUTH"}
STATUSES = {"CONFLICT": 409, "INVALID_REQUEST": 400, "INTERNAL_SERVER": 500, "NO_SUCH_KEY": 404, "AUTH": 401}


class Refused(Exception):
    """An ErrorResponse; `code` is its name."""

    def __init__(self, status: int, body: bytes) -> None:
        found = wire.fields(body)
        self.code = CODES[found[1][0]]
        self.status = status
        super().__init__(f"{status} {self.code} {found.get(2, [b''])[0]!r}")


@dataclass(frozen=True)
class Listed:
    items: list[tuple[str, int]]
    token: str | None
    global_version: int | None


class Client:
    """One store of one server; a fresh name if none is given. Keeps its connection."""

    def __init__(self, url: str, store: str | None = None, authorization: str | None = None) -> None:
        self.place = urlparse(url)
        self.store = secrets.token_hex(4) if store is None else store
        self.headers = {} if authorization is None else {"Authorization": authorization}
        self._connection = http.client.HTTPConnection(self.place.hostname, self.place.port, timeout=60)

    def close(self) -> None:
        self._connection.close()

    def raw(self, call: str, body: bytes, method: str = "POST", headers: dict[str, str] | None = None):
        """Status, headers and body of one request."""
        self._connection.request(method, f"{self.place.path}/{call}", body, {**self.headers, **(headers or {})})
        with self._connection.getresponse() as reply:
            return reply.status, reply.headers, reply.read()

    def call(self, call: str, body: bytes) -> dict[int, list[int | bytes]]:
        status, headers, reply = self.raw(call, body)
        assert headers["vss-protocol-version"] == "0"
        if status != 200:
            refused = Refused(status, reply)
            assert status == STATUSES[refused.code]
            raise refused
        return wire.fields(reply)

    def get(self, key: str) -> tuple[bytes, int]:
        found = self.call("getObject", wire.data(1, self.store) + wire.data(2, key))
        item = wire.fields(found[2][0])
        assert item[1] == [key.encode()]
        return item.get(3, [b""])[0], item.get(2, [0])[0]

    def put(self, items=(), deletes=(), global_version: int | None = None) -> None:
        """Items are (key, value, version); deletes (key, version)."""
        body = wire.data(1, self.store)
        if global_version is not None:
            body += wire.number(2, global_version)
        for key, value, version in items:
            body += wire.data(3, wire.key_value(key, version, value))
        for key, version in deletes:
            body += wire.data(4, wire.key_value(key, version))
        assert self.call("putObjects", body) == {}

    def delete(self, key: str, version: int) -> None:
        body = wire.data(1, self.store) + wire.data(2, wire.key_value(key, version))
        assert self.call("deleteObject", body) == {}

    def list(self, prefix: str | None = None, size: int | None = None, token: str | None = None) -> Listed:
        body = wire.data(1, self.store)
        body += b"" if prefix is None else wire.data(2, prefix)
        body += b"" if size is None else wire.number(3, size)
        body += b"" if token is None else wire.data(4, token)
        found = self.call("listKeyVersions", body)
        parsed = [wire.fields(item) for item in found.get(1, [])]
        assert all(3 not in item or item[3] == [b""] for item in parsed), "values are never listed"
        items = [(item[1][0].decode(), item[2][0]) for item in parsed]
        token = found[2][0].decode() if 2 in found else None
        return Listed(items, token, found[3][0] if 3 in found else None)

    def list_all(self, prefix: str | None = None, size: int | None = None) -> list[Listed]:
        """Every page."""
        pages = [self.list(prefix, size)]
        while pages[-1].token:
            pages.append(self.list(prefix, size, pages[-1].token))
        return pages

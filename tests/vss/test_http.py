"""Connections of the VSS server: what they may hold in memory while the database is busy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from perdure.kv.database import on_file
from perdure.vss import objects
from perdure.vss.auth import nobody
from perdure.vss.http import BODIES_MAX, SMALL_BYTES, VssServer, listen
from perdure.vss.turns import Turns
from tests.vss import wire

CONTINUE, OK = b"HTTP/1.1 100 \r\n", b"HTTP/1.1 200 OK\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def offered(server: VssServer, at: int, size: int) -> tuple[Streams, bytes]:
    """A connection that asks whether its body is wanted, and the body."""
    host, port = server.url.split("/")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = wire.data(1, "s") + wire.data(3, wire.key_value(f"k{at}", 0, bytes(size)))
    head = f"POST /vss/putObjects HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"Expect: 100-continue\r\n\r\n")
    return (reader, writer), body


async def given(streams: Streams, body: bytes) -> None:
    """Send the body once it is wanted."""
    assert await streams[0].readline() == CONTINUE
    assert await streams[0].readline() == b"\r\n"
    streams[1].write(body)
    await streams[1].drain()


async def many_large_ones(turns: Turns) -> None:
    server = await listen("127.0.0.1:0", turns, nobody)
    with turns._database._lock:  # the database is busy
        found = [await offered(server, at, SMALL_BYTES) for at in range(BODIES_MAX)]
        for streams, body in found:
            await given(streams, body)
        late, body = await offered(server, BODIES_MAX, SMALL_BYTES)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting := asyncio.ensure_future(given(late, body))), 1)
    await waiting
    for streams in [*(streams for streams, _ in found), late]:
        assert await streams[0].readline() == OK
        streams[1].close()
    await server.close()
    await turns.close()


def test_no_more_large_bodies_are_taken_than_the_database_has_done(tmp_path: Path) -> None:
    with on_file(tmp_path / "vss.db") as database:
        database.do(objects.make)
        asyncio.run(many_large_ones(Turns(database)))

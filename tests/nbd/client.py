"""A byte-level NBD client on asyncio streams, made of hand-made frames; and the loops that tests run on."""

import asyncio
import contextlib

import uvloop

from tests.nbd import frames as f

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

READ_AHEAD_BYTES = 8 << 20


def run_on(loop_name, main):
    """Run a coroutine to its end on the named kind of loop; nothing here may take longer than 30 s."""
    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        return runner.run(asyncio.wait_for(main, 30))


class Client:
    """One connection. Every method fails the test if the server says something the specification does not allow."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer
        self.read_lengths = {}

    def send(self, *frames):
        self.writer.write(b"".join(frames))

    def read(self, cookie, offset, length):
        self.read_lengths[cookie] = length
        self.send(f.request(f.READ, cookie, offset, length))

    async def reply(self):
        head = await self.reader.readexactly(16)
        if head[:4] == b"\x67\x44\x66\x98":
            length = self.read_lengths.get(int.from_bytes(head[8:]), 0) if head[4:8] == bytes(4) else 0
        else:
            head += await self.reader.readexactly(4)
            length = int.from_bytes(head[16:])
        return f.Replies(head + await self.reader.readexactly(length)).reply(self.read_lengths)

    async def rest(self):
        """Everything until the server closes."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""

    async def close(self):
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def abort(self):
        self.writer.transport.abort()


async def connect(server, *, structured=True):
    """Connect and reach the transmission phase."""
    client = await dial(server)
    assert await client.reader.readexactly(18) == f.GREETING
    client.send(f.opening(structured))
    await client.reader.readexactly((20 if structured else 0) + 32 + 20)
    return client


async def dial(server):
    """Connect, and neither send nor read anything."""
    kind, _, place = server.address.partition(":")
    if kind == "unix":
        return Client(*await asyncio.open_unix_connection(place, limit=READ_AHEAD_BYTES))
    host, _, port = place.rpartition(":")
    return Client(*await asyncio.open_connection(host.strip("[]"), int(port), limit=READ_AHEAD_BYTES))

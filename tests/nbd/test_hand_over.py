"""A server whose clients go on with another server: real sockets, both event loops. The second stands for a program."""

import asyncio
import socket
from dataclasses import replace

import pytest

from perdure.errors import Misuse
from perdure.nbd import server as nbd_server
from perdure.nbd.protocol import BUFFER_BYTES
from perdure.nbd.server import CarriedServer, resume, serve
from tests.nbd import frames as f
from tests.nbd.client import LOOPS, connect, dial, run_on
from tests.nbd.memory import GatedBackend, MemoryBackend


@pytest.fixture(params=sorted(LOOPS))
def run(request):
    return lambda main: run_on(request.param, main)


@pytest.fixture
def address(tmp_path):
    return f"unix:{tmp_path}/nbd.sock"


async def succeeded(server, backend):
    """The server that comes after this one, which goes as a process does at execve: no shutdown of any socket."""
    await server.pause()
    carried = server.carried()
    for session in list(server._sessions):
        session.abort()
    server._socket.close()
    return await resume(backend, carried)


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("place", ["unix", "tcp"])
def test_a_client_goes_on_with_the_next_server(run, address, structured, place):
    async def main():
        backend = MemoryBackend()
        server = await serve(backend, address=address if place == "unix" else "tcp:127.0.0.1:0")
        client = await connect(server, structured=structured)
        for turn in range(5):
            client.send(f.write(turn, turn * 10, b"0123456789"))
            assert (await client.reply()).error == 0
            before = (server.address, server.uri)
            server = await succeeded(server, backend)
            assert (server.address, server.uri) == before
            client.read(100 + turn, 0, (turn + 1) * 10)
            assert (await client.reply()).data == b"0123456789" * (turn + 1)
        late = await connect(server)
        late.read(1, 0, 10)
        assert (await late.reply()).data == b"0123456789"
        for each in (client, late):
            await each.close()
        await server.close()

    run(main())


def test_what_was_taken_is_answered_before_and_what_comes_meanwhile_after(run, address):
    async def main():
        backend = GatedBackend()
        server = await serve(backend, address=address)
        client = await connect(server)
        client.send(f.write(1, 0, b"before"))
        await backend.wait_running(1)
        pausing = asyncio.ensure_future(server.pause())
        await asyncio.sleep(0)
        client.send(f.write(2, 4096, b"meanwhile"))
        await client.writer.drain()
        for _ in range(50):
            await asyncio.sleep(0)
        assert backend.running == 1, "a paused server takes nothing"
        assert not pausing.done()
        backend.open(0)
        assert (await client.reply()).cookie == 1
        await pausing
        backend.open(4096)
        server = await succeeded(server, backend)
        assert (await client.reply()).cookie == 2
        assert backend.data[4096:4105] == b"meanwhile"
        await client.close()
        await server.close()

    run(main())


def test_half_a_write_arrives_whole(run, address):
    async def main():
        backend, payload = MemoryBackend(), bytes(range(256)) * 4096
        server = await serve(backend, address=address)
        client = await connect(server)
        frame = f.write(1, 512, payload)
        for start in range(0, len(frame), 200_000):
            client.send(frame[start : start + 200_000])
            await client.writer.drain()
            for _ in range(20):
                await asyncio.sleep(0)
            server = await succeeded(server, backend)
        assert (await client.reply()).error == 0
        assert backend.data[512 : 512 + len(payload)] == payload
        await client.close()
        await server.close()

    run(main())


def test_whoever_connects_meanwhile_waits_and_whoever_haggles_goes_on(run, address):
    async def main():
        backend = MemoryBackend()
        server = await serve(backend, address=address)
        haggling = await dial(server)
        assert await haggling.reader.readexactly(18) == f.GREETING
        haggling.send(f.flags() + f.option(f.STRUCTURED))
        await haggling.reader.readexactly(20)
        await server.pause()
        waiting = await dial(server)
        waiting.send(f.opening())
        server = await succeeded(server, backend)
        assert await waiting.reader.readexactly(18) == f.GREETING
        haggling.send(f.option(f.GO, f.info()))
        await haggling.reader.readexactly(32 + 20)
        haggling.read(1, 0, 512)
        reply = await haggling.reply()
        assert (reply.data, reply.offset) == (bytes(512), 0), "structured, as was negotiated before"
        for each in (haggling, waiting):
            await each.close()
        await server.close()

    run(main())


def test_a_paused_server_that_resumes_goes_on_itself(run, address):
    async def main():
        backend = MemoryBackend()
        server = await serve(backend, address=address)
        client = await connect(server)
        await server.pause()
        client.send(f.write(1, 0, b"later"))
        late = await dial(server)
        await server.resume()
        assert (await client.reply()).error == 0
        assert await late.reader.readexactly(18) == f.GREETING
        for each in (client, late):
            await each.close()
        await server.close()

    run(main())


def test_a_client_far_over_the_limits_loses_no_request(run, address):
    """The buffer of what arrived is full of requests that the old server could not yet take."""

    async def main():
        backend, count = GatedBackend(), 4 * BUFFER_BYTES // 28
        server = await serve(backend, address=address)
        client = await connect(server)
        client.read_lengths = dict.fromkeys(range(count), 512)
        client.send(*(f.request(f.READ, cookie, cookie % 32 * 512, 512) for cookie in range(count)))
        await backend.wait_running(128)
        pausing = asyncio.ensure_future(server.pause())
        for place in range(32):
            backend.open(place * 512)
        seen = [(await client.reply()).cookie for _ in range(128)]
        await pausing
        assert server.carried().clients[0][1].head()["unread"] > 20_000
        server = await succeeded(server, backend)
        seen += [(await client.reply()).cookie for _ in range(count - 128)]
        assert sorted(seen) == list(range(count))
        await client.close()
        await server.close()

    run(main())


@pytest.mark.parametrize("more", [BUFFER_BYTES // 14, 0])
def test_a_server_that_begins_at_its_limits_reads_no_further_until_it_can(run, address, more):
    """The buffer is full from the start, more is on its way or is not, and nothing can be answered yet."""

    async def main():
        backend, count = GatedBackend(), BUFFER_BYTES // 28 + more
        unread = BUFFER_BYTES if more else count * 28
        server = await serve(backend, address=address)
        client = await connect(server)
        await server.pause()
        carried = server.carried()
        ((fd, state),) = carried.clients
        stream = b"".join(f.request(f.READ, cookie, 512, 512) for cookie in range(count))
        for session in list(server._sessions):
            session.abort()
        server._socket.close()
        client.read_lengths = dict.fromkeys(range(count), 512)
        client.send(stream[unread:])
        server = await resume(backend, CarriedServer(carried.listener, ((fd, replace(state, unread=stream[:unread])),)))
        await backend.wait_running(128)
        for _ in range(200):
            await asyncio.sleep(0)
        assert backend.running == 128
        backend.open(512)
        assert sorted([(await client.reply()).cookie for _ in range(count)]) == list(range(count))
        await client.close()
        await server.close()

    run(main())


def test_a_client_that_does_not_read_is_dropped_and_holds_nobody_up_for_ever(run, address, monkeypatch, caplog):
    monkeypatch.setattr(nbd_server, "CLIENT_DRAIN_SECONDS_MAX", 0.1)

    async def main():
        backend = MemoryBackend()
        server = await serve(backend, address=address)
        client, good = await connect(server), await connect(server)
        client.writer.transport.pause_reading()
        for cookie in range(20):
            client.read(cookie, 0, f.MIB)
        while not any(session.is_unsent for session in server._sessions):
            await asyncio.sleep(0)
        server = await succeeded(server, backend)
        good.read(1, 0, 512)
        assert (await good.reply()).data == bytes(512)
        client.writer.transport.resume_reading()
        await client.rest()
        for each in (client, good):
            await each.close()
        await server.close()

    run(main())
    assert "did not read its replies" in caplog.text


def test_clients_that_left_while_it_was_paused_are_nobodys(run, address):
    async def main():
        backend = MemoryBackend()
        server = await serve(backend, address=address)
        client, other = await connect(server), await connect(server)
        client.send(f.request(f.DISC))
        assert await client.rest() == b""
        await server.pause()
        await other.close()
        server = await succeeded(server, backend)
        while server._sessions:
            await asyncio.sleep(0)
        await server.close()

    run(main())


def test_a_state_that_no_connection_can_have_is_refused(run, address):
    async def main():
        backend = MemoryBackend()
        server = await serve(backend, address=address)
        client = await connect(server)
        await server.pause()
        carried = server.carried()
        ((fd, state),) = carried.clients
        wrong = replace(state, unread=bytes(1 << 20))
        with pytest.raises(Misuse, match="unread"):
            await resume(backend, CarriedServer(carried.listener, ((fd, wrong),)))
        socket.socket(fileno=fd).close()
        await client.close()
        await server.close()

    run(main())

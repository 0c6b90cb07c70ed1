"""The server on real sockets, under both event loops, with a byte-level client."""

import asyncio
import contextlib
import errno
import os
import socket
import stat

import pytest

from perdure.errors import Clone, Corrupt, Disconnected, Fenced, Misuse, Unavailable
from perdure.nbd import session
from perdure.nbd.handshake import Export
from perdure.nbd.server import CONNECTIONS_MAX, serve
from tests.nbd import frames as f
from tests.nbd.client import LOOPS, connect, dial, run_on
from tests.nbd.memory import FailingBackend, GatedBackend, MemoryBackend, YieldingBackend


@pytest.fixture(params=sorted(LOOPS))
def run(request):
    return lambda main: run_on(request.param, main)


@pytest.fixture
def address(tmp_path):
    return f"unix:{tmp_path}/nbd.sock"


# Serving --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend_type", [MemoryBackend, YieldingBackend])
@pytest.mark.parametrize("structured", [True, False])
def test_serves_every_command(run, address, backend_type, structured):
    async def main():
        backend = backend_type()
        server = await serve(backend, address=address)
        client = await connect(server, structured=structured)
        client.send(f.write(1, 100, b"hello world"), f.write(2, 111, b"!", f.FUA), f.request(f.FLUSH, 3))
        assert {(await client.reply()).cookie for _ in range(3)} == {1, 2, 3}
        client.send(f.request(f.TRIM, 4, 100, 2, f.FUA), f.request(f.WRITE_ZEROES, 5, 102, 2, f.NO_HOLE))
        assert {(await client.reply()).cookie for _ in range(2)} == {4, 5}
        client.read(6, 98, 16)
        assert (await client.reply()).data == b"\0\0\0\0\0\0o world!\0\0"
        await client.close()
        await server.close()
        assert ("write", 111, 1, True) in backend.log
        assert ("trim", 100, 2, True) in backend.log
        assert ("zeroes", 102, 2, False, False) in backend.log
        assert ("flush",) in backend.log

    run(main())


@pytest.mark.parametrize("backend_type", [MemoryBackend, YieldingBackend])
def test_many_pipelined_requests_are_each_answered_once(run, address, backend_type):
    async def main():
        server = await serve(backend_type(), address=address)
        client = await connect(server)
        client.send(*[f.write(i, i * 512, bytes([i % 256]) * 512) for i in range(1000)])
        assert sorted([(await client.reply()).cookie for _ in range(1000)]) == list(range(1000))
        client.send(*[f.request(f.READ, i, i * 512, 512) for i in range(1000)])
        for _ in range(1000):
            reply = await client.reply()
            assert reply.data == bytes([reply.cookie % 256]) * 512
        await client.close()
        await server.close()

    run(main())


def test_large_payloads_go_both_ways(run, address):
    async def main():
        server = await serve(MemoryBackend(64 << 20), address=address)
        client = await connect(server)
        data = os.urandom(1 << 20) * 32
        client.send(f.write(1, 4095, data))
        assert await client.reply() == f.Reply(1, 0)
        client.read(2, 4095, len(data))
        assert (await client.reply()).data == data
        await client.close()
        await server.close()

    run(main())


def test_serves_tcp_and_several_clients_at_once(run):
    async def main():
        server = await serve(MemoryBackend(), address="tcp:127.0.0.1:0", export_name="my disk")
        port = server.address.removeprefix("tcp:127.0.0.1:")
        assert port.isdigit()
        assert port != "0"
        assert server.uri == f"nbd://127.0.0.1:{port}/my%20disk"
        one, two = await connect(server), await connect(server)
        one.send(f.write(1, 0, b"shared"))
        await one.reply()
        two.read(2, 0, 6)
        assert (await two.reply()).data == b"shared"
        await one.close()
        await two.close()
        await server.close()

    run(main())


def test_uri_of_a_unix_socket_names_export_and_path(run, tmp_path):
    async def main():
        server = await serve(MemoryBackend(), address=f"unix:{tmp_path}/a b.sock", export_name="x/y")
        assert server.uri == f"nbd+unix:///x%2Fy?socket={tmp_path}/a%20b.sock"
        assert server.address == f"unix:{tmp_path}/a b.sock"
        await server.close()

    run(main())


def test_replies_leave_as_requests_finish(run, address):
    async def main():
        backend = GatedBackend()
        server = await serve(backend, address=address)
        client = await connect(server)
        for cookie in range(3):
            client.read(cookie, cookie * 4096, 4096)
        await backend.wait_running(3)
        for cookie in (2, 0, 1):
            backend.open(cookie * 4096)
            assert (await client.reply()).cookie == cookie
        await client.close()
        await server.close()

    run(main())


# Limits ---------------------------------------------------------------------------------------------------


def test_holds_at_most_128_requests_and_serves_the_rest_later(run, address):
    async def main():
        backend = GatedBackend()
        server = await serve(backend, address=address)
        client = await connect(server)
        for i in range(300):
            client.read(i, i * 512, 512)
        await backend.wait_running(128)
        for i in range(300):
            backend.open(i * 512)
        assert sorted([(await client.reply()).cookie for _ in range(300)]) == list(range(300))
        assert backend.running_most == 128
        await client.close()
        await server.close()

    run(main())


def test_holds_at_most_64_mib_of_data(run, address):
    async def main():
        backend = GatedBackend()
        server = await serve(backend, address=address)
        client = await connect(server)
        for i in range(3):
            client.read(i, i, 32 * f.MIB)
        await backend.wait_running(2)
        for i in range(3):
            backend.open(i)
        assert sorted([(await client.reply()).cookie for _ in range(3)]) == list(range(3))
        assert backend.running_most == 2
        await client.close()
        await server.close()

    run(main())


class CountingBackend(MemoryBackend):
    """Counts reads."""

    reads = 0

    async def pread(self, offset, length):
        self.reads += 1
        return await super().pread(offset, length)


def test_client_that_does_not_read_is_not_served_on(run, address):
    async def main():
        backend = CountingBackend()
        server = await serve(backend, address=address)
        client = await connect(server)
        client.writer.transport.pause_reading()
        for i in range(150):
            client.read(i, 0, f.MIB)
        (served,) = server._sessions
        while not served._client_is_slow:
            await asyncio.sleep(0)
        for _ in range(1000):  # turns of the loop, in which a server that does not stop would go on
            await asyncio.sleep(0)
        assert backend.reads < 70
        client.writer.transport.resume_reading()
        assert sorted([(await client.reply()).cookie for _ in range(150)]) == list(range(150))
        await client.close()
        await server.close()

    run(main())


def test_turns_clients_away_when_too_many_are_connected(run, address):
    async def main():
        server = await serve(MemoryBackend(), address=address)
        clients = [await connect(server) for _ in range(CONNECTIONS_MAX)]
        late = await dial(server)
        assert await late.rest() == b""
        clients[0].send(f.request(f.DISC))
        assert await clients[0].rest() == b""
        while len(server._sessions) == CONNECTIONS_MAX:
            await asyncio.sleep(0)
        clients.append(await connect(server))
        for client in [*clients, late]:
            await client.close()
        await server.close()

    run(main())


# Ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goodbye", ["disc", "half-close", "breach"])
def test_requests_under_way_are_answered_before_the_connection_ends(run, address, goodbye):
    async def main():
        backend = GatedBackend()
        server = await serve(backend, address=address)
        client = await connect(server)
        client.send(f.write(1, 0, b"last words"))
        if goodbye == "half-close":
            client.writer.write_eof()
        else:
            client.send(f.request(f.DISC if goodbye == "disc" else f.READ, magic=0x25609513 - (goodbye == "breach")))
        await backend.wait_running(1)
        backend.open(0)
        assert await client.reply() == f.Reply(1, 0)
        assert await client.rest() == b""
        assert backend.data[:10] == b"last words"
        await client.close()
        await server.close()

    run(main())


def test_breach_is_logged(run, address, caplog):
    async def main():
        server = await serve(MemoryBackend(), address=address)
        client = await dial(server)
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert await client.rest() == f.GREETING
        await client.close()
        await server.close()

    run(main())
    assert "unknown client flags" in caplog.text


def test_broken_connection_leaves_server_and_backend_in_order(run, address):
    async def main():
        backend = GatedBackend()
        server = await serve(backend, address=address)
        broken = await connect(server)
        broken.send(f.write(1, 0, b"acknowledged to nobody"), f.request(f.WRITE, 2, 100, f.MIB, data=b"half"))
        await backend.wait_running(1)
        broken.abort()
        backend.open(0)
        client = await connect(server)
        client.read(3, 0, 22)
        assert (await client.reply()).data == b"acknowledged to nobody"
        backend.open(100)
        client.read(4, 100, 4)
        assert (await client.reply()).data == bytes(4)
        await client.close()
        await server.close()

    run(main())


def test_close_answers_what_was_taken_and_takes_no_more(run, address):
    async def main():
        backend = GatedBackend()
        server = await serve(backend, address=address)
        client, idle = await connect(server), await connect(server)
        client.send(f.write(1, 0, b"x"))
        await backend.wait_running(1)
        closing = asyncio.create_task(server.close())
        assert await idle.rest() == b""
        client.send(f.write(2, 1, b"y"))
        with pytest.raises(OSError):
            await dial(server)
        assert not closing.done()
        backend.open(0)
        assert await client.reply() == f.Reply(1, 0)
        assert await client.rest() == b""
        await closing
        await server.close()
        assert backend.data[:2] == b"x\0"
        await client.close()
        await idle.close()

    run(main())


def test_close_does_not_wait_for_ever_for_a_client_that_does_not_read(run, address, monkeypatch):
    monkeypatch.setattr(session, "CLIENT_DRAIN_SECONDS_MAX", 0.05)

    async def main():
        backend = CountingBackend(64 << 20)
        server = await serve(backend, address=address)
        client = await connect(server)
        client.writer.transport.pause_reading()
        client.read(1, 0, 32 * f.MIB)
        while not backend.reads:
            await asyncio.sleep(0)
        await server.close()
        client.abort()

    run(main())


def test_client_that_arrives_while_the_server_closes_is_sent_away(run, address):
    async def main():
        server = await serve(MemoryBackend(), address=address)
        server._closing = True
        client = await dial(server)
        assert await client.rest() == b""
        await client.close()
        await server.close()

    run(main())


def test_session_that_must_end_before_it_begins_ends(run, tmp_path):
    async def main():
        ended = asyncio.Event()

        def too_late():
            born_late = session.Session(MemoryBackend(), Export(b"", b"", 1), lambda _: ended.set())
            born_late.finish()
            return born_late

        path = f"{tmp_path}/late.sock"
        listener = await asyncio.get_running_loop().create_unix_server(too_late, path)
        reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.read() == f.GREETING
        await ended.wait()
        writer.close()
        listener.close()

    run(main())


def test_worker_that_is_cancelled_with_the_loop_is_no_failure_of_the_backend(run, address, caplog):
    async def main():
        backend = GatedBackend()
        server = await serve(backend, address=address)
        client = await connect(server)
        client.read(1, 0, 1)
        await backend.wait_running(1)
        (served,) = server._sessions
        (worker,) = served._workers
        worker.cancel()
        await asyncio.wait([worker])
        assert worker.cancelled()
        assert backend.running == 0
        await server.close()
        assert await client.rest() == b""
        await client.close()

    run(main())
    assert caplog.text == ""


# Failures of the backend ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "value", "sentence"),
    [
        (Misuse("Not like this."), f.EINVAL, "Not like this."),
        (Fenced("Another main program owns the array."), f.ESHUTDOWN, "Another main program owns the array."),
        (Unavailable("Too few disks."), f.EIO, "Too few disks."),
        (Corrupt("Bad bytes."), f.EIO, "Bad bytes."),
        (Disconnected("Gone."), f.EIO, "Gone."),
        (Clone("Two of one."), f.EIO, "Two of one."),
        (ValueError("a secret of the program"), f.EIO, "The server failed; its log says more."),
        (asyncio.CancelledError(), f.EIO, "The request was cancelled."),
    ],
)
def test_failure_is_mapped_logged_and_not_fatal(run, address, caplog, error, value, sentence):
    async def main():
        server = await serve(FailingBackend(error), address=address)
        client = await connect(server)
        client.send(f.request(f.FLUSH, 1), f.request(f.READ, 2, 0, 8))
        replies = [await client.reply(), await client.reply()]  # in whichever order they finish
        assert sorted(replies, key=lambda reply: reply.cookie) == [
            f.Reply(cookie, value, message=sentence) for cookie in (1, 2)
        ]
        client.send(f.write(3, 0, b"still here"))
        assert await client.reply() == f.Reply(3, 0)
        await client.close()
        await server.close()

    run(main())
    assert type(error).__name__ in caplog.text


def test_defect_of_the_backend_leaves_a_traceback(run, address, caplog):
    async def main():
        server = await serve(FailingBackend(ZeroDivisionError("oops")), address=address)
        client = await connect(server, structured=False)
        client.read(1, 0, 8)
        assert await client.reply() == f.Reply(1, f.EIO)
        await client.close()
        await server.close()

    run(main())
    assert "Traceback" in caplog.text
    assert "ZeroDivisionError: oops" in caplog.text


@pytest.mark.parametrize("answer", [b"", b"1234567", b"123456789", None])
def test_read_of_the_wrong_length_is_an_error_and_not_sent(run, address, answer):
    async def main():
        server = await serve(FailingBackend(answer=answer), address=address)
        client = await connect(server)
        client.read(1, 0, 8)
        reply = await client.reply()
        assert (reply.error, reply.data) == (f.EIO, b"")
        await client.close()
        await server.close()

    run(main())


# Addresses ------------------------------------------------------------------------------------------------


def test_socket_belongs_to_its_owner_and_goes_with_the_server(run, address, tmp_path):
    async def main():
        path = tmp_path / "nbd.sock"
        server = await serve(MemoryBackend(), address=address)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await server.close()
        assert not path.exists()

    run(main())


def test_stale_socket_is_replaced(run, address, tmp_path):
    async def main():
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "nbd.sock"))
        server = await serve(MemoryBackend(), address=address)
        await (await connect(server)).close()
        await server.close()

    run(main())


def test_live_socket_is_left_alone(run, address):
    async def main():
        server = await serve(MemoryBackend(), address=address)
        with pytest.raises(Misuse, match="already listens"):
            await serve(MemoryBackend(), address=address)
        await (await connect(server)).close()
        await server.close()

    run(main())


def test_socket_of_a_server_too_busy_to_answer_is_left_alone(run, address, tmp_path):
    async def main():
        with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as waiting:
            busy.bind(str(tmp_path / "nbd.sock"))
            busy.listen(0)
            full = False
            while not full:
                probe = waiting.enter_context(socket.socket(socket.AF_UNIX))
                probe.setblocking(False)
                full = probe.connect_ex(str(tmp_path / "nbd.sock")) == errno.EAGAIN
            with pytest.raises(Misuse, match="Cannot tell whether a server is alive"):
                await serve(MemoryBackend(), address=address)
            assert (tmp_path / "nbd.sock").exists()

    run(main())


def test_close_leaves_the_socket_of_a_successor_alone(run, address, tmp_path):
    async def main():
        first = await serve(MemoryBackend(), address=address)
        (tmp_path / "nbd.sock").unlink()
        second = await serve(MemoryBackend(), address=address)
        await first.close()
        await (await connect(second)).close()
        (tmp_path / "nbd.sock").unlink()
        await second.close()

    run(main())


def test_file_that_is_no_socket_is_left_alone(run, tmp_path):
    async def main():
        path = tmp_path / "precious"
        path.write_text("data")
        with pytest.raises(Misuse, match="not a socket"):
            await serve(MemoryBackend(), address=f"unix:{path}")
        assert path.read_text() == "data"

    run(main())


def test_port_in_use_is_refused(run):
    async def main():
        server = await serve(MemoryBackend(), address="tcp:127.0.0.1:0")
        with pytest.raises(Misuse, match="in use"):
            await serve(MemoryBackend(), address=server.address)
        await server.close()

    run(main())


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "unix:",
        "/tmp/x",
        "tcp:",
        "tcp:localhost",
        "tcp::10809",
        "tcp:127.0.0.1:",
        "tcp:127.0.0.1:65536",
        "tcp:127.0.0.1:x",
        "tcp:127.0.0.1:²",
        "tcp:" + "x" * 64 + ":1",
        "tcp:192.0.2.1:1",
        "vsock:1:2",
        "unix:/nonexistent/nbd.sock",
        "unix:/" + "x" * 200,
    ],
)
def test_address_that_cannot_be_had_is_refused_in_a_sentence(run, bad):
    async def main():
        with pytest.raises(Misuse) as refusal:
            await serve(MemoryBackend(), address=bad)
        assert str(refusal.value).endswith(".")

    run(main())

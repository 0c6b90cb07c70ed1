"""The HTTP server on real sockets: what it answers, whom it does not, and that nobody can keep it busy."""

import asyncio
import json
import logging
import socket
import time
from itertools import pairwise

import pytest

from perdure.errors import Misuse
from perdure.service.telling import http
from perdure.service.telling.views import Reply, Views
from tests.service import statuses

VIEWS = Views(statuses.whole, lambda since: [])
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
WAIT_S = 20


def with_server(use, view=VIEWS, place="127.0.0.1:0"):
    """Run the coroutine function `use` with a server and its port."""

    async def main():
        server = await http.listen(place, view)
        try:
            port = int(server.url.rstrip("/").rpartition(":")[2])
            return await asyncio.wait_for(use(port), WAIT_S)
        finally:
            await server.close()

    return asyncio.run(main())


async def reply_of(reader):
    """One reply: status, headers in lower case, body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def exchange(data, *, view=VIEWS, place="127.0.0.1:0"):
    """Everything that comes back for `data`, until the server closes."""

    async def use(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        writer.write_eof()
        everything = await reader.read()
        writer.close()
        return everything

    return with_server(use, view, place)


def ask(target, *, method="GET", host="127.0.0.1:9464", place="127.0.0.1:0"):
    request = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    head, _, body = exchange(request.encode(), place=place).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.lower().split(": ", 1) for line in lines[1:]), body


def test_a_request_is_answered_with_what_the_view_says():
    status, headers, body = ask("/api/status")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == json.loads(json.dumps(statuses.whole().to_json()))


def test_head_is_a_get_without_the_body():
    _, get, body = ask("/")
    status, head, nothing = ask("/", method="HEAD")
    assert (status, nothing) == (200, b"")
    assert head["content-length"] == get["content-length"] == str(len(body))


def test_a_connection_is_used_again_and_requests_may_come_at_once():
    async def use(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + GET.replace(b"healthz", b"readyz"))
        first, second = await reply_of(reader), await reply_of(reader)
        writer.write(GET)
        third = await reply_of(reader)
        writer.close()
        return [reply[2] for reply in (first, second, third)]

    assert with_server(use) == [b"the main program turns\n", b"online [UUUUU]\n", b"the main program turns\n"]


async def ask_once(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET)
    status, _, _ = await reply_of(reader)
    writer.close()
    return status


def dear(seconds, spans=None):
    """A view that takes so long of the processor's time, and notes from when to when."""

    def view(target):
        began, due = time.monotonic(), time.thread_time() + seconds
        while time.thread_time() < due:
            pass
        if spans is not None:
            spans.append((began, time.monotonic()))
        return Reply(200, (), b"")

    return view


@pytest.mark.parametrize("is_kept_alive", [True, False])
def test_all_connections_together_leave_the_array_its_turns(is_kept_alive):
    """However many ask, and however dear their questions are, the loop that serves the array is free between two."""
    spans = []
    per_client = 4

    async def client(port):
        for _ in range(1 if is_kept_alive else per_client):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(per_client if is_kept_alive else 1):
                writer.write(GET)
                await reply_of(reader)
            writer.close()

    async def use(port):
        await asyncio.gather(*(client(port) for _ in range(http.CONNECTIONS_MAX // 2)))

    with_server(use, dear(0.003, spans))
    rests = [after - before for (_, before), (after, _) in pairwise(spans)]
    assert len(rests) == per_client * http.CONNECTIONS_MAX // 2 - 1
    assert min(rests) >= 0.003 * http.REST


def test_requests_that_come_at_once_are_answered_a_hundred_times_a_second_at_most():
    async def use(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = asyncio.get_running_loop().time()
        writer.write(GET * 20)
        for _ in range(20):
            await reply_of(reader)
        writer.close()
        return asyncio.get_running_loop().time() - began

    assert with_server(use) >= 19 * http.PAUSE_S


def test_what_is_no_request_waits_for_its_turn_too():
    async def use(port):
        made = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        for reader, writer in made:
            writer.write(GET)  # so that each connection has been taken
            await reply_of(reader)
        began = asyncio.get_running_loop().time()
        for _, writer in made:
            writer.write(b"nonsense\r\n\r\n")
        for reader, writer in made:
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
            writer.close()
        return asyncio.get_running_loop().time() - began

    assert with_server(use) >= 9 * http.PAUSE_S


def test_who_keeps_asking_does_not_keep_others_out():
    async def keep_asking(port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET * 2000)
        return writer

    async def use(port):
        greedy = [await keep_asking(port) for _ in range(http.CONNECTIONS_MAX)]
        answer = await ask_once(port)
        for writer in greedy:
            writer.close()
        return answer

    assert with_server(use) == 200


def test_who_waits_for_his_turn_is_not_thrown_out_by_those_who_come_after():
    async def use(port):
        return await asyncio.gather(*(ask_once(port) for _ in range(2 * http.CONNECTIONS_MAX)))

    assert with_server(use, dear(0.006)) == [200] * 2 * http.CONNECTIONS_MAX


def test_connections_are_taken_a_hundred_times_a_second_at_most():
    async def use(port):
        began = asyncio.get_running_loop().time()
        made = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        for _, writer in made:
            writer.write_eof()
        for reader, writer in made:
            assert await reader.read() == b""
            writer.close()
        return asyncio.get_running_loop().time() - began

    assert with_server(use) >= 9 * http.PAUSE_S


def test_a_request_may_come_in_single_bytes():
    async def use(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in GET:
            writer.write(bytes([byte]))
            await writer.drain()
        reply = await reply_of(reader)
        writer.close()
        return reply[0]

    assert with_server(use) == 200


# What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(method):
    status, headers, _ = ask("/api/status", method=method)
    assert (status, headers["allow"]) == (405, "get, head")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello" + GET, 413),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2 * http.HEAD_BYTES_MAX + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00" + b"\r\n" * 3, 400),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_refused_and_ends_the_connection(data, status):
    got = exchange(data)
    assert got.startswith(f"HTTP/1.1 {status} ".encode())
    assert got.count(b"HTTP/1.1") == 1, "what came after it was answered"
    assert b"\r\nConnection: close\r\n" in got


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9464", "127.0.0.1:1", "127.8.9.1", "[::1]:9464", "[::1]"])
def test_this_machine_is_called_by_a_loopback_name(host):
    assert ask("/healthz", host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9464", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "[::2]", ""],
)
def test_another_name_that_leads_here_is_not_answered(host):
    status, _, body = ask("/api/status", host=host)
    assert status == 421
    assert b"loopback name only" in body


def test_an_old_request_without_a_host_is_not_answered_on_loopback():
    assert exchange(b"GET /api/status HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421 ")


def test_where_others_may_connect_every_name_is_answered():
    assert ask("/healthz", host="perdure.internal:9464", place="0.0.0.0:0")[0] == 200


def test_a_place_that_cannot_be_had_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Misuse, match=f"The page cannot be served at {place}: Address already in use"):
            exchange(GET, place=place)


# What is bounded ------------------------------------------------------------------------------------------


def until_closed(first):
    """Whatever comes for `first` by somebody who then neither sends nor ends anything."""

    async def use(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        everything = await reader.read()
        writer.close()
        return everything

    return with_server(use)


def test_who_sends_half_a_request_is_let_go(monkeypatch):
    monkeypatch.setattr(http, "HEAD_S", 0.1)
    assert until_closed(GET[:20]) == b""


def test_who_says_no_more_is_let_go(monkeypatch):
    monkeypatch.setattr(http, "IDLE_S", 0.1)
    assert until_closed(b"") == b""
    assert until_closed(GET).endswith(b"the main program turns\n")


def test_who_does_not_take_the_reply_is_let_go(monkeypatch):
    monkeypatch.setattr(http, "SEND_S", 0.1)
    body = bytes(32 << 20)  # more than the buffers of both sockets

    async def use(port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(GET)
        with pytest.raises(ConnectionResetError):
            while True:
                await asyncio.sleep(0.05)
                writer.write(b"x")  # nothing is read; a write fails once the other side has gone
                await writer.drain()
        writer.close()
        return True

    assert with_server(use, lambda target: Reply(200, (), body))


def test_one_more_than_the_most_takes_the_place_of_who_was_silent_longest():
    async def use(port):
        made = [await asyncio.open_connection("127.0.0.1", port) for _ in range(http.CONNECTIONS_MAX)]
        for reader, writer in made:
            writer.write(GET)
            assert (await reply_of(reader))[0] == 200
        made[0][1].write(GET)  # so that the second is the one
        await reply_of(made[0][0])
        made.append(await asyncio.open_connection("127.0.0.1", port))
        assert await made[1][0].read() == b""
        del made[1]
        for reader, writer in made:
            writer.write(GET)
            assert (await reply_of(reader))[0] == 200
            writer.close()
        return True

    assert with_server(use)


def test_closing_drops_who_is_connected():
    async def main():
        server = await http.listen("127.0.0.1:0", VIEWS)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rstrip("/").rpartition(":")[2]))
        writer.write(GET)
        await reply_of(reader)
        await asyncio.wait_for(server.close(), WAIT_S)
        assert await reader.read() == b""
        writer.close()

    asyncio.run(main())


def test_a_defect_in_a_view_ends_one_connection_and_is_in_the_log(caplog):
    def view(target):
        if target == "/defect":
            raise ZeroDivisionError
        return VIEWS(target)

    async def use(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET.replace(b"/healthz", b"/defect"))
        assert await reader.read() == b""
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        status = (await reply_of(reader))[0]
        writer.close()
        return status

    with caplog.at_level(logging.CRITICAL, "perdure"):
        assert with_server(use, view) == 200
    assert "a request over HTTP was not answered" in caplog.text


def test_every_reply_has_the_headers_that_bind_a_browser():
    for target in ("/", "/api/status", "/metrics", "/nothing", "/api/events?since=x"):
        _, headers, _ = ask(target)
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"

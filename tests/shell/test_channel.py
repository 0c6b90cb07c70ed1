"""The way to a disk: replies however they are cut, nothing left of them, and silence that ends."""

import asyncio
import socket
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.array.ports import Lane
from perdure.disk.wire import FRAME_HEADER
from perdure.errors import Disconnected
from perdure.shell import channel
from perdure.shell.channel import REPLY_BYTES_MAX, SMALL_BYTES, SocketChannel, _Connection
from perdure.shell.meter import Meter


class Transport:
    """Takes everything."""

    def __init__(self):
        self.sent, self.is_aborted = b"", False

    def writelines(self, parts):
        self.sent += b"".join(parts)

    def is_closing(self):
        return self.is_aborted

    def abort(self):
        self.is_aborted = True


def framed(reply):
    return FRAME_HEADER.pack(len(reply)) + reply


def connected(count):
    """A connection on which so many replies are waited for; must be called within a loop."""
    connection, transport = _Connection(60.0, Meter()), Transport()
    connection.connection_made(transport)
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(count)]
    for future in futures:
        connection.send([b"ask"], future, loop.time())
    return connection, transport, futures


def receive(connection, data, sizes):
    """Give `data` as a stream would, no more at once than each of `sizes`, over and over, and the buffer allow."""
    at, turn = 0, 0
    while at < len(data) and connection.transport is not None:
        buffer = connection.get_buffer(-1)
        count = min(len(buffer), len(data) - at, sizes[turn % len(sizes)])
        buffer[:count] = data[at : at + count]
        connection.buffer_updated(count)
        at, turn = at + count, turn + 1


LENGTHS = st.one_of(st.integers(1, 300), st.integers(SMALL_BYTES - 8, SMALL_BYTES + 8), st.integers(1, REPLY_BYTES_MAX))


@settings(max_examples=60, deadline=None)
@given(st.lists(LENGTHS, min_size=1, max_size=6), st.lists(st.integers(1, 200_000), min_size=1, max_size=5))
def test_replies_come_whole_and_in_order_however_the_stream_is_cut(lengths, sizes):
    replies = [bytes([number + 1]) * length for number, length in enumerate(lengths)]
    if sum(lengths) > 500_000:
        sizes = [size + 5000 for size in sizes]

    async def main():
        connection, _, futures = connected(len(replies))
        receive(connection, b"".join(map(framed, replies)), sizes)
        assert [bytes(future.result()) for future in futures] == replies
        assert not any(connection._small), "nothing of them is left behind"
        connection.fail("the end")

    asyncio.run(main())


@pytest.mark.parametrize("length", [0, REPLY_BYTES_MAX + 1, 0xFFFFFFFF])
def test_a_reply_of_a_length_that_cannot_be_ends_the_connection(length):
    async def main():
        connection, transport, (first, second) = connected(2)
        receive(connection, framed(b"good") + FRAME_HEADER.pack(length), [1000])
        assert bytes(first.result()) == b"good"
        assert transport.is_aborted
        with pytest.raises(Disconnected, match=f"a reply of {length} bytes that nobody can have sent"):
            await second

    asyncio.run(main())


def test_a_reply_that_nobody_asked_for_ends_the_connection():
    async def main():
        connection, transport, (future,) = connected(1)
        receive(connection, framed(b"asked for") + framed(b"not"), [1000])
        assert bytes(future.result()) == b"asked for"
        assert transport.is_aborted

    asyncio.run(main())


def test_who_does_not_wait_any_more_takes_nobodys_reply():
    async def main():
        connection, _, (first, second) = connected(2)
        first.cancel()
        receive(connection, framed(b"one") + framed(b"two"), [1000])
        assert bytes(second.result()) == b"two"
        connection.fail("the end")

    asyncio.run(main())


def test_silence_ends_every_exchange_of_a_lane_and_one_that_was_answered_keeps_nobody_from_it():
    async def main():
        server = socket.create_server(("127.0.0.1", 0))
        server.setblocking(False)
        way = SocketChannel(f"tcp:127.0.0.1:{server.getsockname()[1]}", answer_ms_max=300)
        loop = asyncio.get_running_loop()
        answered = way.exchange(Lane.READ, [b"first"])
        peer, _ = await loop.sock_accept(server)
        assert await loop.sock_recv(peer, 100) == framed(b"first")
        await loop.sock_sendall(peer, framed(b"yes"))
        assert bytes(await answered) == b"yes"
        silent = [way.exchange(Lane.READ, [b"second"]), way.exchange(Lane.READ, [b"third"])]
        for one in silent:
            with pytest.raises(Disconnected, match="no answer in time"):
                await one
        again = way.exchange(Lane.READ, [b"fourth"])
        late, _ = await loop.sock_accept(server)
        assert await loop.sock_recv(late, 100) == framed(b"fourth")
        await loop.sock_sendall(late, framed(b"back"))
        assert bytes(await again) == b"back"
        way.close()
        for end in (peer, late, server):
            end.close()

    asyncio.run(main())


def test_a_lane_that_cannot_be_connected_fails_all_that_wait_for_it(tmp_path):
    async def main():
        way = SocketChannel(f"unix:{tmp_path}/nobody.sock", answer_ms_max=300)
        for one in [way.exchange(Lane.WRITE, [b"a"]), way.exchange(Lane.WRITE, [b"b"])]:
            with pytest.raises(Disconnected, match="cannot connect"):
                await one

    asyncio.run(main())


def test_answers_are_counted_and_timed_and_what_fails_is_counted_apart():
    async def main():
        connection, _, futures = connected(3)
        meter = connection._meter
        for reply in (b"four", b"sixsix"):
            connection.get_buffer(-1)[: len(framed(reply))] = framed(reply)
            connection.buffer_updated(len(framed(reply)))
        assert (meter.count, meter.bytes, sum(meter.buckets), meter.failed) == (2, 10, 2, 0)
        assert 0 < meter.usual_us <= meter.us
        connection.fail("gone")
        assert (meter.count, meter.failed) == (2, 1)
        with pytest.raises(Disconnected):
            await futures[2]

    asyncio.run(main())


def test_a_name_that_cannot_be_a_hosts_is_a_disk_that_cannot_be_reached():
    async def main():
        way = SocketChannel(f"tcp:{'a' * 64}.example:1", answer_ms_max=300)
        with pytest.raises(Disconnected, match="cannot connect"):
            await way.exchange(Lane.WRITE, [b"a"])

    asyncio.run(main())


def test_what_waits_for_a_connection_that_is_lost_as_it_is_made_fails(monkeypatch):
    async def main():
        way = SocketChannel("tcp:127.0.0.1:1", answer_ms_max=300)

        async def lost():
            connection = channel._Connection(1.0, Meter())
            connection.connection_made(Transport())
            connection.fail("lost")
            return connection

        monkeypatch.setattr(way, "_open", lost)
        with pytest.raises(Disconnected, match="hung up at once"):
            await way.exchange(Lane.WRITE, [b"a"])

    asyncio.run(main())


def test_who_waits_for_a_connection_hears_of_it_when_the_channel_is_closed_before_it_is_begun():
    """Also whoever comes later: the lane is not lost for good."""

    async def main():
        server = socket.create_server(("127.0.0.1", 0))
        server.setblocking(False)
        way = SocketChannel(f"tcp:127.0.0.1:{server.getsockname()[1]}", answer_ms_max=300)
        first = way.exchange(Lane.READ, [b"first"])
        way.close()
        with pytest.raises(Disconnected, match="given up"):
            await asyncio.wait_for(first, 5)
        loop = asyncio.get_running_loop()
        again = way.exchange(Lane.READ, [b"again"])
        peer, _ = await loop.sock_accept(server)
        assert await loop.sock_recv(peer, 100) == framed(b"again")
        await loop.sock_sendall(peer, framed(b"yes"))
        assert bytes(await again) == b"yes"
        way.close()
        peer.close()
        server.close()

    asyncio.run(main())


class Clock:
    """A loop's clock and its timers, moved by hand."""

    def __init__(self):
        self.now, self.timers = 0.0, []

    def time(self):
        return self.now

    def call_at(self, when, call):
        timer = [when, call]
        self.timers.append(timer)
        return SimpleNamespace(cancel=lambda: self.timers.remove(timer) if timer in self.timers else None)

    def fire(self):
        """Let the one timer that there is come."""
        ((self.now, call),) = self.timers
        self.timers.clear()
        call()


def test_the_timer_goes_on_to_the_next_exchange_when_the_oldest_was_answered():
    async def main():
        connection, transport, _ = connected(0)
        clock = connection._loop = Clock()
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        connection.send([b"a"], first, 0.0)
        connection.send([b"b"], second, 5.0)
        receive(connection, framed(b"yes"), [100])
        assert bytes(first.result()) == b"yes"
        clock.fire()
        assert (clock.now, transport.is_aborted) == (60.0, False)
        clock.fire()
        assert (clock.now, transport.is_aborted) == (65.0, True)
        with pytest.raises(Disconnected, match="no answer in time"):
            await second

    asyncio.run(main())

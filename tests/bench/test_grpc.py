"""The client's side of a connection, against a server made of bytes."""

import socket

import pytest

from bench.peers.grpc import Connection, frame

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END = 1


@pytest.fixture
def ends():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Connection(*listener.getsockname(), timeout_s=10)
        server, _ = listener.accept()
        server.settimeout(10)
        with server:
            yield client, server
            client.close()


def received(server, count):
    data = b""
    while len(data) < count:
        data += server.recv(count - len(data))
    return data


def opening(server):
    return received(server, 24 + 9 + 6 + 9 + 4)


def answer(stream, message):
    return frame(DATA, 0, stream, b"\0" + len(message).to_bytes(4, "big") + message) + frame(HEADERS, END, stream, b"t")


def test_it_introduces_itself_and_calls(ends):
    client, server = ends
    assert opening(server).startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert client.call(b"headers", b"message") == 1
    expected = frame(HEADERS, 4, 1, b"headers") + frame(DATA, END, 1, b"\0\0\0\0\x07message")
    assert received(server, len(expected)) == expected


def test_replies_come_in_any_order_and_in_pieces(ends):
    client, server = ends
    first, second = client.call(b"h", b"a"), client.call(b"h", b"b")
    data = frame(SETTINGS, 0, 0, b"") + answer(second, b"two")
    server.sendall(data[:13])
    server.sendall(data[13:] + answer(first, b"one"))
    assert client.next_reply() == (second, b"two")
    assert client.next_reply() == (first, b"one")


def test_pings_and_settings_are_acknowledged(ends):
    client, server = ends
    opening(server)
    number = client.call(b"h", b"a")
    received(server, 9 + 1 + 9 + 6)
    server.sendall(frame(PING, 0, 0, b"12345678") + frame(SETTINGS, 0, 0, b"") + answer(number, b"x"))
    client.next_reply()
    expected = frame(PING, 1, 0, b"12345678") + frame(SETTINGS, 1, 0, b"")
    assert received(server, len(expected)) == expected


def test_it_sends_no_more_than_the_server_allows(ends):
    client, server = ends
    opening(server)
    message = bytes(10_000)
    numbers = [client.call(b"h", message) for _ in range(7)]  # six fit into 65,535 bytes
    each = 9 + 1 + 9 + 5 + len(message)
    received(server, 6 * each)
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.recv(1)
    server.settimeout(10)
    server.sendall(frame(WINDOW, 0, 0, (100_000).to_bytes(4, "big")) + answer(numbers[0], b"x"))
    client.next_reply()
    assert len(received(server, each)) == each


@pytest.mark.parametrize(
    "said", [frame(HEADERS, END, 1, b"refused"), frame(RESET, 0, 1, bytes(4)), frame(GOAWAY, 0, 0, bytes(8)), b""]
)
def test_a_call_that_fails_is_an_error(ends, said):
    client, server = ends
    opening(server)
    client.call(b"h", b"a")
    received(server, 9 + 1 + 9 + 6)
    server.sendall(said)
    server.shutdown(socket.SHUT_WR)
    with pytest.raises(RuntimeError, match="server"):
        client.next_reply()

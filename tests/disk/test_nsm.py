"""The evidence socket: the request as the NSM expects it, and every reply that is not one of its two forms."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from threading import Thread

import cbor2
import pytest

from perdure.disk.nsm import NsmSocket, document_of

DATA = bytes(range(64))


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, NsmSocket]]:
    """The platform's end of an evidence socket, and the disk's."""
    platform, disk = socket.socketpair()
    with platform, disk:
        platform.settimeout(10)
        yield platform, NsmSocket(disk.fileno())


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def reply(document: bytes) -> bytes:
    return cbor2.dumps({"Attestation": {"document": document}})


def test_the_request_asks_for_a_document_over_the_report_data(ends: tuple[socket.socket, NsmSocket]) -> None:
    platform, nsm = ends
    platform.sendall(framed(reply(b"d" * 4500)) + framed(reply(b"e" * 300)))
    assert nsm.attest(DATA) == b"d" * 4500
    assert nsm.attest(DATA) == b"e" * 300
    request = platform.recv(1000)
    assert cbor2.loads(request[4:]) == {"Attestation": {"user_data": DATA, "nonce": None, "public_key": None}}
    body = cbor2.dumps(cbor2.loads(request[4:]))
    assert request == framed(body) * 2


def test_a_reply_may_come_in_pieces(ends: tuple[socket.socket, NsmSocket]) -> None:
    platform, nsm = ends
    got: list[bytes] = []
    asking = Thread(target=lambda: got.append(nsm.attest(DATA)))
    asking.start()
    for byte in framed(reply(b"d" * 300)):
        platform.sendall(bytes([byte]))
    asking.join(10)
    assert got == [b"d" * 300]


@pytest.mark.parametrize("data", [b"", bytes(63), bytes(65)])
def test_report_data_of_another_length_is_not_sent(ends: tuple[socket.socket, NsmSocket], data: bytes) -> None:
    platform, nsm = ends
    with pytest.raises(ValueError, match="64 bytes"):
        nsm.attest(data)
    platform.setblocking(False)
    with pytest.raises(BlockingIOError):
        platform.recv(1)


@pytest.mark.parametrize("name", ["InternalError", "InvalidArgument", "InputTooLarge"])
def test_a_refusal_of_the_module_is_told(ends: tuple[socket.socket, NsmSocket], name: str) -> None:
    platform, nsm = ends
    platform.sendall(framed(cbor2.dumps({"Error": name})))
    with pytest.raises(OSError, match=f"refuses: {name}"):
        nsm.attest(DATA)


@pytest.mark.parametrize("sent", [b"", b"\0\0", framed(reply(b"d" * 300))[:-1]])
def test_a_module_that_goes_away_is_told(ends: tuple[socket.socket, NsmSocket], sent: bytes) -> None:
    platform, nsm = ends
    platform.sendall(sent)
    platform.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError, match="gone"):
        nsm.attest(DATA)


def test_the_longest_reply_is_taken_and_a_longer_one_refused(ends: tuple[socket.socket, NsmSocket]) -> None:
    platform, nsm = ends
    longest = b"d" * (12_288 - len(reply(bytes(1000))) + 1000)
    platform.sendall(framed(reply(longest)))
    assert nsm.attest(DATA) == longest
    platform.sendall((12_289).to_bytes(4, "big"))
    with pytest.raises(ValueError, match="too long"):
        nsm.attest(DATA)


def test_the_socket_is_the_hosts_and_stays_open() -> None:
    platform, disk = socket.socketpair()
    with platform, disk:
        nsm = NsmSocket(disk.fileno())
        del nsm
        gc.collect()
        os.fstat(disk.fileno())


@pytest.mark.parametrize("length", [0x18, 0xFF, 0x100, 4800, 12_000])
def test_a_document_of_any_usual_length_is_found(length: int) -> None:
    document = os.urandom(length)
    assert document_of(reply(document)) == document


def test_maps_of_indefinite_length_are_allowed() -> None:
    start, end = reply(b"d" * 300)[:13], reply(b"d" * 300)[14:]
    assert cbor2.loads(b"\xbf" + start[1:] + b"\xa1" + end + b"\xff") == {"Attestation": {"document": b"d" * 300}}
    assert document_of(b"\xbf" + start[1:] + b"\xa1" + end + b"\xff") == b"d" * 300
    assert document_of(start + b"\xbf" + end + b"\xff") == b"d" * 300
    assert document_of(b"\xbf" + start[1:] + b"\xbf" + end + b"\xff\xff") == b"d" * 300


GOOD = reply(b"d" * 300)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        GOOD[:-1],
        GOOD + b"\0",
        GOOD + b"\xff",
        b"\xbf" + GOOD[1:],
        b"\xa2" + GOOD[1:],
        GOOD.replace(b"document", b"Document"),
        cbor2.dumps({"Attestation": {"document": "text"}}),
        cbor2.dumps({"Attestation": {"document": None}}),
        cbor2.dumps({"Attestation": {}}),
        cbor2.dumps("LockPCR"),
        cbor2.dumps({"GetRandom": {"random": b"x" * 32}}),
        cbor2.dumps({"Error": "x" * 30}),
        cbor2.dumps({"Error": 5}),
        b"\xa1\x6bAttestation\xa1\x68document\x59\x01",
    ],
)
def test_any_other_reply_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="the evidence module's reply"):
        document_of(body)

"""The evidence device and socket: the request as the NSM expects it, every reply that is not one of its two forms."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import os
import socket
import stat
import struct
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import cbor2
import pytest

from perdure.disk.nsm import NsmDevice, NsmSocket, document_of
from perdure.evidence.nitro import cose
from tests.evidence import support

from .configfs import mounted

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


class FakeDriver:
    """drivers/misc/nsm.c behind fcntl.ioctl. `respond` is the module; `requests` are all that reached it."""

    def __init__(self, path: Path, respond: Callable[[bytes], bytes]) -> None:
        path.touch()
        self.path = path
        self.respond = respond
        self.requests: list[bytes] = []
        self.room: list[int] = []
        self.stated_length: int | None = None

    def ioctl(self, fd: int, number: int, argument: array[int]) -> int:
        """Serve one call. Like the driver, it cuts a response that does not fit and says nothing."""
        assert os.path.samestat(os.fstat(fd), self.path.stat())
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        assert not os.get_inheritable(fd)
        assert number == 0xC0200A00
        view = memoryview(argument).cast("B")
        request_at, request_length, response_at, room = struct.unpack("=4Q", view)
        gc.collect()
        if request_length > 4096:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        self.requests.append(ctypes.string_at(request_at, request_length))
        self.room.append(room)
        response = self.respond(self.requests[-1])[:room]
        ctypes.memmove(response_at, response, len(response))
        length = len(response) if self.stated_length is None else self.stated_length
        view[24:] = struct.pack("=Q", length)
        return 0


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """A device that answers with b"d" * 4500 to everything; tests replace `respond`."""
    driver = FakeDriver(tmp_path / "nsm", lambda request: reply(b"d" * 4500))
    monkeypatch.setattr(fcntl, "ioctl", driver.ioctl)
    return driver


@pytest.mark.parametrize("is_indefinite", [False, True])
def test_the_device_gives_the_modules_document_over_the_report_data(driver: FakeDriver, is_indefinite: bool) -> None:
    driver.respond = support.nsm(is_indefinite=is_indefinite).respond
    device = NsmDevice(str(driver.path))
    for data in (DATA, DATA[::-1]):
        payload = cbor2.loads(cose.split(device.attest(data)).payload)
        assert (payload["user_data"], payload["nonce"], payload["public_key"]) == (data, None, None)
    assert driver.room == [12_288, 12_288]
    request = {"Attestation": {"user_data": DATA, "nonce": None, "public_key": None}}
    assert driver.requests[0] == cbor2.dumps(request)


def test_device_and_socket_ask_alike(driver: FakeDriver, ends: tuple[socket.socket, NsmSocket]) -> None:
    NsmDevice(str(driver.path)).attest(DATA)
    platform, nsm = ends
    platform.sendall(framed(reply(b"d" * 300)))
    nsm.attest(DATA)
    assert platform.recv(1000) == framed(driver.requests[0])


@pytest.mark.parametrize("outer", [b"\xa1", b"\xbf"])
@pytest.mark.parametrize("inner", [b"\xa1", b"\xbf"])
def test_the_devices_reply_may_have_maps_of_either_form(driver: FakeDriver, outer: bytes, inner: bytes) -> None:
    good = reply(b"d" * 4500)
    body = outer + good[1:13] + inner + good[14:] + b"\xff" * (outer + inner).count(0xBF)
    assert cbor2.loads(body) == cbor2.loads(good)
    driver.respond = lambda request: body
    assert NsmDevice(str(driver.path)).attest(DATA) == b"d" * 4500


ERRORS = "InvalidArgument InvalidIndex InvalidResponse ReadOnlyIndex InvalidOperation BufferTooSmall InputTooLarge"


@pytest.mark.parametrize("name", [*ERRORS.split(), "InternalError"])
def test_each_refusal_through_the_device_is_told(driver: FakeDriver, name: str) -> None:
    for body in (cbor2.dumps({"Error": name}), b"\xbf\x65Error" + cbor2.dumps(name) + b"\xff"):
        driver.respond = lambda request, body=body: body  # type: ignore[misc]
        with pytest.raises(OSError, match=f"refuses: {name}$"):
            NsmDevice(str(driver.path)).attest(DATA)


def test_the_longest_reply_fits_the_devices_buffer_and_a_cut_one_is_refused(driver: FakeDriver) -> None:
    longest = b"d" * (12_288 - len(reply(bytes(1000))) + 1000)
    driver.respond = lambda request: reply(longest)
    assert NsmDevice(str(driver.path)).attest(DATA) == longest
    driver.respond = lambda request: reply(longest + b"d")
    with pytest.raises(ValueError, match="wrong length"):
        NsmDevice(str(driver.path)).attest(DATA)


@pytest.mark.parametrize("length", [0, 1, 20, 4000])
def test_a_reply_that_the_driver_says_is_shorter_is_refused(driver: FakeDriver, length: int) -> None:
    driver.stated_length = length
    with pytest.raises(ValueError, match="the evidence module's reply"):
        NsmDevice(str(driver.path)).attest(DATA)


@pytest.mark.parametrize("length", [12_289, 1 << 32, (1 << 64) - 1])
def test_a_length_beyond_the_devices_buffer_is_refused(driver: FakeDriver, length: int) -> None:
    driver.stated_length = length
    with pytest.raises(ValueError, match="too long"):
        NsmDevice(str(driver.path)).attest(DATA)


def test_what_follows_the_reply_in_the_buffer_is_not_read(driver: FakeDriver) -> None:
    driver.respond = lambda request: reply(b"d" * 4500) + reply(b"e" * 300)
    driver.stated_length = len(reply(b"d" * 4500))
    assert NsmDevice(str(driver.path)).attest(DATA) == b"d" * 4500


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EMSGSIZE, errno.EIO, errno.ENODATA, errno.EFAULT])
def test_a_failure_of_the_driver_is_told(driver: FakeDriver, number: int) -> None:
    def fail(request: bytes) -> bytes:
        raise OSError(number, os.strerror(number))

    driver.respond = fail
    device = NsmDevice(str(driver.path))
    with pytest.raises(OSError) as caught:
        device.attest(DATA)
    assert caught.value.errno == number
    driver.respond = support.nsm().respond
    assert device.attest(DATA)


@pytest.mark.parametrize("data", [b"", bytes(63), bytes(65)])
def test_report_data_of_another_length_does_not_reach_the_device(driver: FakeDriver, data: bytes) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        NsmDevice(str(driver.path)).attest(data)
    assert driver.requests == []


def test_a_machine_without_the_device_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        NsmDevice(str(tmp_path / "nsm"))


def test_a_device_that_is_none_is_told() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOTTY)):
        NsmDevice(os.devnull).attest(DATA)


class MountedDriver:
    """The same driver behind a true ioctl: a file system with one file, in this process, whose memory it reads."""

    use_ns = True

    def __init__(self, respond: Callable[[bytes], bytes]) -> None:
        self.respond = respond
        self.ready = Event()

    def init(self, path: str) -> None:
        self.ready.set()

    def destroy(self, path: str) -> None:
        pass

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        mode = stat.S_IFDIR | 0o755 if path == "/" else stat.S_IFREG | 0o666
        return {"st_mode": mode, "st_nlink": 1, "st_uid": os.getuid(), "st_gid": os.getgid()}

    def ioctl(self, path: str, number: int, argument: int, fh: int, flags: int, data: int) -> int:
        if number & 0xFFFFFFFF != 0xC0200A00:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        request_at, request_length, response_at, room = struct.unpack("=4Q", ctypes.string_at(data, 32))
        response = self.respond(ctypes.string_at(request_at, request_length))[:room]
        ctypes.memmove(response_at, response, len(response))
        ctypes.memmove(data + 24, struct.pack("=Q", len(response)), 8)
        return 0


def test_the_device_is_asked_by_a_true_ioctl(tmp_path: Path) -> None:
    with mounted(MountedDriver(support.nsm().respond), tmp_path) as folder:
        device = NsmDevice(str(folder / "nsm"))
        try:
            document = device.attest(DATA)
        finally:
            os.close(device._fd)
    assert cbor2.loads(cose.split(document).payload)["user_data"] == DATA

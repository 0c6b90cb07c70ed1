"""The real server in a thread of the test's process, with a platform whose documents the test can hold back."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from coincurve import PrivateKey

from perdure.disk import address
from perdure.disk.core import DiskCore
from perdure.disk.serve import Connection, Server
from perdure.disk.wire import DISK_SECTOR_BYTES, Reason

from . import client
from .client import Client, Result

KEY = PrivateKey(b"\x11" * 32)
INSTANCE = b"I" * 32
EPOCH = bytes(15) + b"\1"
WAIT_S = 10.0


class Notary:
    """A platform: its document is a word and the report data. It can be held, and made to fail."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.failure: Exception | None = None
        self._free = Event()
        self._free.set()

    def attest(self, report_data: bytes) -> bytes:
        self.asked.append(report_data)
        if not self._free.wait(WAIT_S):
            raise TimeoutError("the test forgot to release the platform")
        if self.failure is not None:
            raise self.failure
        return b"document over " + report_data

    def hold(self) -> None:
        """Let the next calls of attest wait."""
        self._free.clear()

    def release(self) -> None:
        """Let every waiting call of attest go on."""
        self._free.set()


class Running:
    """One served disk: by a thread after `start`, else by whoever calls `server.step`.

    `memory` and the buffers may be looked at whenever the server waits.
    """

    def __init__(self, listener: socket.socket, real_address: str, sectors: int) -> None:
        self.address = real_address
        self.notary = Notary()
        self.memory = bytearray(sectors * DISK_SECTOR_BYTES)
        self.core = DiskCore(memoryview(self.memory), INSTANCE, KEY.public_key.format(), os.urandom)
        self.server = Server(self.core, self.notary, listener)
        self.failure: BaseException | None = None
        self._listener = listener
        self._stopping = False
        self._thread = Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self.server.step()
        except BaseException as failure:
            self.failure = failure

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the server's thread; raise what ended it before, if anything did."""
        self._stopping = True
        self.notary.release()
        if self._thread.is_alive():
            with socket.socket(self._listener.family) as wake:
                wake.connect(self._listener.getsockname())
                self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self._listener.close()
        for connection in self.connections():
            connection.close()
        self.server._selector.close()
        if self.failure is not None:
            raise self.failure

    def connect(self) -> Client:
        return Client(self.address, WAIT_S)

    def connections(self) -> list[Connection]:
        return list(self.server._connections.values())

    def settle(self) -> None:
        """Return when the server has taken in all that was sent before this call."""
        with self.connect() as other:
            for _ in range(2):  # the first may be answered before its neighbours in the same round
                ping(other)

    def open(self) -> Result:
        """Open the disk in EPOCH."""
        with self.connect() as connection:
            return connection.ask(client.open_disk(KEY, INSTANCE, EPOCH, b"o" * 32))


def ping(connection: Client) -> None:
    """A round trip that needs no evidence: an empty frame is answered with a refusal."""
    assert connection.call(client.frame(b"")) is Reason.MALFORMED


@contextmanager
def running(listen_address: str, sectors: int = 64, *, stepped: bool = False) -> Iterator[Running]:
    """A served disk for as long as the context lasts; `stepped`: no thread serves it, the test calls `step`."""
    listener, real = address.listen(listen_address)
    disk = Running(listener, real, sectors)
    if not stepped:
        disk.start()
    try:
        yield disk
    finally:
        disk.stop()


def unix_address(folder: Path) -> str:
    return f"unix:{folder / 'disk'}"

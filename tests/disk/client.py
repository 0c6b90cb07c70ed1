"""The other end of a disk's connection, for tests: signed command frames, replies taken apart, a blocking client.

It builds and reads bytes from the layouts of `perdure.disk.wire` and holds no state, so a test can replay, alter
and interleave what it makes.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from coincurve import PrivateKey
from coincurve.ecdsa import der_to_cdata, serialize_compact

from perdure.array.paths import merkle_root, path_bytes
from perdure.disk import wire
from perdure.disk.address import parse
from perdure.disk.wire import Opcode, OpKind, Reason


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of an EXECUTE; `data` is what a WRITE writes."""

    kind: int
    target: int
    count: int
    source: int = 0
    data: bytes = b""


class Result(NamedTuple):
    """A reply that is not a refusal. `evidence` is empty if none was asked for."""

    instance: bytes
    epoch: bytes
    seq: int
    size: int
    data: bytes
    evidence: bytes


class Evidence(NamedTuple):
    """Evidence taken apart: the document, and the root that it must be over."""

    document: bytes
    root: bytes | None


def write(target: int, data: bytes) -> Op:
    """WRITE `data`, whole sectors of it, at `target`."""
    return Op(OpKind.WRITE, target, len(data) // wire.DISK_SECTOR_BYTES, data=data)


def copy(target: int, count: int, source: int) -> Op:
    """COPY `count` sectors from `source` to `target`."""
    return Op(OpKind.COPY, target, count, source)


def trim(target: int, count: int) -> Op:
    """Zero `count` sectors at `target`."""
    return Op(OpKind.TRIM, target, count)


def frame(body: bytes) -> bytes:
    """`body` with its length before it."""
    return wire.FRAME_HEADER.pack(len(body)) + body


def sign(key: PrivateKey, payload: bytes) -> bytes:
    """The frame of the signed command whose unsigned part is `payload`."""
    der = key.sign(wire.command_digest(payload), hasher=None)
    return frame(serialize_compact(der_to_cdata(der)) + payload)


def header(
    opcode: int, instance: bytes, epoch: bytes, seq: int, nonce: bytes | None, version: int = wire.VERSION
) -> bytes:
    """The header of a command; evidence is wanted if `nonce` is given."""
    wanted = nonce is not None
    return wire.COMMAND_HEADER.pack(version, opcode, wanted, instance, epoch, seq, nonce or wire.NO_NONCE)


def hello(key: PrivateKey, nonce: bytes) -> bytes:
    """The frame of a HELLO."""
    return sign(key, header(Opcode.HELLO, wire.NO_INSTANCE, wire.NO_EPOCH, 0, nonce))


def open_disk(key: PrivateKey, instance: bytes, epoch: bytes, nonce: bytes) -> bytes:
    """The frame of an OPEN."""
    return sign(key, header(Opcode.OPEN, instance, epoch, 0, nonce))


def execute(
    key: PrivateKey, instance: bytes, epoch: bytes, seq: int, ops: Iterable[Op], nonce: bytes | None = None
) -> bytes:
    """The frame of an EXECUTE."""
    ops = list(ops)
    records = b"".join(wire.OP.pack(op.kind, op.target, op.count, op.source) for op in ops)
    data = b"".join(op.data for op in ops)
    body = wire.COUNT.pack(len(ops)) + records + data
    return sign(key, header(Opcode.EXECUTE, instance, epoch, seq, nonce) + body)


def read(
    key: PrivateKey, instance: bytes, epoch: bytes, runs: Iterable[tuple[int, int]], nonce: bytes | None = None
) -> bytes:
    """The frame of a READ of runs (start, count)."""
    runs = list(runs)
    body = wire.COUNT.pack(len(runs)) + b"".join(wire.RUN.pack(*run) for run in runs)
    return sign(key, header(Opcode.READ, instance, epoch, 0, nonce) + body)


def parse_reply(reply: bytes) -> Result | Reason:
    """What a reply (without its frame header) says. Raises ValueError if its lengths do not add up."""
    kind, number = wire.REPLY_HEADER.unpack_from(reply)
    rest = reply[wire.REPLY_HEADER.size :]
    if kind == wire.REFUSAL:
        if rest:
            raise ValueError("bytes after a refusal")
        return Reason(number)
    if kind != wire.ANSWER or not wire.RESULT.size <= number <= len(rest):
        raise ValueError("not a reply")
    instance, epoch, seq, size = wire.RESULT.unpack_from(rest)
    return Result(instance, epoch, seq, size, rest[wire.RESULT.size : number], rest[number:])


def parse_evidence(result: Result, command: bytes) -> Evidence:
    """Follow the path from the leaf of `result`, which answers the frame `command`, to the root it leads to."""
    payload = command[wire.FRAME_HEADER.size + wire.SIGNATURE_BYTES :]
    nonce = wire.COMMAND_HEADER.unpack_from(payload)[-1]
    fixed = wire.RESULT.pack(result.instance, result.epoch, result.seq, result.size)
    answered = hashlib.sha256(fixed + result.data).digest()
    own = wire.leaf(result.instance, result.epoch, result.seq, nonce, wire.command_digest(payload), answered)
    index, count = wire.PATH_HEADER.unpack_from(result.evidence)
    end = wire.PATH_HEADER.size + path_bytes(index, count)
    path = result.evidence[wire.PATH_HEADER.size : end]
    return Evidence(result.evidence[end:], merkle_root(own, index, count, path))


class Client:
    """A blocking connection to the disk at `address`; every wait ends after `timeout_s`."""

    def __init__(self, address: str, timeout_s: float = 10.0) -> None:
        family, target = parse(address)
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.connect(target)  # before the timeout is set: a full Unix queue then waits and does not fail
        self.socket.settimeout(timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def send(self, *frames: bytes) -> None:
        """Send `frames` in one piece."""
        self.socket.sendall(b"".join(frames))

    def receive(self) -> Result | Reason:
        """The next reply. Raises ConnectionError if the disk hung up."""
        (length,) = wire.FRAME_HEADER.unpack(self._exactly(wire.FRAME_HEADER.size))
        return parse_reply(self._exactly(length))

    def call(self, command: bytes) -> Result | Reason:
        """Send one frame and wait for its reply."""
        self.send(command)
        return self.receive()

    def ask(self, command: bytes) -> Result:
        """Like `call`, for a command that must not be refused."""
        reply = self.call(command)
        if not isinstance(reply, Result):
            raise AssertionError(f"refused: {reply.name}")
        return reply

    def hung_up(self) -> bool:
        """Wait for the disk to end the connection; False if it sends something instead."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def _exactly(self, count: int) -> bytes:
        received = bytearray()
        while len(received) < count:
            piece = self.socket.recv(min(count - len(received), 1 << 16))
            if not piece:
                raise ConnectionError("the disk hung up")
            received += piece
        return bytes(received)

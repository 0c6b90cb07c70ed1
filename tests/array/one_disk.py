"""One real disk in this process: the real state machine, driven by the array's own commands, its replies framed as a
server frames them. The document that stands for hardware evidence is the commitment itself behind a prefix, so a test
can tell which commitment was attested.
"""

from __future__ import annotations

import os

from perdure.array import commands
from perdure.array.commands import Answer, Authority, Command
from perdure.disk import wire
from perdure.disk.core import DiskCore, Refusal
from perdure.disk.wire import DISK_SECTOR_BYTES, Opcode

PRIVATE_KEY = b"\x11" * 32
AUTHORITY = Authority(PRIVATE_KEY)
INSTANCE = bytes(range(32))
NONCE = b"N" * 32
EPOCH = (1).to_bytes(8, "big") + b"01234567"


def document_over(root: bytes) -> bytes:
    """What the platform of this disk emits."""
    return b"attested: " + root


def frame_reply(head: bytes, data: bytes, evidence: bytes = b"") -> bytes:
    """A reply frame that is an answer."""
    return wire.REPLY_HEADER.pack(wire.ANSWER, len(head) + len(data)) + head + data + evidence


class OneDisk:
    """`index` and `count` say where its leaf stands among those that one document answers for."""

    def __init__(self, sectors: int, *, fill: int = 0, index: int = 0, count: int = 1) -> None:
        self.memory = bytearray([fill]) * (sectors * DISK_SECTOR_BYTES)
        self.out = bytearray(wire.READ_BYTES_MAX)
        self.core = DiskCore(memoryview(self.memory), INSTANCE, AUTHORITY.public_key, os.urandom)
        self.index, self.count = index, count

    def reply(self, command: Command) -> bytes:
        """The frame that comes back."""
        try:
            answer = self.core.handle(memoryview(b"".join(command.parts)), memoryview(self.out))
        except Refusal as refused:
            return wire.REPLY_HEADER.pack(wire.REFUSAL, refused.reason)
        data = bytes(answer.data)
        return frame_reply(answer.head, data, self._evidence(answer.leaf) if answer.leaf else b"")

    def _evidence(self, leaf: bytes) -> bytes:
        levels = wire.merkle_levels([leaf if at == self.index else at.to_bytes(64, "big") for at in range(self.count)])
        path = wire.merkle_path(levels, self.index)
        return wire.PATH_HEADER.pack(self.index, self.count) + path + document_over(levels[-1][0])

    def ask(self, command: Command) -> Answer:
        """The parsed answer; raises what `parse_reply` raises."""
        return commands.parse_reply(command, memoryview(self.reply(command)))

    def open(self, epoch: bytes = EPOCH) -> Answer:
        """Take it over."""
        return self.ask(commands.build(AUTHORITY, Opcode.OPEN, instance=INSTANCE, epoch=epoch, nonce=NONCE))

    def execute(self, ops: list[bytes], *data: bytes) -> Answer:
        """One EXECUTE with the next seq."""
        body = (wire.COUNT.pack(len(ops)) + b"".join(ops), *data)
        seq = self.core.seq + 1
        epoch = self.core.epoch
        return self.ask(commands.build(AUTHORITY, Opcode.EXECUTE, instance=INSTANCE, epoch=epoch, seq=seq, body=body))

    def part(self, start: int, count: int) -> bytes:
        """The memory of `count` disk sectors from `start`."""
        return bytes(self.memory[start * DISK_SECTOR_BYTES : (start + count) * DISK_SECTOR_BYTES])

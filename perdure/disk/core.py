"""The disk's state machine: a command's bytes in, a reply's bytes out. No socket or clock; randomness is given.

State: `instance`, `epoch` (zero: never opened), `seq`, sector memory, and the acknowledgement chain, if one was asked
for. What each check is for (docs/spec.md, section 3, and docs/threat-model.md):

- the signature: only the authority commands this disk; nothing is parsed before it holds
- the instance: a second copy of the image, fed with our recorded log, must not become us
- the epoch: what a main program sends after a later one has opened this disk must not land
- the seq: a signed command lands once, and none before the one that precedes it
- ranges: all are checked before the first byte changes, so an EXECUTE happens whole or not at all
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from typing import NamedTuple

from coincurve import PublicKey
from coincurve.ecdsa import cdata_to_der, deserialize_compact

from perdure.disk import wire
from perdure.disk.chain import Chain
from perdure.disk.wire import DISK_SECTOR_BYTES, LINK_BYTES, Opcode, OpKind, Reason, Wants

_ZEROS = memoryview(bytes(1 << 16))
_WRITE, _COPY, _TRIM = map(int, OpKind)  # there are hundreds of operations in a command: plain numbers compare faster


class Answer(NamedTuple):
    """A carried-out command: the result's fixed part, what follows it (a part of `out`), and the leaf to attest."""

    head: bytes
    data: memoryview
    leaf: bytes | None


class Refusal(Exception):
    """The command was not carried out, and nothing changed. (NO_EVIDENCE alone comes after the fact: see the shell.)"""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


def wipe(buffer: memoryview) -> None:
    """Zero `buffer`."""
    for start in range(0, len(buffer), len(_ZEROS)):
        part = buffer[start : start + len(_ZEROS)]
        part[:] = _ZEROS[: len(part)]


class DiskCore:
    """One disk. `memory`: its sectors, all zero; `instance`: 32 bytes of `random`; `authority`: the public key."""

    def __init__(self, memory: memoryview, instance: bytes, authority: bytes, random: Callable[[int], bytes]) -> None:
        self.memory = memory
        self.instance = instance
        self.epoch = wire.NO_EPOCH
        self.seq = 0
        self.size = len(memory) // DISK_SECTOR_BYTES
        self._authority = PublicKey(authority)
        self._chain = Chain(random)

    def handle(self, command: memoryview, out: memoryview) -> Answer:
        """Carry out one command; what it reads or shows goes to the start of `out`. Raises Refusal: nothing changed."""
        if len(command) < wire.SIGNATURE_BYTES + wire.COMMAND_HEADER.size:
            raise Refusal(Reason.MALFORMED)
        payload = command[wire.SIGNATURE_BYTES :]
        digest = wire.command_digest(payload)
        self._check_signature(bytes(command[: wire.SIGNATURE_BYTES]), digest)
        version, opcode, wants, instance, epoch, seq, nonce = wire.COMMAND_HEADER.unpack_from(payload)
        body = payload[wire.COMMAND_HEADER.size :]
        attested = wants in (Wants.EVIDENCE, Wants.CHAIN)
        most = Wants.LINK if opcode == Opcode.EXECUTE else Wants.EVIDENCE
        if version != wire.VERSION or wants > most or payload[3] or (not attested and nonce != wire.NO_NONCE):
            raise Refusal(Reason.MALFORMED)
        length = self._carry_out(opcode, wants, instance, epoch, seq, body, out)
        head = wire.RESULT.pack(self.instance, self.epoch, self.seq, self.size)
        if not attested:
            return Answer(head, out[:length], None)
        result = hashlib.sha256(head)
        result.update(out[:length])
        leaf = wire.leaf(self.instance, self.epoch, self.seq, nonce, digest, result.digest())
        return Answer(head, out[:length], leaf)

    def _check_signature(self, signature: bytes, digest: bytes) -> None:
        with contextlib.suppress(ValueError):  # of a signature that is none
            if self._authority.verify(cdata_to_der(deserialize_compact(signature)), digest, None):
                return
        raise Refusal(Reason.BAD_SIGNATURE)

    def _carry_out(
        self, opcode: int, wants: int, instance: bytes, epoch: bytes, seq: int, body: memoryview, out: memoryview
    ) -> int:
        """Do what `opcode` says; return how many bytes of `out` it filled."""
        if opcode == Opcode.HELLO:
            if body or not wants or seq or instance != wire.NO_INSTANCE or epoch != wire.NO_EPOCH:
                raise Refusal(Reason.MALFORMED)
            return 0
        if instance != self.instance:
            raise Refusal(Reason.WRONG_INSTANCE)
        if opcode == Opcode.OPEN:
            if body or not wants or seq:
                raise Refusal(Reason.MALFORMED)
            if epoch <= self.epoch:
                raise Refusal(Reason.WRONG_EPOCH)
            self._chain.drop()
            self.epoch, self.seq = epoch, 0
            return 0
        if epoch != self.epoch or epoch == wire.NO_EPOCH:
            raise Refusal(Reason.WRONG_EPOCH)
        if opcode == Opcode.EXECUTE:
            return self._execute(wants, seq, body, out)
        if opcode == Opcode.READ and not seq:
            return self._read(body, out)
        raise Refusal(Reason.MALFORMED)

    def _execute(self, wants: int, seq: int, body: memoryview, out: memoryview) -> int:
        if seq != self.seq + 1:
            raise Refusal(Reason.WRONG_SEQ)
        if wants == Wants.LINK and seq not in self._chain.seqs:
            raise Refusal(Reason.NO_LINK)
        records, data = self._split(body, wire.OP.size)
        ops = list(wire.OP.iter_unpack(records))
        if self._check(ops) * DISK_SECTOR_BYTES != len(data):
            raise Refusal(Reason.MALFORMED)
        self._apply(ops, data)
        self.seq = seq
        if wants < Wants.CHAIN:
            return 0
        out[:LINK_BYTES] = self._chain.renew(seq) if wants == Wants.CHAIN else self._chain.show(seq)
        return LINK_BYTES

    def _check(self, ops: list[tuple[int, int, int, int]]) -> int:
        """How many sectors of data the operations take from the command. Raises Refusal if one of them may not be."""
        written, size = 0, self.size
        for kind, target, count, source in ops:
            if not _WRITE <= kind <= _TRIM or not count or (source and kind != _COPY):
                raise Refusal(Reason.MALFORMED)
            if target + count > size or source + count > size:
                raise Refusal(Reason.OUT_OF_RANGE)
            written += count * (kind == _WRITE)
        return written

    def _apply(self, ops: list[tuple[int, int, int, int]], data: memoryview) -> None:
        memory = self.memory
        for kind, target, count, source in ops:
            start, length = target * DISK_SECTOR_BYTES, count * DISK_SECTOR_BYTES
            if kind == _COPY:
                begin = source * DISK_SECTOR_BYTES
                memory[start : start + length] = memory[begin : begin + length]
            elif kind == _WRITE:
                memory[start : start + length] = data[:length]
                data = data[length:]
            else:
                wipe(memory[start : start + length])

    def _read(self, body: memoryview, out: memoryview) -> int:
        records, rest = self._split(body, wire.RUN.size)
        runs = list(wire.RUN.iter_unpack(records))
        if rest or any(not count for _, count in runs):
            raise Refusal(Reason.MALFORMED)
        total = sum(count for _, count in runs) * DISK_SECTOR_BYTES
        if total > min(len(out), wire.READ_BYTES_MAX) or any(start + count > self.size for start, count in runs):
            raise Refusal(Reason.OUT_OF_RANGE)
        filled = 0
        for start, count in runs:
            begin, length = start * DISK_SECTOR_BYTES, count * DISK_SECTOR_BYTES
            out[filled : filled + length] = self.memory[begin : begin + length]
            filled += length
        return filled

    @staticmethod
    def _split(body: memoryview, record_bytes: int) -> tuple[memoryview, memoryview]:
        """The counted records at the start of `body`, and what follows them."""
        end = wire.COUNT.size + int.from_bytes(body[: wire.COUNT.size], "big") * record_bytes
        if len(body) < end:  # also if it does not even hold the count
            raise Refusal(Reason.MALFORMED)
        return body[wire.COUNT.size : end], body[end:]

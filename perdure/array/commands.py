"""Signed commands out, checked replies in: the main program's half of docs/spec.md, sections 2 and 3.

A reply's bytes prove nothing by themselves. `parse_reply` checks shape; `Answer.commitment` is what a document must
attest before a word of the reply is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from coincurve import PrivateKey
from coincurve.ecdsa import der_to_cdata, serialize_compact

from perdure.array.geometry import Run
from perdure.array.paths import merkle_root, path_bytes
from perdure.array.ports import Buffer
from perdure.disk import wire
from perdure.disk.wire import LINK_BYTES, Opcode, Reason, Wants
from perdure.errors import Corrupt, MalformedEvidence, Misuse, Refused

_REASONS = {
    Reason.MALFORMED: "it could not read the command",
    Reason.BAD_SIGNATURE: "it obeys another authority, or the command was altered on the way",
    Reason.WRONG_INSTANCE: "it is not the instance that was addressed",
    Reason.WRONG_EPOCH: "a later mount has taken it over",
    Reason.WRONG_SEQ: "the command is out of order",
    Reason.OUT_OF_RANGE: "the command reaches beyond its memory",
    Reason.NO_EVIDENCE: "its platform gave no evidence",
    Reason.NO_LINK: "it has no acknowledgement chain, or none that reaches this command",
}


class Authority:
    """The main program's key pair. Signs commands; never leaves the process."""

    def __init__(self, private_key: bytes) -> None:
        if len(private_key) != 32:
            raise Misuse(f"the authority's private key is 32 bytes, not {len(private_key)}")
        try:
            self._key = PrivateKey(private_key)
        except ValueError:
            raise Misuse("the authority's private key is not a number that secp256k1 allows") from None

    @property
    def public_key(self) -> bytes:
        """33 bytes, compressed: what is built into every disk image."""
        return self._key.public_key.format(compressed=True)

    @property
    def private_key(self) -> bytes:
        """32 bytes, for deriving the sealing keys."""
        return bytes(self._key.secret)

    def sign(self, digest: bytes) -> bytes:
        """ECDSA over a 32-byte digest, deterministic (RFC 6979), low s, 64 bytes r | s."""
        return bytes(serialize_compact(der_to_cdata(self._key.sign(digest, None))))


@dataclass(frozen=True, slots=True)
class Command:
    """One signed command, ready to be sent as often as it takes."""

    parts: tuple[Buffer, ...]
    digest: bytes
    nonce: bytes | None
    data_bytes: int
    """How many bytes follow the result's fixed part: what a READ asks for, or an anchor or a link."""
    wants: Wants


@dataclass(frozen=True, slots=True)
class RecordedRead:
    """A READ with evidence, taken apart again. Whether the authority signed it does not matter: a disk answered."""

    command: Command
    instance: bytes
    epoch: bytes
    runs: tuple[Run, ...]


def recorded_read(frame: bytes) -> RecordedRead:
    """The READ in `frame`. Raises Corrupt when it is none, or none with evidence."""
    body = frame[wire.SIGNATURE_BYTES + wire.COMMAND_HEADER.size :]
    if len(body) < wire.COUNT.size:
        raise Corrupt("a recorded command is cut short")
    header = frame[wire.SIGNATURE_BYTES : wire.SIGNATURE_BYTES + wire.COMMAND_HEADER.size]
    version, opcode, wants, instance, epoch, seq, nonce = wire.COMMAND_HEADER.unpack(header)
    (count,) = wire.COUNT.unpack_from(body)
    is_read = (version, opcode, wants, seq) == (wire.VERSION, Opcode.READ, Wants.EVIDENCE, 0)
    if not is_read or len(body) != wire.COUNT.size + count * wire.RUN.size:
        raise Corrupt("a recorded command is no READ with evidence")
    runs = tuple(Run(*run) for run in wire.RUN.iter_unpack(body[wire.COUNT.size :]))
    asked = sum(run.count for run in runs) * wire.DISK_SECTOR_BYTES
    command = Command((frame,), wire.command_digest(frame[wire.SIGNATURE_BYTES :]), nonce, asked, Wants.EVIDENCE)
    return RecordedRead(command, instance, epoch, runs)


def recorded_hello(frame: bytes) -> Command:
    """The HELLO in `frame`. Raises Corrupt when it is none."""
    header = frame[wire.SIGNATURE_BYTES :]
    if len(header) != wire.COMMAND_HEADER.size:
        raise Corrupt("a recorded command is no HELLO")
    version, opcode, wants, *_, nonce = wire.COMMAND_HEADER.unpack(header)
    if (version, opcode, wants) != (wire.VERSION, Opcode.HELLO, Wants.EVIDENCE):
        raise Corrupt("a recorded command is no HELLO")
    return Command((frame,), wire.command_digest(header), nonce, 0, Wants.EVIDENCE)


def build(
    authority: Authority,
    opcode: Opcode,
    *,
    instance: bytes = wire.NO_INSTANCE,
    epoch: bytes = wire.NO_EPOCH,
    seq: int = 0,
    nonce: bytes | None = None,
    body: Sequence[Buffer] = (),
    data_bytes: int = 0,
    wants: Wants | None = None,
) -> Command:
    """Sign one command; `nonce` 32 fresh bytes when evidence is wanted.

    `wants` need be given only for an EXECUTE that shall bring a chain (with a nonce) or a link (without).
    """
    if wants is None:
        wants = Wants.NOTHING if nonce is None else Wants.EVIDENCE
    header = wire.COMMAND_HEADER.pack(wire.VERSION, opcode, wants, instance, epoch, seq, nonce or wire.NO_NONCE)
    digest = wire.command_digest(header, *body)
    data_bytes = LINK_BYTES if wants >= Wants.CHAIN else data_bytes
    return Command((authority.sign(digest), header, *body), digest, nonce, data_bytes, wants)


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer: what the disk, or whoever forged it, says."""

    instance: bytes
    epoch: bytes
    seq: int
    size: int
    data: memoryview
    commitment: bytes | None
    """The Merkle root that the document must carry; None where no evidence was wanted."""
    document: bytes


def parse_reply(command: Command, reply: memoryview) -> Answer:
    """The answer in a reply frame. Raises Refused for a refusal, MalformedEvidence for any other shape."""
    if len(reply) < wire.REPLY_HEADER.size:
        raise MalformedEvidence("a disk's reply is cut short")
    kind, length = wire.REPLY_HEADER.unpack_from(reply)
    if kind == wire.REFUSAL and len(reply) == wire.REPLY_HEADER.size:
        text = _REASONS.get(length, "for a reason it cannot have") if length in iter(Reason) else "for no known reason"
        raise Refused(f"the disk refused: {text}", length)
    result = reply[wire.REPLY_HEADER.size : wire.REPLY_HEADER.size + length]
    if kind != wire.ANSWER or length != wire.RESULT.size + command.data_bytes or len(result) != length:
        raise MalformedEvidence("a disk's reply has the wrong shape")
    fields = wire.RESULT.unpack_from(result)
    commitment, document = _commitment(command, fields, result, reply[wire.REPLY_HEADER.size + length :])
    instance, epoch, seq, size = fields
    return Answer(instance, epoch, seq, size, result[wire.RESULT.size :], commitment, document)


def _commitment(
    command: Command, fields: tuple[bytes, bytes, int, int], result: memoryview, evidence: memoryview
) -> tuple[bytes | None, bytes]:
    if command.nonce is None:
        if evidence:
            raise MalformedEvidence("a disk's reply carries evidence that was not asked for")
        return None, b""
    if len(evidence) < wire.PATH_HEADER.size:
        raise MalformedEvidence("a disk's reply lacks the evidence that was asked for")
    index, count = wire.PATH_HEADER.unpack_from(evidence)
    if not index < count <= wire.LEAVES_MAX:
        raise MalformedEvidence("a disk's evidence has an impossible Merkle path")
    instance, epoch, seq, _ = fields
    own = wire.leaf(instance, epoch, seq, command.nonce, command.digest, sha256(result).digest())
    end = wire.PATH_HEADER.size + path_bytes(index, count)
    root = merkle_root(own, index, count, bytes(evidence[wire.PATH_HEADER.size : end]))
    if root is None:
        raise MalformedEvidence("a disk's evidence has a Merkle path of the wrong length")
    return root, bytes(evidence[end:])

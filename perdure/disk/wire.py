"""Layouts that both ends of a disk's connection share: docs/spec.md, sections 2 and 3. All integers big-endian.

A connection carries frames: u32 length, then that many bytes. Commands go one way, replies come back in the same
order. Every command is signed over the tagged SHA-256 of all of it; a reply is authenticated only by evidence,
which commits to the leaf that this module computes. One version, exact lengths, a closed list of refusals.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from struct import Struct

VERSION = 1
DISK_SECTOR_BYTES = 64
FRAME_HEADER = Struct(">I")
COMMAND_BYTES_MAX = 1 << 20
READ_BYTES_MAX = 1 << 20
SIGNATURE_BYTES = 64
LEAVES_MAX = 512
"""How many waiting requests one document may answer for."""
LINK_BYTES = 32
LINKS = 32
"""How many acknowledgements one chain has."""

COMMAND_HEADER = Struct(">BBBx32s16sQ32s")
"""version, opcode, what is wanted (`Wants`), instance, epoch, seq, nonce. The reserved byte must be 0."""
COUNT = Struct(">H")
OP = Struct(">BIII")
"""kind, target, count, source, in disk sectors; source is 0 but for COPY."""
RUN = Struct(">II")
"""start, count, in disk sectors."""
RESULT = Struct(">32s16sQI")
"""instance, epoch, seq, size in disk sectors; the bytes of a READ, an anchor or a link follow."""
REPLY_HEADER = Struct(">BI")
"""ANSWER, then the length of the result; after the result comes the evidence, if any. Or REFUSAL, then a reason."""
PATH_HEADER = Struct(">HH")
"""Evidence: this leaf's index, how many leaves; then the path, 64 bytes a step; then the document."""

NO_NONCE = bytes(32)
NO_EPOCH = bytes(16)
NO_INSTANCE = bytes(32)
ANSWER, REFUSAL = 1, 2

_COMMAND_TAG = hashlib.sha256(b"perdure/command/1").digest() * 2
_LEAF_TAG = b"perdure/leaf/1"
_FORK_TAG = b"perdure/fork/1"
_LINK_TAG = hashlib.sha256(b"perdure/link/1").digest() * 2


class Opcode(IntEnum):
    """What a command asks for."""

    HELLO = 1
    OPEN = 2
    EXECUTE = 3
    READ = 4


class Wants(IntEnum):
    """What shall prove that a command was carried out; the last two are for EXECUTE alone."""

    NOTHING = 0
    EVIDENCE = 1
    CHAIN = 2
    LINK = 3


class OpKind(IntEnum):
    """What one operation of an EXECUTE does."""

    WRITE = 1
    COPY = 2
    TRIM = 3


class Reason(IntEnum):
    """The closed list of refusals. A refusal is not evidence: a host can forge one, so it is only a hint."""

    MALFORMED = 1
    BAD_SIGNATURE = 2
    WRONG_INSTANCE = 3
    WRONG_EPOCH = 4
    WRONG_SEQ = 5
    OUT_OF_RANGE = 6
    NO_EVIDENCE = 7
    NO_LINK = 8


def command_digest(*parts: bytes | bytearray | memoryview) -> bytes:
    """The 32 bytes that a command's signature signs and its evidence names: tagged SHA-256 (BIP-340's construction)."""
    digest = hashlib.sha256(_COMMAND_TAG)
    for part in parts:
        digest.update(part)
    return digest.digest()


def leaf(instance: bytes, epoch: bytes, seq: int, nonce: bytes, command: bytes, result: bytes) -> bytes:
    """The 64-byte commitment of one answer: SHA-512 over fixed-length fields, so no two answers share an encoding.

    `command` is `command_digest` of the command, `result` the SHA-256 of the result's bytes.
    """
    fields = (_LEAF_TAG, instance, epoch, seq.to_bytes(8, "big"), nonce, command, result)
    return hashlib.sha512(b"".join(fields)).digest()


def hashed_link(link: bytes) -> bytes:
    """The link before `link`, or the anchor before the first: tagged SHA-256."""
    return hashlib.sha256(_LINK_TAG + link).digest()


def fork(left: bytes, right: bytes) -> bytes:
    """The 64-byte node over two others."""
    return hashlib.sha512(_FORK_TAG + left + right).digest()


def merkle_levels(leaves: list[bytes]) -> list[list[bytes]]:
    """All levels of the tree from the leaves to the single root; an odd last one moves up unchanged."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = [fork(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        levels.append(above + below[len(above) * 2 :])
    return levels


def merkle_path(levels: list[list[bytes]], index: int) -> bytes:
    """The siblings of leaf `index` from the bottom up; a level in which it has none contributes nothing."""
    path = b""
    for level in levels[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            path += level[sibling]
        index >>= 1
    return path

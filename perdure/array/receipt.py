"""Erase receipts: what shows to a third party that no live disk holds a range any more (docs/spec.md, section 14).

A receipt is a set of READs with evidence, made after the erasure: for every member its genesis record, its roster,
the head of its journal, the first disk sector of every journal slot, and the tags and fragments of the range, which
are all zeros. `judge` checks it with nothing but the receipt and the means to check a hardware document; so does the
main program before it hands one out.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from coincurve import PublicKey
from coincurve.ecdsa import cdata_to_der, deserialize_compact

from perdure.array import commands
from perdure.array.commands import Authority
from perdure.array.genesis import Genesis
from perdure.array.geometry import GENESIS_AREA, HEAD_AREA, ROSTER_AREA, SECTOR_BYTES, SLOTS, Geometry, Run
from perdure.array.journal import EntryHeader, Head
from perdure.array.ports import Attested, Buffer
from perdure.array.roster import Departed, Roster
from perdure.disk.wire import COMMAND_BYTES_MAX, DISK_SECTOR_BYTES, READ_BYTES_MAX
from perdure.errors import Corrupt, Misuse, WrongCommitment

FORMAT = "perdure-erase-receipt-1"
_TAG = sha256(b"perdure/receipt/1").digest() * 2
_FRAME_BYTES_MAX = 2 * max(COMMAND_BYTES_MAX, READ_BYTES_MAX)
_KEYS = {"format", "genesis", "offset", "length", "entry", "oldest", "proofs", "signature"}

Attest = Callable[[bytes, bytes], Attested]
"""Checks a document that must carry a 64-byte commitment. Raises BadEvidence."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A command and its reply, whole frames without their lengths, compressed: most of them is zeros."""

    command: bytes
    reply: bytes

    @classmethod
    def of(cls, command: bytes, reply: Buffer) -> Exchange:
        """Keep what was sent and received."""
        return cls(zlib.compress(command), zlib.compress(reply))

    def frames(self) -> tuple[bytes, bytes]:
        """Command and reply. Raises Corrupt when they do not expand to frames of a size that a disk takes and gives."""
        return _expanded(self.command), _expanded(self.reply)


def _expanded(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        frame = inflater.decompress(data, _FRAME_BYTES_MAX)
    except zlib.error:
        frame = b""
    if not inflater.eof or inflater.unused_data:
        raise Corrupt("the receipt is damaged: a frame in it does not expand")
    return frame


Proof = tuple[Exchange, ...]
"""One member's answers to `plan`, in its order."""


def whole_sectors(geometry: Geometry, offset: int, length: int) -> Run:
    """The sectors that a range in bytes covers. Raises Misuse: only whole sectors can be shown to be erased."""
    if offset % SECTOR_BYTES or length % SECTOR_BYTES or not 0 < length <= geometry.size_bytes - offset or offset < 0:
        raise Misuse(
            f"{length} bytes from {offset} are not whole sectors of {SECTOR_BYTES} bytes within the array's "
            f"{geometry.size_bytes}; only such can be erased. Nothing was changed."
        )
    return Run(offset // SECTOR_BYTES, length // SECTOR_BYTES)


def plan(geometry: Geometry, run: Run) -> list[list[Run]]:
    """The READs that show `run` (in sectors) erased on one disk: each a list of runs in disk sectors."""
    first = [
        Run(0, GENESIS_AREA),
        Run(geometry.current_start, ROSTER_AREA),
        Run(geometry.next_start, ROSTER_AREA),
        Run(geometry.head_start, HEAD_AREA),
        *(Run(geometry.slot_start(slot), 1) for slot in range(SLOTS)),
    ]
    tags = Run(geometry.tag_start(run.start), run.count)
    fragments = Run(geometry.fragment_start(run.start), run.count * geometry.fragment_sectors)
    return [first, *([part] for part in (*_parts(tags), *_parts(fragments)))]


def _parts(run: Run) -> Iterator[Run]:
    most = READ_BYTES_MAX // DISK_SECTOR_BYTES
    for start in range(run.start, run.end, most):
        yield Run(start, min(most, run.end - start))


@dataclass(frozen=True, slots=True)
class Receipt:
    """That `length` bytes from `offset` were erased. `members` proved it; `departed` are those that could not."""

    genesis: Genesis
    offset: int
    length: int
    entry: int
    """Every entry up to this one, the erasing one among them, is applied and wiped from every member's ring."""
    oldest: int
    """The lowest generation among the versions that were erased, 0 when there were none: the main program's word."""
    proofs: tuple[Proof, ...]
    signature: bytes
    """The authority's, over everything else."""

    @property
    def array_id(self) -> bytes:
        """32 bytes."""
        return self.genesis.array_id

    @property
    def run(self) -> Run:
        """The range in sectors. Raises Misuse when it is not one of whole sectors within the array."""
        return whole_sectors(self.genesis.geometry, self.offset, self.length)

    @classmethod
    def signed(
        cls, authority: Authority, genesis: Genesis, run: Run, entry: int, oldest: int, proofs: tuple[Proof, ...]
    ) -> Receipt:
        """A receipt for `run`, in sectors."""
        fields = (genesis, run.start * SECTOR_BYTES, run.count * SECTOR_BYTES, entry, oldest, proofs)
        return cls(*fields, authority.sign(cls(*fields, b"").digest()))

    def digest(self) -> bytes:
        """The 32 bytes that the authority signs: tagged SHA-256 of the JSON without the signature, keys sorted."""
        return signed_digest(_TAG, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """What a file holds; frames are compressed, since most of them is zeros."""
        return {
            "format": FORMAT,
            "genesis": self.genesis.encode().hex(),
            "offset": self.offset,
            "length": self.length,
            "entry": self.entry,
            "oldest": self.oldest,
            "proofs": [[[_text(one.command), _text(one.reply)] for one in proof] for proof in self.proofs],
            "signature": self.signature.hex(),
        }

    @classmethod
    def from_json(cls, value: object) -> Receipt:
        """What `to_json` made. Raises Misuse or Corrupt for anything else."""
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise Misuse(f"this is not an erase receipt of the format {FORMAT}")
        if value.keys() != _KEYS:
            raise Corrupt("the receipt is damaged: it has not the fields that it must have")
        try:
            return cls(
                Genesis.decode(bytes.fromhex(value["genesis"])),
                _number(value["offset"]),
                _number(value["length"]),
                _number(value["entry"]),
                _number(value["oldest"]),
                tuple(tuple(Exchange(_bytes(c), _bytes(r)) for c, r in proof) for proof in value["proofs"]),
                bytes.fromhex(value["signature"]),
            )
        except (TypeError, ValueError):
            raise Corrupt("the receipt is damaged: its fields do not have the shapes that they must have") from None


def signed_digest(tag: bytes, value: Mapping[str, Any]) -> bytes:
    """Tagged SHA-256 of a receipt's JSON without its signature, keys sorted."""
    signed = {key: item for key, item in value.items() if key != "signature"}
    return sha256(tag + json.dumps(signed, sort_keys=True, separators=(",", ":")).encode()).digest()


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError
    return value


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError
    return base64.b64decode(text, validate=True)


# Judging --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Witness:
    """One member that proved to hold nothing of the range."""

    seat: int
    instance: bytes
    attested: Attested
    """Of the last of its documents."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What a receipt proves, once nothing is wrong with it."""

    receipt: Receipt
    witnesses: tuple[Witness, ...]
    departed: tuple[Departed, ...]
    """Instances that are no members, each with the last entry of which it may hold a fragment."""

    @property
    def members(self) -> tuple[bytes, ...]:
        """The instances that proved it, in the order of their seats."""
        return tuple(witness.instance for witness in self.witnesses)

    @property
    def exposed_seats(self) -> frozenset[int]:
        """The seats whose fragments of an erased version may stand on a departed disk that a host kept running."""
        if not self.receipt.oldest:
            return frozenset()
        return frozenset(gone.seat for gone in self.departed if gone.last >= self.receipt.oldest)

    @property
    def is_beyond_recall(self) -> bool:
        """Whether all departed disks together, and the authority's private key, bring nothing of the range back."""
        return len(self.exposed_seats) < self.receipt.genesis.geometry.k


def judge(receipt: Receipt, attest: Attest) -> Erased:
    """Check all of `receipt` but the policy, which is inside `attest`.

    Raises Misuse for an impossible range, Corrupt when it does not prove what it says, WrongCommitment when an answer
    is not that of the disk that was asked, and the BadEvidence of a document.
    """
    geometry, run = receipt.genesis.geometry, receipt.run
    require_signature(receipt.genesis.authority, receipt.digest(), receipt.signature, "the receipt")
    if not receipt.proofs:
        raise Corrupt("the receipt holds no disk's proof")
    reads = plan(geometry, run)
    rosters, witnesses = set[bytes](), []
    for proof in receipt.proofs:
        if len(proof) != len(reads):
            raise Corrupt("the receipt does not hold the answers that prove its range erased")
        instance = commands.recorded_read(proof[0].frames()[0]).instance
        label, attested = _data(proof[0], reads[0], instance, attest)
        rosters.add(_require_erased(receipt, label))
        for one, runs in zip(proof[1:], reads[1:], strict=True):
            part, attested = _data(one, runs, instance, attest)
            if bytes(part) != bytes(len(part)):
                raise Corrupt(f"disk {instance.hex()[:16]} still holds something in the range")
        witnesses.append((instance, attested))
    roster = Roster.decode(rosters.pop())
    if rosters or roster is None:
        raise Corrupt("the disks of the receipt do not have one roster in force")
    if {instance for instance, _ in witnesses} != roster.members or len(witnesses) != len(roster.members):
        raise Corrupt("the receipt does not hold a proof of exactly the members of the roster in force")
    found = sorted(((roster.seats.index(instance), instance, attested) for instance, attested in witnesses), key=_seat)
    return Erased(receipt, tuple(Witness(*one) for one in found), roster.departed)


def _seat(found: tuple[int, bytes, Attested]) -> int:
    return found[0]


def require_signature(authority: bytes, digest: bytes, signature: bytes, what: str) -> None:
    """Raise Corrupt unless the array's authority signed the digest of `what`."""
    try:
        is_ours = PublicKey(authority).verify(cdata_to_der(deserialize_compact(signature)), digest, None)
    except ValueError:
        is_ours = False
    if not is_ours:
        raise Corrupt(f"the authority of this array did not sign {what}, or it was altered since")


def _data(one: Exchange, runs: list[Run], instance: bytes, attest: Attest) -> tuple[memoryview, Attested]:
    """What a disk answered to the READ of `runs`, if it is this disk's own attested answer to that very question."""
    command, reply = one.frames()
    asked = commands.recorded_read(command)
    if (asked.instance, asked.runs) != (instance, tuple(runs)):
        raise Corrupt("the receipt holds the answer to another question than the one that proves its range erased")
    answer = commands.parse_reply(asked.command, memoryview(reply))
    assert answer.commitment is not None, "it was asked for with a nonce"
    if (answer.instance, answer.epoch) != (instance, asked.epoch):
        raise WrongCommitment("the receipt holds an answer that is not that of the disk that was asked")
    return answer.data, attest(answer.document, answer.commitment)


def _require_erased(receipt: Receipt, data: memoryview) -> bytes:
    """Check the answer to the first READ; the roster in force that it shows."""
    at = 0

    def take(sectors: int) -> bytes:
        nonlocal at
        at += sectors * DISK_SECTOR_BYTES
        return bytes(data[at - sectors * DISK_SECTOR_BYTES : at])

    if Genesis.decode(take(GENESIS_AREA)) != receipt.genesis:
        raise Corrupt("a disk of the receipt belongs to another array")
    current, proposed, head = take(ROSTER_AREA), take(ROSTER_AREA), Head.decode(take(HEAD_AREA))
    if any(proposed) or head.applied < receipt.entry:
        raise Corrupt("a disk of the receipt had not carried out the erasure")
    for _ in range(SLOTS):
        header = take(1)
        if any(header) and EntryHeader.decode(header).number <= receipt.entry:
            raise Corrupt("a journal slot of the receipt still holds an entry from before the erasure")
    return current

"""What must never be seen on the way between a main program and its disks, whatever its users see.

Three explicit checks, for defects that hosts might need years to make use of:

- no two different commands are signed for one instance, epoch and seq: a host could choose which one lands
- no evidence is believed twice: a proof answers one question
- no two ciphertexts are sealed under one key r: whoever records the links sees their difference
"""

from __future__ import annotations

import hmac
from collections import defaultdict
from hashlib import sha256

from perdure.array.erasure import Code
from perdure.array.geometry import SECTOR_BYTES, TAG_BYTES, Geometry
from perdure.array.journal import EntryHeader
from perdure.array.sealing import Keys
from perdure.disk import wire
from perdure.sim.disks import Evidence, SimAttested
from perdure.sim.history import Violation
from perdure.sim.loop import Loop

_BODY = wire.SIGNATURE_BYTES + wire.COMMAND_HEADER.size


class ProofsOnce:
    """A verifier that takes its time, some documents longer than others, and notes what it has believed."""

    def __init__(self, loop: Loop, latency_ms: float, evidence: Evidence) -> None:
        self._loop = loop
        self._evidence = evidence
        self._latency_ms = latency_ms
        self.believed: set[bytes] = set()

    async def verify(self, document: bytes, commitment: bytes) -> SimAttested:
        """What `evidence` says, later. Raises Violation for evidence that was believed before."""
        if self._latency_ms:
            await self._loop.sleep(self._latency_ms * self._loop.rng.random())
        attested = await self._evidence.verify(document, commitment)
        if document in self.believed:
            raise Violation("evidence that had answered one question was believed in answer to another")
        self.believed.add(document)
        return attested


class Wiretap:
    """Hears every command that leaves a main program, as whoever records all links does; and knows the private key."""

    def __init__(self, geometry: Geometry, private_key: bytes) -> None:
        self.seats: dict[bytes, int] = {}
        """Which seat's fragments each instance gets."""
        self.array_id = b""
        self._geometry = geometry
        self._private_key = private_key
        self._executes: dict[bytes, bytes] = {}
        """By instance, epoch and seq."""

    def heard(self, command: bytes) -> bool:
        """Note one command. Raises Violation when another was signed for its place; else True."""
        if command[wire.SIGNATURE_BYTES + 1] == wire.Opcode.EXECUTE:
            place = command[wire.SIGNATURE_BYTES + 4 : wire.SIGNATURE_BYTES + 60]
            if self._executes.setdefault(place, command) != command:
                raise Violation("two different commands are signed for one instance, epoch and seq")
        return True

    def require_fresh_keys(self) -> None:
        """Raises Violation when two of the ciphertexts that were sent are sealed under one key."""
        if not self.array_id:
            return
        wrap = Keys.derive(self._private_key, self.array_id).wrap
        sealed: dict[bytes, bytes] = {}
        for tag, index, digest in self._versions():
            place = index.to_bytes(8, "big") + tag[56:]
            pad = hmac.digest(wrap, self.array_id + place + digest, "sha256")
            key = (int.from_bytes(tag[:32], "big") ^ int.from_bytes(pad, "big")).to_bytes(32, "big")
            if sealed.setdefault(key, digest) != digest:
                raise Violation("two different ciphertexts are sealed under one key")

    def _versions(self) -> list[tuple[bytes, int, bytes]]:
        """Of every version of a sector of which k fragments were sent: its tag, index, and ciphertext's SHA-256."""
        k, size = self._geometry.k, self._geometry.fragment_bytes
        code = Code(k, self._geometry.n)
        found = []
        for (prefix, indices), columns in self._columns().items():
            if len(columns) < k:
                continue
            data = [bytes(column) for column in code.decode(columns)]
            for at, index in enumerate(indices):
                row = b"".join(column[at * size : (at + 1) * size] for column in data)[:SECTOR_BYTES]
                tags = len(prefix) - (len(indices) - at) * TAG_BYTES
                found.append((prefix[tags : tags + TAG_BYTES], index, sha256(row).digest()))
        return found

    def _columns(self) -> dict[tuple[bytes, tuple[int, ...]], dict[int, bytes]]:
        """The entries that were sent: by all but their fragments, and by seat the fragments."""
        ring = range(self._geometry.slot_start(0), self._geometry.tags_start)
        entries: dict[tuple[bytes, tuple[int, ...]], dict[int, bytes]] = defaultdict(dict)
        for place, command in self._executes.items():
            (count,) = wire.COUNT.unpack_from(command, _BODY)
            data = _BODY + wire.COUNT.size + count * wire.OP.size
            writes = [
                (target, size)
                for kind, target, size, _ in wire.OP.iter_unpack(command[_BODY + wire.COUNT.size : data])
                if kind == wire.OpKind.WRITE
            ]
            if writes and writes[0][0] in ring:
                slot = command[data : data + writes[0][1] * wire.DISK_SECTOR_BYTES]
                header = EntryHeader.decode(slot[:64])
                if header.writes:
                    end = header.sectors_before_fragments() * wire.DISK_SECTOR_BYTES
                    indices = tuple(
                        int.from_bytes(slot[64 + 4 * at : 68 + 4 * at], "big") for at in range(header.writes)
                    )
                    entries[slot[:end], indices][self.seats[place[:32]]] = slot[end:]
        return entries

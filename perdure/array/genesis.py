"""The genesis record: what an array is, once and for all. Its hash is the array's id, which reaches the main program
together with its key, so a host that shows other disks, another policy or another k shows another array.

    magic 8 "PERDURE1" | k u8 | n u8 | in the clear u8 | zero | history sectors u32 | sectors u64 | authority 33 |
    zeros 7 | policy digest 32 | n instances of 32, seat by seat
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from struct import Struct

from perdure.array.geometry import Geometry
from perdure.errors import Corrupt, Misuse

_MAGIC = b"PERDURE1"
_HEADER = Struct(">8sBB?xIQ33s7x32s")
_ID_TAG = sha256(b"perdure/genesis/1").digest() * 2


@dataclass(frozen=True, slots=True)
class Genesis:
    """What `create` fixes: the shape, the authority's public key, the evidence policy and the first n instances.

    Raises Misuse when a field has not its one length: the encoding would cut it, and the id would not bind the rest.
    """

    geometry: Geometry
    authority: bytes
    policy_digest: bytes
    instances: tuple[bytes, ...]
    is_sealed: bool = True
    """Whether sectors are encrypted; False is for what encrypts above, such as LUKS."""

    def __post_init__(self) -> None:
        lengths = [len(self.authority), len(self.policy_digest), *(len(instance) for instance in self.instances)]
        if lengths != [33, 32, *[32] * self.geometry.n]:
            raise Misuse("a genesis record has a public key of 33 bytes, a digest of 32 and n instances of 32")

    def encode(self) -> bytes:
        """The one encoding."""
        shape = self.geometry
        header = _HEADER.pack(
            _MAGIC,
            shape.k,
            shape.n,
            not self.is_sealed,
            shape.history_sectors,
            shape.sectors,
            self.authority,
            self.policy_digest,
        )
        return header + b"".join(self.instances)

    @property
    def array_id(self) -> bytes:
        """32 bytes: tagged SHA-256 of the encoding."""
        return sha256(_ID_TAG + self.encode()).digest()

    @classmethod
    def decode(cls, data: bytes) -> Genesis:
        """The record at the start of `data`, which zeros may follow. Raises Corrupt, or Misuse on a bad shape."""
        if len(data) < _HEADER.size or data[:8] != _MAGIC:
            raise Corrupt("there is no genesis record here")
        _, k, n, is_clear, history_sectors, sectors, authority, policy_digest = _HEADER.unpack_from(data)
        end = _HEADER.size + 32 * n
        if len(data) < end:
            raise Corrupt("the genesis record is cut short")
        instances = tuple(bytes(data[at : at + 32]) for at in range(_HEADER.size, end, 32))
        genesis = cls(Geometry(k, n, sectors, history_sectors), authority, policy_digest, instances, not is_clear)
        if genesis.encode() != bytes(data[:end]) or any(data[end:]):
            raise Corrupt("the genesis record is damaged")
        return genesis

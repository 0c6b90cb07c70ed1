"""Sealing: an all-or-nothing transform folded into encrypt-then-MAC (docs/spec.md, section 5).

For each version of a sector draw a fresh 32-byte r. Then

    c    = AES-256-CTR(key r, first counter block 2, plaintext)
    h    = SHA-256(c)
    wrap = r XOR HMAC(K1, id, index, generation, h)
    mac  = HMAC(K2, id, index, generation, wrap, h), first 24 bytes
    tag  = wrap 32 | mac 24 | generation 8

r comes back only with all of c, hence with k fragments: fewer tell nothing, even to one who holds the private key
(compare AONT-RS, Resch and Plank, FAST 2011). HMAC commits, so one tag opens under one key and to one content only.
A tag of zeros means never written or trimmed, and reads as zeros. Tags come from this program's memory or with
evidence; a fragment is believed only if it fits its tag.

An array in the clear has c = plaintext and r = zeros, and all else as it is: it is as fresh and as whole, and hosts
read it. It is for what encrypts above, such as LUKS (docs/design.md, "In the clear").

Counter blocks start at 2 because that is where AES-GCM with a nonce of zeros starts to encrypt (NIST SP 800-38D,
7.1): its one call in `cryptography` takes a third of the time of a stream cipher's object with a new key. Its tag is
thrown away; ours says more. HMAC's two states (RFC 2104) are kept with key and array id already in, so that a MAC of
a tag costs three short hashes instead of a look-up of the algorithm and two key schedules.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from perdure.array.geometry import SECTOR_BYTES, TAG_BYTES
from perdure.array.ports import Buffer
from perdure.errors import Corrupt

Bytes2D = np.ndarray[Any, np.dtype[np.uint8]]

NEVER_WRITTEN = bytes(TAG_BYTES)
_GCM_NONCE = bytes(12)
_HASHED_AT_ONCE_BYTES = 64


class _Mac:
    """HMAC-SHA-256 under one key over messages that all begin with `prefix`."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes, prefix: bytes) -> None:
        block = key.ljust(_HASHED_AT_ONCE_BYTES, b"\0")
        assert len(block) == _HASHED_AT_ONCE_BYTES, "longer keys are hashed first; ours have 32 bytes"
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block) + prefix)
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))

    def digest(self, message: bytes) -> bytes:
        """The 32 bytes for the prefix and `message`."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """What seals one array. `wrap` is K1, `mac` K2, `journal` authenticates entries."""

    array_id: bytes
    wrap: bytes
    mac: bytes
    journal: bytes
    is_sealed: bool = True
    wrapping: _Mac = field(init=False, compare=False)
    authenticating: _Mac = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wrapping", _Mac(self.wrap, self.array_id))
        object.__setattr__(self, "authenticating", _Mac(self.mac, self.array_id))

    @classmethod
    def derive(cls, private_key: bytes, array_id: bytes, *, is_sealed: bool = True) -> Keys:
        """The array's keys by HKDF-SHA-256 from the authority's 32-byte private key, salted by the array's id."""
        material = HKDF(SHA256(), 96, salt=array_id, info=b"perdure/sealing/2").derive(private_key)
        return cls(array_id, material[:32], material[32:64], material[64:], is_sealed)


def generation_of(tag: bytes) -> int:
    """The number of the entry that wrote the version which `tag` names; 0 when there is none."""
    return int.from_bytes(tag[56:], "big")


def _stream(key: bytes, data: Buffer) -> memoryview:
    """`data`, 4,096 bytes, encrypted or, being a stream cipher's, decrypted. The key must be used for this alone."""
    return memoryview(AESGCM(key).encrypt(_GCM_NONCE, data, None))[:SECTOR_BYTES]


def seal(
    keys: Keys,
    indices: Sequence[int],
    sectors: Sequence[Buffer],
    generation: int,
    width: int,
    random: Callable[[int], bytes],
) -> tuple[Bytes2D, bytes]:
    """Seal `sectors` (4,096 bytes each) for their `indices`.

    Returns the ciphertexts as rows of `width` bytes, zero behind the first 4,096, and the tags end to end. Raises
    ValueError when a sector has another size: a short one would authenticate, and open with noise behind it.
    """
    if any(len(sector) != SECTOR_BYTES for sector in sectors):
        raise ValueError("a sector has 4,096 bytes")
    if width < SECTOR_BYTES:
        raise ValueError("a row has room for a sector")
    rows = np.zeros((len(indices), width), np.uint8)
    room = rows.reshape(-1).data
    fresh = random(32 * len(indices)) if keys.is_sealed else bytes(32 * len(indices))
    tags = []
    for at, (index, sector) in enumerate(zip(indices, sectors, strict=True)):
        key = fresh[32 * at : 32 * at + 32]
        ciphertext = _stream(key, sector) if keys.is_sealed else sector
        room[at * width : at * width + SECTOR_BYTES] = ciphertext
        tags.append(_tag(keys, index, generation, key, sha256(ciphertext).digest()))
    return rows, b"".join(tags)


def _tag(keys: Keys, index: int, generation: int, key: bytes, digest: bytes) -> bytes:
    number = generation.to_bytes(8, "big")
    place = index.to_bytes(8, "big") + number
    wrap = _xor(key, keys.wrapping.digest(place + digest))
    return wrap + keys.authenticating.digest(place + wrap + digest)[:24] + number


def _xor(left: Buffer, right: Buffer) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(32, "big")


def unseal(keys: Keys, index: int, tag: bytes, ciphertext: Buffer) -> Buffer:
    """Sector `index`'s plaintext, 4,096 bytes, if `ciphertext` is the version that `tag` names. Raises Corrupt if not.

    `ciphertext` has 4,096 bytes; nothing of it is returned, and nothing is kept.
    """
    if tag == NEVER_WRITTEN:
        return bytes(SECTOR_BYTES)
    digest = check(keys, index, tag, ciphertext)
    if not keys.is_sealed:
        return ciphertext
    return _stream(_xor(tag[:32], keys.wrapping.digest(index.to_bytes(8, "big") + tag[56:] + digest)), ciphertext)


def check(keys: Keys, index: int, tag: bytes, ciphertext: Buffer) -> bytes:
    """The SHA-256 of `ciphertext`, if it is the version of sector `index` that `tag` names. Raises Corrupt if not."""
    digest = sha256(ciphertext).digest()
    expected = keys.authenticating.digest(index.to_bytes(8, "big") + tag[56:] + tag[:32] + digest)
    if not hmac.compare_digest(tag[32:56], expected[:24]):
        raise Corrupt(f"sector {index} does not authenticate; nothing was returned in its place")
    return digest

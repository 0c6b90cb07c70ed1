"""Sealing: an all-or-nothing transform folded into encrypt-then-MAC (docs/spec.md, section 5).

For each version of a sector draw a fresh 32-byte r. Then

    c    = AES-256-CTR(key r, counter 0, plaintext)
    h    = SHA-256(c)
    wrap = r XOR HMAC(K1, id, index, generation, h)
    mac  = HMAC(K2, id, index, generation, wrap, h), first 24 bytes
    tag  = wrap 32 | mac 24 | generation 8

r comes back only with all of c, hence with k fragments: fewer tell nothing, even to one who holds the private key
(compare AONT-RS, Resch and Plank, FAST 2011). HMAC commits, so one tag opens under one key and to one content only.
A tag of zeros means never written or trimmed, and reads as zeros. Tags come from this program's memory or with
evidence; a fragment is believed only if it fits its tag.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from perdure.array.geometry import SECTOR_BYTES, TAG_BYTES
from perdure.array.ports import Buffer
from perdure.errors import Corrupt

Bytes2D = np.ndarray[Any, np.dtype[np.uint8]]

NEVER_WRITTEN = bytes(TAG_BYTES)
_COUNTER = bytes(16)
_PLACE_BYTES = 16


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """What seals one array. `wrap` is K1, `mac` K2, `journal` authenticates entries."""

    array_id: bytes
    wrap: bytes
    mac: bytes
    journal: bytes

    @classmethod
    def derive(cls, private_key: bytes, array_id: bytes) -> Keys:
        """The array's keys by HKDF-SHA-256 from the authority's 32-byte private key, salted by the array's id."""
        material = HKDF(SHA256(), 96, salt=array_id, info=b"perdure/sealing/1").derive(private_key)
        return cls(array_id, material[:32], material[32:64], material[64:])


def generation_of(tag: bytes) -> int:
    """The number of the entry that wrote the version which `tag` names; 0 when there is none."""
    return int.from_bytes(tag[56:], "big")


def _place(index: int, generation: int) -> bytes:
    return index.to_bytes(8, "big") + generation.to_bytes(8, "big")


def _stream(key: bytes) -> CipherContext:
    return Cipher(algorithms.AES256(key), modes.CTR(_COUNTER)).encryptor()


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
    rows = np.zeros((len(indices), width), np.uint8)
    fresh = random(32 * len(indices))
    tags = []
    for at, (index, sector) in enumerate(zip(indices, sectors, strict=True)):
        key = fresh[32 * at : 32 * at + 32]
        row = memoryview(rows[at])[:SECTOR_BYTES]
        _stream(key).update_into(sector, row)
        tags.append(_tag(keys, index, generation, key, sha256(row).digest()))
    return rows, b"".join(tags)


def _tag(keys: Keys, index: int, generation: int, key: bytes, digest: bytes) -> bytes:
    place = _place(index, generation)
    wrap = _xor(key, hmac.digest(keys.wrap, keys.array_id + place + digest, "sha256"))
    mac = hmac.digest(keys.mac, keys.array_id + place + wrap + digest, "sha256")
    return wrap + mac[:24] + place[8:]


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(32, "big")


def unseal_into(keys: Keys, index: int, tag: bytes, ciphertext: memoryview, out: memoryview) -> None:
    """Put sector `index`'s plaintext into `out` (4,096 bytes) if `ciphertext` is the version that `tag` names.

    Raises Corrupt, with nothing written, if it is not.
    """
    if tag == NEVER_WRITTEN:
        out[:] = bytes(SECTOR_BYTES)
        return
    digest = check(keys, index, tag, ciphertext)
    key = _xor(tag[:32], hmac.digest(keys.wrap, keys.array_id + index.to_bytes(8, "big") + tag[56:] + digest, "sha256"))
    _stream(key).update_into(ciphertext, out)


def check(keys: Keys, index: int, tag: bytes, ciphertext: memoryview) -> bytes:
    """The SHA-256 of `ciphertext`, if it is the version of sector `index` that `tag` names. Raises Corrupt if not."""
    digest = sha256(ciphertext).digest()
    wrap, mac, generation = tag[:32], tag[32:56], tag[56:]
    place = index.to_bytes(8, "big") + generation
    expected = hmac.digest(keys.mac, keys.array_id + place + wrap + digest, "sha256")[:24]
    if not hmac.compare_digest(mac, expected):
        raise Corrupt(f"sector {index} does not authenticate; nothing was returned in its place")
    return digest

"""The bytes of a slot: what its two sectors say, and what that means (docs/spec.md, section 20). Pure.

    label: magic 4 "PKSL" | slot u32 | store u64 | version u64 | last version u64 | since u64 | public key 33 | zeros
    secret: magic 4 "PKSS" | slot u32 | store u64 | version u64 | public key 33 | secret 32 | zeros

An erasure trims the second sector alone, so the label, with version and public key, outlives it. A put writes the
secret first and then the label. So a slot holds a secret exactly if both are of one version; a secret with a higher
version than its label is what a crash left of a put that never returned, and counts for nothing but its number, which
the label remembers as the last version when such a secret is erased.

Both sectors name their slot and their store: a region that is given wrongly is noticed, not read as something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from struct import Struct
from typing import Final

from coincurve import PrivateKey, PublicKey

from perdure.array.geometry import SECTOR_BYTES
from perdure.array.ports import Buffer
from perdure.errors import Corrupt, Misuse

SLOT_BYTES: Final = 2 * SECTOR_BYTES
SLOTS_MAX: Final = 1 << 20
"""Of one store: 8 GiB."""
SECRET_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 33
_LABEL: Final = Struct(">4sIQQQQ33s")
_SECRET: Final = Struct(">4sIQQ33s32s")
_LABEL_MAGIC: Final = b"PKSL"
_SECRET_MAGIC: Final = b"PKSS"
_SECRET_AT: Final = _SECRET.size - SECRET_BYTES


@dataclass(frozen=True, slots=True)
class Place:
    """Slot number `slot` of the store that begins at byte `store` of an array."""

    store: int
    slot: int

    @property
    def label_start(self) -> int:
        """Where its label stands, in bytes."""
        return self.store + self.slot * SLOT_BYTES

    @property
    def secret_start(self) -> int:
        """Where its secret stands, in bytes: the sector that an erasure trims."""
        return self.label_start + SECTOR_BYTES


class State(StrEnum):
    """What a slot holds."""

    EMPTY = "empty"
    HELD = "held"
    ERASED = "erased"


@dataclass(frozen=True, slots=True)
class Slot:
    """What is known of a slot, without the secret."""

    place: Place
    state: State
    version: int
    """Of the key that it holds, or held when it was erased; 0 when there never was one."""
    public_key: bytes
    """33 bytes, empty when there never was one."""
    since: int
    """No fragment of this key was ever in a journal entry with a lower number than this; 0 when there never was one."""
    last_version: int
    """The highest version that any put, finished or not, has used."""
    is_torn: bool
    """Whether the secret of a put that a crash cut off stands there."""


def check_pair(secret: Buffer, public_key: bytes) -> None:
    """Raise Misuse unless `public_key` is the one of `secret`: no receipt may name another key than was erased."""
    try:
        own = PrivateKey(bytes(secret)).public_key.format() if len(secret) == SECRET_BYTES else b""
    except ValueError:
        own = b""
    if own != public_key or not own:
        raise Misuse(
            "A slot takes a private key of secp256k1, 32 bytes, with its own compressed public key, 33 bytes; this is "
            "not such a pair, and nothing was stored."
        )


def is_public_key(public_key: bytes) -> bool:
    """Whether these are 33 bytes that name a point of secp256k1."""
    try:
        return len(public_key) == PUBLIC_KEY_BYTES and PublicKey(public_key).format() == public_key
    except ValueError:
        return False


def encode_label(place: Place, version: int, last_version: int, since: int, public_key: bytes) -> bytes:
    """The sector that says which key a slot holds or held."""
    fields = _LABEL.pack(_LABEL_MAGIC, place.slot, place.store, version, last_version, since, public_key)
    return fields.ljust(SECTOR_BYTES, b"\0")


def encode_secret(place: Place, version: int, public_key: bytes, secret: Buffer) -> bytearray:
    """The sector that holds it; the caller's to wipe."""
    sector = bytearray(SECTOR_BYTES)
    _SECRET.pack_into(sector, 0, _SECRET_MAGIC, place.slot, place.store, version, public_key, bytes(secret))
    return sector


def secret_of(sectors: Buffer) -> bytearray:
    """The secret in a slot's two sectors, when `decode` says that it holds one; the caller's to wipe."""
    start = SECTOR_BYTES + _SECRET_AT
    return bytearray(memoryview(sectors)[start : start + SECRET_BYTES])


def is_known(found: Slot, sectors: Buffer, public_key: bytes) -> bool:
    """Whether these sectors of `found` name this key: it was here before, or a put of it was cut off."""
    torn = _secret(found.place, memoryview(sectors)[SECTOR_BYTES:])[1]
    return public_key in (found.public_key, torn)


def decode(place: Place, sectors: Buffer) -> Slot:
    """What a slot's two sectors say. Raises Corrupt for anything that no put and no erasure leaves there."""
    view = memoryview(sectors)
    version, last_version, since, public_key = _label(place, view[:SECTOR_BYTES])
    secret_version, secret_key = _secret(place, view[SECTOR_BYTES:])
    if secret_version and (secret_version < version or (secret_version == version and secret_key != public_key)):
        raise _foreign(place)
    last_version, is_torn = max(last_version, secret_version), secret_version > version
    return Slot(place, _state(version, secret_version), version, public_key, since, last_version, is_torn)


def _state(version: int, secret_version: int) -> State:
    if not version:
        return State.EMPTY
    return State.HELD if secret_version == version else State.ERASED


def _label(place: Place, sector: memoryview) -> tuple[int, int, int, bytes]:
    """Version, last version, since and public key; zeros where there is no label."""
    if not any(sector):
        return 0, 0, 0, b""
    magic, slot, store, version, last_version, since, public_key = _LABEL.unpack_from(sector)
    _require(place, (magic, slot, store), _LABEL_MAGIC, version, public_key)
    if last_version < version or not since or any(sector[_LABEL.size :]):
        raise _foreign(place)
    return version, last_version, since, public_key


def _secret(place: Place, sector: memoryview) -> tuple[int, bytes]:
    """Version and public key; zeros where there is no secret."""
    if not any(sector):
        return 0, b""
    magic, slot, store, version, public_key, _ = _SECRET.unpack_from(sector)
    _require(place, (magic, slot, store), _SECRET_MAGIC, version, public_key)
    if any(sector[_SECRET.size :]):
        raise _foreign(place)
    return version, public_key


def _require(place: Place, found: tuple[bytes, int, int], magic: bytes, version: int, public_key: bytes) -> None:
    if found != (magic, place.slot, place.store) or not version or not is_public_key(public_key):
        raise _foreign(place)


def _foreign(place: Place) -> Corrupt:
    return Corrupt(
        f"What stands in the {SLOT_BYTES} bytes from {place.label_start} is not slot {place.slot} of a key store that "
        f"begins at {place.store}: the region is given wrongly, or something else has written there. Nothing was "
        "changed; give the offset that the store was made with."
    )

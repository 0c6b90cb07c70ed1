"""Keys that are found again from a secret which somebody keeps anyway (docs/spec.md, section 17; docs/keys.md).

    derive(secret, purpose, label, c) = HKDF-SHA-256(secret, salt "perdure/derive/1", purpose | 0 | label | 0 | c)

The salt keeps what is derived here apart from whatever else the secret's owner derives from it by HKDF (RFC 5869, 3.1).
Purpose and label hold no zero byte, so no two pairs have one info. Trusts that the secret is one: HKDF does not stretch
a password.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from perdure.array.commands import Authority
from perdure.errors import Misuse

SECRET_BYTES_MIN: Final = 16
SECRET_BYTES_MAX: Final = 64
"""BIP-39 makes seeds of 64 bytes; BIP-32 allows 16 to 64."""
LABEL_CHARS_MAX: Final = 64
_SALT: Final = b"perdure/derive/1"
_COUNTERS: Final = range(256)
_FINGERPRINT_BYTES: Final = 8


class Purpose(enum.Enum):
    """What a derived key is for: the closed list of the first words of `info`."""

    AUTHORITY = b"authority"
    LUKS = b"luks"


def derive(secret: bytes, purpose: Purpose, label: str, counter: int = 0) -> bytes:
    """Return 32 bytes; the same for the same arguments, for ever.

    `secret` has 16 to 64 bytes, `label` 1 to 64 printable ASCII characters, no space among them, `counter` is below
    256. Raises Misuse otherwise.
    """
    if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        raise Misuse(
            f"A secret to derive from has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, not {len(secret)}; nothing "
            "was derived."
        )
    if not 1 <= len(label) <= LABEL_CHARS_MAX or not all("!" <= char <= "~" for char in label):
        raise Misuse(
            f"A label has 1 to {LABEL_CHARS_MAX} printable ASCII characters and no space, so that it is typed the "
            "same way years later; nothing was derived."
        )
    info = b"\0".join((purpose.value, label.encode("ascii"), counter.to_bytes(1, "big")))
    return HKDF(SHA256(), 32, salt=_SALT, info=info).derive(secret)


def authority(secret: bytes, label: str) -> Authority:
    """Return the authority that this secret and label always lead to. Raises Misuse as `derive` does."""
    return first_authority(derive(secret, Purpose.AUTHORITY, label, counter) for counter in _COUNTERS)


def first_authority(candidates: Iterable[bytes]) -> Authority:
    """Return that of the first candidate which is a scalar of secp256k1: all but one in 2^128 are. Raises Misuse."""
    for candidate in candidates:
        key = _authority_or_none(candidate)
        if key is not None:
            return key
    raise Misuse("No candidate is a number that secp256k1 allows; nothing was derived.")


def _authority_or_none(candidate: bytes) -> Authority | None:
    try:
        return Authority(candidate)
    except Misuse:
        return None


def luks_passphrase(owner: Authority, label: str) -> str:
    """Return 64 lower-case hexadecimal digits for the LUKS volume that `label` names. Raises Misuse."""
    return derive(owner.private_key, Purpose.LUKS, label).hex()


def fingerprint(public_key: bytes) -> str:
    """Return the first 8 bytes of the SHA-256 of a public key (33 bytes), as 16 digits for people to compare."""
    return sha256(public_key).digest()[:_FINGERPRINT_BYTES].hex()

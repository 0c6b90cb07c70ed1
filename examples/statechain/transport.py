"""What a new owner sends to the signer, sealed to a key that the signer has drawn for this one transfer.

It must not be read by anyone else, now or later: with the new share, the difference of the shares gives the old one
back, erased or not (docs/statechains.md). ECDH on secp256k1 (coincurve), ChaCha20-Poly1305 with a key for one message.
"""

from __future__ import annotations

from coincurve import PrivateKey
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_NONCE = bytes(12)


def seal(to: bytes, message: bytes, random: bytes) -> bytes:
    """`message` for the holder of the point `to`; `random` is a fresh scalar, used for nothing else."""
    own = PrivateKey(random)
    key = ChaCha20Poly1305(own.ecdh(to))
    return own.public_key.format() + key.encrypt(_NONCE, message, to)


def open_sealed(secret: bytes, sealed: bytes) -> bytes:
    """What was sealed to the point of `secret`. Raises ValueError for anything else."""
    own = PrivateKey(secret)
    try:
        return ChaCha20Poly1305(own.ecdh(sealed[:33])).decrypt(_NONCE, sealed[33:], own.public_key.format())
    except InvalidTag:
        raise ValueError("this was sealed to another key, or altered") from None

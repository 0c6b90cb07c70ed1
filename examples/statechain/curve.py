"""Scalars and points of secp256k1, all of it by coincurve (libsecp256k1), and BIP-340's hash.

A scalar is 32 bytes, a point 33 (compressed). Nothing here computes on numbers itself.
"""

from __future__ import annotations

from hashlib import sha256

from coincurve import PrivateKey, PublicKey, PublicKeyXOnly

ORDER = bytes.fromhex("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141")
_MINUS_ONE = ORDER[:-1] + bytes([ORDER[-1] - 1])
EVEN = 2
"""The first byte of a point whose y is even."""


def is_scalar(data: bytes) -> bool:
    """Whether these are 32 bytes from 1 to the group's order - 1."""
    return len(data) == len(ORDER) and bytes(len(ORDER)) < data < ORDER


def point(scalar: bytes) -> bytes:
    """`scalar` times the generator. Raises ValueError for zero and for what is not below the group's order."""
    return PrivateKey(scalar).public_key.format()


def add(left: bytes, right: bytes) -> bytes:
    """The sum of two scalars. Raises ValueError when it is zero."""
    return bytes(PrivateKey(left).add(right).secret)


def multiply(left: bytes, right: bytes) -> bytes:
    """The product of two scalars."""
    return bytes(PrivateKey(left).multiply(right).secret)


def negate(scalar: bytes) -> bytes:
    """Minus `scalar`."""
    return multiply(scalar, _MINUS_ONE)


def subtract(left: bytes, right: bytes) -> bytes:
    """`left` minus `right`. Raises ValueError when it is zero."""
    return add(left, negate(right))


def sum_of(*points: bytes) -> bytes:
    """The sum of points. Raises ValueError for what is no point, and when the sum is the point at infinity."""
    return PublicKey.combine_keys([PublicKey(one) for one in points]).format()


def minus(left: bytes, right: bytes) -> bytes:
    """One point minus another. Raises ValueError as `sum_of`, so also when they are the same."""
    return sum_of(left, bytes([right[0] ^ 1]) + right[1:])


def times(of: bytes, scalar: bytes) -> bytes:
    """`scalar` times a point."""
    return PublicKey(of).multiply(scalar).format()


def challenge(r: bytes, key: bytes, message: bytes) -> bytes:
    """BIP-340's e for a nonce point, a public key and a message of 32 bytes.

    Once in 2^128 it is not below the group's order; then what it is used for raises ValueError, and one signs again.
    """
    tag = sha256(b"BIP0340/challenge").digest()
    return sha256(tag + tag + r[1:] + key[1:] + message).digest()


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is BIP-340's, by the x of `key`, over a message of 32 bytes."""
    try:
        return PublicKeyXOnly(key[1:]).verify(signature, message)
    except ValueError:
        return False

"""COSE_Sign1 (RFC 9052, section 4.2) in the single form that Nitro writes: ES384, P-384, nothing unprotected.

The outer array must be canonical, untagged or with tag 18, so every byte of a document is either signed or has one
legal value. The signature covers the payload bytes as received; nothing is ever encoded again.

ECDSA is malleable: with (r, s) also (r, n - s) verifies. So a document's bytes, or their hash, identify nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature

from perdure.errors import BadSignature, MalformedEvidence
from perdure.evidence.p384 import P384Key

PAYLOAD_BYTES_MAX: Final = 16 * 1024
SIGNATURE_BYTES: Final = 96

_TAG_18: Final = b"\xd2"
_PROTECTED: Final = bytes.fromhex("44a1013822")  # bstr of {1: -35}, "alg" is ES384
_START: Final = b"\x84" + _PROTECTED + b"\xa0"  # array of 4; protected; empty unprotected map
_SIGNATURE_HEAD: Final = b"\x58\x60"  # bstr of 96
_END_BYTES: Final = len(_SIGNATURE_HEAD) + SIGNATURE_BYTES
_SIGNED_START: Final = b"\x84\x6aSignature1" + _PROTECTED + b"\x40"  # RFC 9052, section 4.4; empty external data
DOCUMENT_BYTES_MAX: Final = len(_TAG_18 + _START) + 3 + PAYLOAD_BYTES_MAX + _END_BYTES


def byte_string_head(length: int) -> bytes:
    """Return the shortest CBOR head of a byte string of `length` < 65,536 bytes."""
    if length < 24:
        return bytes([0x40 + length])
    return bytes([0x58, length]) if length < 256 else b"\x59" + length.to_bytes(2, "big")


def signed_bytes(payload: bytes) -> bytes:
    """Return what ES384 signs for `payload`: the Sig_structure of RFC 9052, section 4.4."""
    return _SIGNED_START + byte_string_head(len(payload)) + payload


def join(payload: bytes, signature: bytes) -> bytes:
    """Return the untagged document of `payload` and its 96-byte signature r || s."""
    return _START + byte_string_head(len(payload)) + payload + _SIGNATURE_HEAD + signature


@dataclass(frozen=True, slots=True)
class Sign1:
    """A document taken apart. Nothing in it is verified."""

    payload: bytes
    signature: bytes

    def verify(self, key: P384Key) -> None:
        """Return if `key` signed this payload; raise BadSignature otherwise."""
        r, s = int.from_bytes(self.signature[:48], "big"), int.from_bytes(self.signature[48:], "big")
        try:
            key.verify(r, s, signed_bytes(self.payload))
        except InvalidSignature:
            raise BadSignature(
                "The evidence's signature does not verify: it was altered, or the hardware did not make it."
            ) from None


def split(document: bytes) -> Sign1:
    """Take a document apart; raise MalformedEvidence unless it has the one legal outer form."""
    if len(document) > DOCUMENT_BYTES_MAX:
        raise MalformedEvidence(f"The evidence has {len(document)} bytes; at most {DOCUMENT_BYTES_MAX} are legal.")
    start = (_TAG_18 if document.startswith(_TAG_18) else b"") + _START
    if not document.startswith(start):
        raise MalformedEvidence("The evidence is not a COSE_Sign1 message with ES384 and no other header.")
    body, signature = document[len(start) : -_END_BYTES], document[-SIGNATURE_BYTES:]
    # The document's length leaves one legal head for the payload: a longer one would not be canonical.
    payload = body[1 if len(body) <= 24 else 2 if len(body) <= 257 else 3 :]
    whole = start + byte_string_head(len(payload)) + payload + _SIGNATURE_HEAD + signature
    if len(payload) > PAYLOAD_BYTES_MAX or document != whole:
        raise MalformedEvidence("The evidence's payload or signature does not have the length it states.")
    return Sign1(payload, signature)

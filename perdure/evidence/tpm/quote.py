"""A TPM 2.0 quote taken apart: the signed statement (TPMS_ATTEST) and its signature (TPMT_SIGNATURE).

Source: TCG, "Trusted Platform Module Library", Part 2: TPMS_ATTEST (10.12.12), TPMS_QUOTE_INFO (10.12.4),
TPMS_CLOCK_INFO (10.11.1), TPML_PCR_SELECTION (10.9.7), TPMT_SIGNATURE (11.3.4). All numbers are big-endian. Whatever
the bytes, the result is a value or `MalformedEvidence`: exact lengths, legal values, nothing after the end.

Of what the TPM supports, only this is read: a quote of the SHA-256 bank alone, signed with ECDSA, RSASSA or RSAPSS and
SHA-256, SHA-384 or SHA-512.

ECDSA is malleable: with (r, s) also (r, n - s) verifies. So a signature's bytes, or their hash, identify nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeGuard

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from perdure.errors import BadSignature, MalformedEvidence

Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

PCR_BYTES: Final = 32
PCR_COUNT: Final = 24
RSA_BITS_MIN: Final = 2048
RSA_BITS_MAX: Final = 4096
"""The largest RSA keys that TPMs make."""

_MAGIC: Final = bytes.fromhex("ff544347")  # TPM_GENERATED_VALUE: "\xffTCG"
_QUOTE: Final = 0x8018  # TPM_ST_ATTEST_QUOTE
_SHA256: Final = 0x000B
_HASHES: Final[Mapping[int, hashes.HashAlgorithm]] = {
    _SHA256: hashes.SHA256(),
    0x000C: hashes.SHA384(),
    0x000D: hashes.SHA512(),
}
_TAGGED_HASH_BYTES_MAX: Final = 2 + 64  # an algorithm and its largest digest: bounds TPM2B_NAME and TPM2B_DATA
_SELECT_BYTES: Final = PCR_COUNT // 8
_COORDINATE_BYTES: Final = {"secp256r1": 32, "secp384r1": 48}
_SHA_512_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Attestation:
    """The fields of a well-formed quote that anything depends on. Nothing in it is verified.

    `extra_data` is what the caller of the TPM had signed; it may be empty. `reset_count` rises with each start of the
    TPM, `restart_count` with each return from sleep; for a key outside of the endorsement hierarchy the TPM adds to
    each a secret number that never changes, so they tell launches apart, and count nothing. `selected` are the quoted
    PCRs of the SHA-256 bank, ascending, and `pcr_digest` the hash of their values, one after the other.
    """

    extra_data: bytes
    reset_count: int
    restart_count: int
    selected: tuple[int, ...]
    pcr_digest: bytes

    def registers(self, values: bytes) -> dict[str, bytes]:
        """Return each quoted PCR by its name; raise MalformedEvidence unless `values` has 32 bytes for each of them."""
        if len(values) != PCR_BYTES * len(self.selected):
            raise MalformedEvidence(
                f"The quote is of {len(self.selected)} PCRs of {PCR_BYTES} bytes, but came with {len(values)} bytes."
            )
        return {
            f"pcr{index}": values[at : at + PCR_BYTES]
            for index, at in zip(self.selected, range(0, len(values), PCR_BYTES), strict=True)
        }


class Scheme(enum.IntEnum):
    """How a TPM signs: the TPM_ALG_ID of the schemes that are read."""

    RSASSA = 0x0014
    RSAPSS = 0x0016
    ECDSA = 0x0018


@dataclass(frozen=True, slots=True)
class Signature:
    """A well-formed signature, not verified: `values` are (r, s) for ECDSA, one number for RSA, big-endian."""

    scheme: Scheme
    hash: hashes.HashAlgorithm
    values: tuple[bytes, ...]

    def suits(self, key: object) -> TypeGuard[Key]:
        """Whether `key` is of a kind and size that makes such signatures and is strong enough."""
        if isinstance(key, ec.EllipticCurvePublicKey):
            length_max = _COORDINATE_BYTES.get(key.curve.name, 0)
            return self.scheme is Scheme.ECDSA and all(len(value) <= length_max for value in self.values)
        return (
            isinstance(key, rsa.RSAPublicKey)
            and self.scheme is not Scheme.ECDSA
            and RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX
            and len(self.values[0]) == (key.key_size + 7) // 8
        )

    def verify(self, key: Key, signed: bytes) -> None:
        """Return if `key`, which this suits, signed these bytes; raise BadSignature otherwise."""
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                r, s = (int.from_bytes(value, "big") for value in self.values)
                key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(self.hash))
            elif self.scheme is Scheme.RSASSA:
                key.verify(self.values[0], signed, padding.PKCS1v15(), self.hash)
            else:
                # TPMs differ in the salt's length: as long as the hash, or as long as fits. The signature tells.
                pss = padding.PSS(padding.MGF1(self.hash), padding.PSS.AUTO)
                key.verify(self.values[0], signed, pss, self.hash)
        except InvalidSignature:
            raise BadSignature(
                "The quote's signature does not verify: it was altered, or another TPM than the certificate's made it."
            ) from None

    def digest(self, data: bytes) -> bytes:
        """Hash `data` as the TPM hashed the PCRs: with the hash of the signing scheme."""
        hasher = hashes.Hash(self.hash)
        hasher.update(data)
        return hasher.finalize()


def parse_attest(attest: bytes) -> Attestation:
    """Return the fields of a TPMS_ATTEST; raise MalformedEvidence that names the field which is wrong.

    Magic and type are what tells a quote from everything else that a restricted key may sign: such a key refuses
    foreign data that begins with the magic.
    """
    reader = _Reader(attest)
    if reader.take(4) != _MAGIC or reader.number(2) != _QUOTE:
        raise MalformedEvidence("The evidence is not a quote that a TPM made.")
    reader.sized("qualifiedSigner", _TAGGED_HASH_BYTES_MAX)
    extra_data = reader.sized("extraData", _TAGGED_HASH_BYTES_MAX)
    reader.take(8)  # clock: no wall clock, and may have stood still
    reset_count, restart_count = reader.number(4), reader.number(4)
    if reader.number(1) > 1:  # TPMI_YES_NO. Not looked at further: it speaks of the clock alone.
        raise _wrong("safe")
    reader.take(8)  # firmwareVersion
    selected = _selected(reader)
    pcr_digest = reader.sized("pcrDigest", _SHA_512_BYTES)
    reader.end()
    return Attestation(extra_data, reset_count, restart_count, selected, pcr_digest)


def _selected(reader: _Reader) -> tuple[int, ...]:
    if reader.number(4) != 1 or reader.number(2) != _SHA256:
        raise MalformedEvidence("The quote is not of the SHA-256 bank of PCRs alone.")
    if reader.number(1) != _SELECT_BYTES:
        raise _wrong("sizeofSelect")
    bits = int.from_bytes(reader.take(_SELECT_BYTES), "little")  # PCR n is bit n mod 8 of byte n / 8
    return tuple(index for index in range(PCR_COUNT) if bits >> index & 1)


def parse_signature(signature: bytes) -> Signature:
    """Return the parts of a TPMT_SIGNATURE; raise MalformedEvidence unless scheme and hash are ones that are read."""
    reader = _Reader(signature)
    scheme, hash_id = reader.number(2), reader.number(2)
    if scheme not in set(Scheme):
        raise MalformedEvidence(f"The quote's signature has the scheme {scheme:#06x}, not ECDSA, RSASSA or RSAPSS.")
    if hash_id not in _HASHES:
        raise MalformedEvidence(f"The quote's signature has the hash {hash_id:#06x}, not SHA-256, SHA-384 or SHA-512.")
    if scheme == Scheme.ECDSA:
        length_max = max(_COORDINATE_BYTES.values())
        values: tuple[bytes, ...] = (reader.sized("signatureR", length_max), reader.sized("signatureS", length_max))
    else:
        values = (reader.sized("sig", RSA_BITS_MAX // 8),)
    reader.end()
    return Signature(Scheme(scheme), _HASHES[hash_id], values)


def _wrong(field: str) -> MalformedEvidence:
    return MalformedEvidence(f"The quote's field {field} is not of the form that TPM 2.0 allows.")


class _Reader:
    """Reads a structure from its start to its end; raises MalformedEvidence where it is cut short or goes on."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, length: int) -> bytes:
        part = self._data[self._at : self._at + length]
        if len(part) != length:
            raise MalformedEvidence("The quote is cut short.")
        self._at += length
        return part

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "big")

    def sized(self, field: str, length_max: int) -> bytes:
        """A TPM2B: two bytes of length, then as many bytes."""
        length = self.number(2)
        if length > length_max:
            raise _wrong(field)
        return self.take(length)

    def end(self) -> None:
        if self._at != len(self._data):
            raise MalformedEvidence(f"The quote has {len(self._data) - self._at} bytes after its end.")

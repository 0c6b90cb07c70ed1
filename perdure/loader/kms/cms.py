"""CMS EnvelopedData (RFC 5652, section 6), in the one form that AWS KMS sends to an attested recipient.

One recipient, named by key identifier; its key by RSAES-OAEP with SHA-256 for hash and mask (RFC 3560, RFC 8017);
the content by AES-256-CBC (RFC 3565). Everything else is refused: another algorithm would be somebody else's choice.
Source of the form: `source/cms.c` and its test in AWS's aws-nitro-enclaves-sdk-c, which reads the same fields. The key
identifier is not compared: it is not authenticated, and how KMS computes it is not documented.

`cryptography` parses the DER; the classes below are its declarative form of the RFC's ASN.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier

from perdure.loader.kms import ber

ENVELOPED_DATA: Final = ObjectIdentifier("1.2.840.113549.1.7.3")
DATA: Final = ObjectIdentifier("1.2.840.113549.1.7.1")
RSAES_OAEP: Final = ObjectIdentifier("1.2.840.113549.1.1.7")
MGF1: Final = ObjectIdentifier("1.2.840.113549.1.1.8")
SHA256: Final = ObjectIdentifier("2.16.840.1.101.3.4.2.1")
AES_256_CBC: Final = ObjectIdentifier("2.16.840.1.101.3.4.1.42")
_VERSION: Final = 2
"""Of both: a recipient named by key identifier makes it so (RFC 5652, 6.1 and 6.2.1)."""


@asn1.sequence
class _Hash:
    algorithm: ObjectIdentifier
    parameters: asn1.Null | None  # KMS writes it, OpenSSL does not; both are right (RFC 4055, 2.1)


@asn1.sequence
class _Mask:
    algorithm: ObjectIdentifier
    parameters: _Hash


@asn1.sequence
class _Oaep:
    """Without pSourceAlgorithm: the label is the empty one."""

    hash: Annotated[_Hash, asn1.Explicit(0)]
    mask: Annotated[_Mask, asn1.Explicit(1)]


@asn1.sequence
class _KeyEncryption:
    algorithm: ObjectIdentifier
    parameters: _Oaep


@asn1.sequence
class _Recipient:
    version: int
    key_identifier: Annotated[bytes, asn1.Implicit(0)]
    key_encryption: _KeyEncryption
    encrypted_key: bytes


@asn1.sequence
class _ContentEncryption:
    algorithm: ObjectIdentifier
    iv: bytes


@asn1.sequence
class _Content:
    content_type: ObjectIdentifier
    encryption: _ContentEncryption
    encrypted: Annotated[bytes, asn1.Implicit(0)]


@asn1.sequence
class _EnvelopedData:
    version: int
    recipients: asn1.SetOf[_Recipient]
    content: _Content


@asn1.sequence
class _ContentInfo:
    content_type: ObjectIdentifier
    content: Annotated[_EnvelopedData, asn1.Explicit(0)]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is needed to open it. Nothing is verified, and the lengths may be any."""

    encrypted_key: bytes
    iv: bytes
    ciphertext: bytes


def parse(data: bytes) -> Envelope:
    """Return the parts of a message in BER or DER. Raises ValueError, and nothing else, whatever the bytes."""
    info = asn1.decode_der(_ContentInfo, ber.to_der(data))
    enveloped = info.content
    (recipient,) = enveloped.recipients.as_list()  # a ValueError if there is not exactly one
    key, content = recipient.key_encryption, enveloped.content
    found = (
        (info.content_type, content.content_type),
        (enveloped.version, recipient.version),
        (key.algorithm, key.parameters.hash.algorithm),
        (key.parameters.mask.algorithm, key.parameters.mask.parameters.algorithm),
        content.encryption.algorithm,
    )
    if found != ((ENVELOPED_DATA, DATA), (_VERSION, _VERSION), (RSAES_OAEP, SHA256), (MGF1, SHA256), AES_256_CBC):
        raise ValueError("a message of another form, or by other algorithms")
    return Envelope(recipient.encrypted_key, content.encryption.iv, content.encrypted)

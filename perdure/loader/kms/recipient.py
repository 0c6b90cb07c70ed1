"""The authority's private key from AWS KMS, which gives it to a measured program alone: kms:Decrypt with a `Recipient`.

    enclave                                   host                        KMS
    ephemeral RSA key; NSM document with it
    decrypt_request(document, blob, key id) -> send: SigV4, TLS ------->  document genuine? PCRs as the key policy has
                                                                          them? encrypt to the document's key
    open <------------------------------------ answer <-----------------  CiphertextForRecipient (CMS)

Sources: "Cryptographic attestation for AWS Nitro Enclaves" in the AWS KMS developer guide; Decrypt and RecipientInfo in
its API reference; aws-nitro-enclaves-sdk-c. What is here is the part that must be inside. `send` is the host's: it
signs the request with its credentials and talks to KMS. It sees nothing that it could open, and is not believed.

What this trusts: that KMS keeps the secret from other programs, by the key policy's kms:RecipientAttestation:PCR0 (or
ImageSha384) condition. Without such a condition KMS gives the secret to whoever holds the host's credentials. What it
does not trust: the answer. Anybody can encrypt to a public key, and the content's cipher authenticates nothing, so a
host can put another secret in place of KMS's, or change bits of it. Hence three rules:

1. A secret counts only if it is the private key of the authority for which the caller was measured.
2. Whatever is wrong with an answer, there is one error with one text; and a key opens one answer, so that nobody can
   ask it again and again (Manger, CRYPTO 2001).
3. The plaintext's size is known beforehand and a multiple of 16. So the padding is a whole block, which a message that
   was altered there has by accident once in 2^128. Rule 2 would not do: a host may start us, and see us fail, as often
   as it likes, and the same secret comes each time (Vaudenay, EUROCRYPT 2002).

`cryptography` draws the ephemeral key; there is no other randomness, and no socket or clock.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, Final

import cbor2
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from perdure.array.commands import Authority
from perdure.errors import Corrupt, Misuse
from perdure.loader.kms import cms

Send = Callable[[str, bytes], bytes]
"""Posts a body to KMS under this X-Amz-Target, with Content-Type application/x-amz-json-1.1, and returns the answer's
body, whatever its status. The host's own; it may raise a PerdureError where there is no answer."""
Attest = Callable[[bytes], bytes]
"""Hands a request to the NSM and returns the document in its response."""

DECRYPT: Final = "TrentService.Decrypt"
KEY_ENCRYPTION: Final = "RSAES_OAEP_SHA_256"
RSA_BITS: Final = 2048
AUTHORITY_BYTES: Final = 32
CIPHERTEXT_BYTES_MAX: Final = 6144
"""KMS's limit of CiphertextBlob and of CiphertextForRecipient."""
DOCUMENT_BYTES_MAX: Final = 262_144
KEY_ID_CHARS_MAX: Final = 2048
ANSWER_BYTES_MAX: Final = 65_536
_BLOCK_BYTES: Final = 16
_OAEP: Final = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
_UNOPENED: Final = (
    "What came in the name of KMS is not the secret that was asked for, encrypted to this program's key; nothing of it "
    "is used, and what is flushed is safe. Ask again; if it stays so, the host alters answers, or the wrong ciphertext "
    "was given to it."
)


class Recipient:
    """An ephemeral RSA key of 2,048 bits for one answer of KMS. Never leaves the process."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key: rsa.RSAPrivateKey | None = key
        self.public_key: Final = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        """SubjectPublicKeyInfo in DER: what goes into the document's field `public_key`."""

    @classmethod
    def create(cls) -> Recipient:
        """Return one with a new key."""
        return cls(rsa.generate_private_key(public_exponent=65_537, key_size=RSA_BITS))

    def open(self, ciphertext_for_recipient: bytes, size_bytes: int) -> bytes:
        """Return the plaintext, `size_bytes` long, of KMS's CMS message in BER or DER.

        It is NOT authenticated: compare it with something that is measured, and fail with the same error. Raises
        Corrupt, with one text for whatever is wrong; Misuse when called twice, or for a size that is no multiple of 16.
        """
        if size_bytes <= 0 or size_bytes % _BLOCK_BYTES:
            raise Misuse(f"A secret that KMS keeps for us has a multiple of {_BLOCK_BYTES} bytes, not {size_bytes}.")
        key, self._key = self._key, None
        if key is None:
            raise Misuse("This key has opened an answer already; make a new one, and ask KMS again.")
        try:
            return _open(key, ciphertext_for_recipient, size_bytes)
        except ValueError:
            raise Corrupt(_UNOPENED) from None


def _open(key: rsa.RSAPrivateKey, message: bytes, size_bytes: int) -> bytes:
    if len(message) > CIPHERTEXT_BYTES_MAX:
        raise ValueError("too long")
    envelope = cms.parse(message)
    content_key = algorithms.AES256(key.decrypt(envelope.encrypted_key, _OAEP))
    decryptor = Cipher(content_key, modes.CBC(envelope.iv)).decryptor()
    unpadder = PKCS7(8 * _BLOCK_BYTES).unpadder()
    plaintext = unpadder.update(decryptor.update(envelope.ciphertext) + decryptor.finalize()) + unpadder.finalize()
    if len(plaintext) != size_bytes:
        raise ValueError("another size")
    return plaintext


# Requests and answers -------------------------------------------------------------------------------------


def attestation_request(public_key: bytes) -> bytes:
    """Return the NSM request for a document with this `public_key` field (aws-nitro-enclaves-nsm-api)."""
    return cbor2.dumps({"Attestation": {"user_data": None, "nonce": None, "public_key": public_key}})


def decrypt_request(document: bytes, ciphertext_blob: bytes, key_id: str) -> bytes:
    """Return the JSON body of kms:Decrypt for a recipient that `document` attests.

    `ciphertext_blob` is what kms:Encrypt gave, `key_id` an id, alias or ARN; naming it keeps KMS from using another key
    that a host's blob would name. Raises Misuse where KMS's limits are exceeded.
    """
    _require("ciphertext", len(ciphertext_blob), CIPHERTEXT_BYTES_MAX)
    _require("attestation document", len(document), DOCUMENT_BYTES_MAX)
    _require("key id", len(key_id), KEY_ID_CHARS_MAX)
    recipient = {"KeyEncryptionAlgorithm": KEY_ENCRYPTION, "AttestationDocument": b64encode(document).decode("ascii")}
    blob = b64encode(ciphertext_blob).decode("ascii")
    return json.dumps({"CiphertextBlob": blob, "KeyId": key_id, "Recipient": recipient}).encode("ascii")


def _require(what: str, length: int, length_max: int) -> None:
    if not 1 <= length <= length_max:
        raise Misuse(f"The {what} for KMS is {length} long, not 1 to {length_max}; nothing was asked.")


def ciphertext_for_recipient(answer: bytes) -> bytes:
    """Return that field of KMS's answer. Raises Corrupt if there is none, Misuse if the answer is a refusal.

    A refusal is unauthenticated, as everything here: it may be the host's own.
    """
    if len(answer) > ANSWER_BYTES_MAX:
        raise Corrupt(_UNOPENED)
    try:
        value: Any = json.loads(answer)
        fields = value if isinstance(value, dict) else {}
        if isinstance(refusal := fields.get("__type"), str):
            raise Misuse(
                f"KMS refuses ({refusal!r:.80}); nothing was decrypted. Compare the key policy's conditions with this "
                "image's measurements, and the host's permissions with the key."
            )
        return b64decode(fields["CiphertextForRecipient"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Corrupt(_UNOPENED) from None


def fetch_authority(public_key: bytes, key_id: str, ciphertext_blob: bytes, attest: Attest, send: Send) -> Authority:
    """Return the authority whose public key (33 bytes) is given; its private key, 32 bytes, is what KMS decrypts.

    `public_key` must be measured, or signed by those whom a measured program trusts; it is what makes the answer
    believable. Raises Corrupt for any other answer, Misuse for a refusal, and what `attest` and `send` raise.
    """
    recipient = Recipient.create()
    document = attest(attestation_request(recipient.public_key))
    answer = send(DECRYPT, decrypt_request(document, ciphertext_blob, key_id))
    return open_authority(recipient, answer, public_key)


def open_authority(recipient: Recipient, answer: bytes, public_key: bytes) -> Authority:
    """The last step of `fetch_authority`: from KMS's answer to the authority with this public key."""
    private_key = recipient.open(ciphertext_for_recipient(answer), AUTHORITY_BYTES)
    try:
        authority = Authority(private_key)
    except Misuse:
        raise Corrupt(_UNOPENED) from None
    if authority.public_key != public_key:
        raise Corrupt(_UNOPENED)
    return authority

"""The key on its way to a loader: sealed to the ephemeral key that the loader's evidence carries. Core.

HPKE (RFC 9180, base mode) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305, from `cryptography`.
`info` is the offer's commitment, so what is sealed in answer to one offer opens for no other (docs/spec.md, 18.3).
Whoever sends is not authenticated by this: the array's id is, since it must be the one that the developers signed, and
the private key must be that of the array's authority.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from perdure.errors import Corrupt, Misuse
from perdure.evidence.policy import POLICY_BYTES_MAX, Policy
from perdure.loader.offer import Offer

SEALED_BYTES_MAX: Final = POLICY_BYTES_MAX + 256
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_KEYS_BYTES: Final = 64


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """What a main program lives on: the authority's private key (32 bytes) and the array's id (32 bytes).

    `loaders` is what the operator accepts as a loader: to one of these it may be handed on.
    """

    private_key: bytes
    array_id: bytes
    loaders: Policy

    def __repr__(self) -> str:
        return f"Secret(array {self.array_id.hex()}, private key withheld)"

    def encode(self) -> bytes:
        """private key 32 | array id 32 | the policy's canonical form."""
        return self.private_key + self.array_id + self.loaders.to_json()

    @classmethod
    def decode(cls, data: bytes) -> Secret:
        """Read one back. Raises Corrupt."""
        try:
            loaders = Policy.from_json(data[_KEYS_BYTES:])
        except Misuse as error:
            raise Corrupt(f"What was sealed to the loader is not what it waits for: {error}") from None
        return cls(data[:32], data[32:_KEYS_BYTES], loaders)


class Recipient:
    """An ephemeral X25519 key, whose private half never leaves this process."""

    def __init__(self) -> None:
        self._key = X25519PrivateKey.generate()

    @property
    def public_key(self) -> bytes:
        """32 bytes, to be shown in an offer."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def open(self, sealed: bytes, offer: Offer) -> Secret:
        """What was sealed in answer to `offer`. Raises Corrupt for anything else."""
        try:
            return Secret.decode(_SUITE.decrypt(sealed, self._key, offer.commitment()))
        except (InvalidTag, ValueError):
            raise Corrupt(
                "What was sent was not sealed to this loader's key in answer to this offer; it was not used. Ask for "
                "a new offer and seal to that."
            ) from None


def seal(secret: Secret, offer: Offer) -> bytes:
    """Seal `secret` to the key of `offer`, whose evidence was verified. Raises Misuse if that is no key."""
    try:
        return bytes(
            _SUITE.encrypt(secret.encode(), X25519PublicKey.from_public_bytes(offer.public_key), offer.commitment())
        )
    except ValueError:
        raise Misuse("The offer's public key is not one to which anything can be sealed; nothing was sent.") from None

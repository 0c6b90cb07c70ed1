"""ECDSA on P-384 with SHA-384: the signature under every document of Nitro's, so one for each disk and FLUSH.

AWS-LC (through `awscrt`) checks it in half of OpenSSL's time, and its arithmetic on this curve is s2n-bignum's, whose
machine code is proved to compute what it should. Neither library lets other threads of Python run meanwhile, so there
is nothing to be gained from a thread.
"""

from __future__ import annotations

from hashlib import sha384

from awscrt.crypto import EC
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class P384Key:
    """A public key on P-384, ready to verify."""

    __slots__ = ("_key",)

    def __init__(self, public: ec.EllipticCurvePublicKey) -> None:
        assert isinstance(public.curve, ec.SECP384R1)
        self._key = EC.new_key_from_der_data(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    def verify(self, r: int, s: int, signed: bytes) -> None:
        """Return if (r, s) is this key's signature of `signed`; raise InvalidSignature otherwise."""
        if not self._key.verify(sha384(signed).digest(), encode_dss_signature(r, s)):
            raise InvalidSignature

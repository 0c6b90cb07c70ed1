"""Who asks: the three authorizers of the public VSS server. Each takes headers and the time, and names a user.

A token in the Authorization header covers neither the request nor the reply: whoever sees it can use it until it
expires. So it must not travel in the clear.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256K1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from perdure.errors import Misuse, NotAuthorised
from perdure.vss.objects import USER_CHARACTERS_MAX

Authorizer = Callable[[Mapping[str, str], int], str]
"""Headers by name in lower case, and seconds since 1970; gives the user. Raises NotAuthorised."""

NO_ONE: Final = "unauth-user"
"""The user where nobody has to prove who they are, as the public server calls it."""
EXPIRY_LEEWAY_S: Final = 60
RSA_BITS_MIN: Final = 2048
TOKEN_CHARACTERS_MAX: Final = 4096
SIGNING_CONSTANT: Final = b"VSS Signature Authorizer Signing Salt Constant.................."
SIGNATURE_AGE_S_MAX: Final = 24 * 60 * 60
_BEARER: Final = "Bearer "
_U64_MAX: Final = (1 << 64) - 1
_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def nobody(headers: Mapping[str, str], now_s: int) -> str:
    """Let everybody in, as one user."""
    del headers, now_s
    return NO_ONE


# JSON Web Tokens (RFC 7519) with RS256 (RFC 7518, section 3.3) -----------------------------------------------


class Jwt:
    """Users are the `sub` of tokens that the holder of one RSA key has signed; `exp` is needed, `aud` refused."""

    def __init__(self, pem: bytes) -> None:
        """`pem`: the public key. Raises Misuse."""
        try:
            key = load_pem_public_key(pem)
        except ValueError:
            key = None
        if not isinstance(key, RSAPublicKey) or key.key_size < RSA_BITS_MIN:
            raise Misuse(
                f"The key for tokens is not an RSA public key of at least {RSA_BITS_MIN} bits in PEM; nothing was "
                "started."
            )
        self._key = key

    @classmethod
    def read(cls, path: Path) -> Jwt:
        """With the key in a file. Raises Misuse."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise Misuse(f"The key for tokens cannot be read: {error}; nothing was started.") from None

    def __call__(self, headers: Mapping[str, str], now_s: int) -> str:
        """The token's subject."""
        value = _header(headers)
        parts = value.removeprefix(_BEARER).split(".")
        if not value.startswith(_BEARER) or len(parts) != 3 or len(value) > TOKEN_CHARACTERS_MAX:
            raise NotAuthorised("What is wanted is a bearer token of three parts.")
        header, claims, signature = parts
        if _json(header).get("alg") != "RS256":
            raise NotAuthorised("The token is not signed with RS256.")
        try:
            self._key.verify(_base64(signature), f"{header}.{claims}".encode(), PKCS1v15(), SHA256())
        except InvalidSignature:
            raise NotAuthorised("The token's signature does not verify.") from None
        return _subject(_json(claims), now_s)


def _subject(claims: Mapping[str, Any], now_s: int) -> str:
    subject, expiry = claims.get("sub"), claims.get("exp")
    if not isinstance(subject, str) or not 1 <= len(subject) <= USER_CHARACTERS_MAX or not _is_text(subject):
        raise NotAuthorised(f"The token's subject is not a name of 1 to {USER_CHARACTERS_MAX} characters.")
    if type(expiry) is not int or not 0 <= expiry <= _U64_MAX or now_s > expiry + EXPIRY_LEEWAY_S:
        raise NotAuthorised("The token has expired, or does not say when it does.")
    if claims.get("aud") is not None:
        raise NotAuthorised("The token is for an audience, and this server is none.")
    return subject


def _is_text(value: str) -> bool:
    """Whether SQLite can keep it: no NUL, and no half of a surrogate pair, which JSON can have and UTF-8 cannot."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value)


def _json(part: str) -> dict[str, Any]:
    try:
        value = json.loads(_base64(part))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise NotAuthorised("A part of the token is not a JSON object.")
    return value


def _base64(part: str) -> bytes:
    """base64url without padding (RFC 7515, section 2)."""
    if not part.isascii() or set(part) & set("+/="):
        raise NotAuthorised("A part of the token is not base64url.")
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise NotAuthorised("A part of the token is not base64url.") from None


# Signatures -----------------------------------------------------------------------------------------------


def signature(headers: Mapping[str, str], now_s: int) -> str:
    """Users are secp256k1 public keys that sign the time: everybody with a key is let in, and sees their own stores.

    The header is the compressed key (66 hex digits), the ECDSA signature (128) and the time in seconds, over SHA-256 of
    SIGNING_CONSTANT, the key's 33 bytes and the time's digits (`auth-impls/src/signature.rs` of the public server).
    """
    value = _header(headers)
    key_hex, signature_hex, digits = value[:66], value[66:194], value[194:]
    if (
        not (digits.isascii() and digits.isdigit() and len(digits) <= 20)
        or abs(now_s - int(digits)) > SIGNATURE_AGE_S_MAX
    ):
        raise NotAuthorised("The signed time is not within a day of now.")
    try:
        key, compact = bytes.fromhex(key_hex), bytes.fromhex(signature_hex)
        _require_signature(key, compact, SIGNING_CONSTANT + key + digits.encode())
    except (ValueError, InvalidSignature):
        raise NotAuthorised("The signature does not verify.") from None
    return key.hex()


def _require_signature(key: bytes, compact: bytes, message: bytes) -> None:
    """Raises InvalidSignature or ValueError. As libsecp256k1, it takes only the lower s of the two that verify."""
    r, s = int.from_bytes(compact[:32]), int.from_bytes(compact[32:])
    if (len(key), len(compact)) != (33, 64) or s > _ORDER // 2:
        raise InvalidSignature
    EllipticCurvePublicKey.from_encoded_point(SECP256K1(), key).verify(
        encode_dss_signature(r, s), message, ECDSA(SHA256())
    )


def _header(headers: Mapping[str, str]) -> str:
    value = headers.get("authorization")
    if value is None:
        raise NotAuthorised("There is no Authorization header.")
    return value

"""OpenSSH's signatures over files, as `ssh-keygen -Y sign` makes them: the part of the format that is needed here.

Sources: PROTOCOL.sshsig (the envelope), PROTOCOL.u2f (keys in FIDO2 tokens) and RFC 8709 (Ed25519) of OpenSSH and the
IETF. Refused are all other types of keys, certificates, a reserved field that is not empty, and a token that does not
say that somebody touched it: malware on the developer's machine could have asked it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from perdure.errors import Misuse, NotAuthorised

NAMESPACE: Final = "perdure-manifest"
ED25519: Final = "ssh-ed25519"
SK_ED25519: Final = "sk-ssh-ed25519@openssh.com"
USER_PRESENT: Final = 0x01
BLOB_BYTES_MAX: Final = 4096
_MAGIC: Final = b"SSHSIG"
_ARMOUR: Final = re.compile(
    rb"\s*-----BEGIN SSH SIGNATURE-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END SSH SIGNATURE-----\s*"
)
_HASHES: Final = (b"sha256", b"sha512")


@dataclass(frozen=True, slots=True)
class SshKey:
    """A public key: its type, the 32 bytes of its point, and for a token the application that it is bound to."""

    kind: str
    point: bytes
    application: bytes = b""


@dataclass(frozen=True, slots=True)
class SshSignature:
    """An envelope, taken apart but not verified. `key` is the blob of the key that it says it is from."""

    key: bytes
    namespace: bytes
    hash_name: str
    signature: bytes


def public_key(blob: bytes) -> SshKey:
    """Read the blob of a public key. Raises Misuse if it is malformed or of a type that is not supported."""
    try:
        reader = _Reader(blob)
        kind = reader.string()
        if kind not in (ED25519.encode(), SK_ED25519.encode()):
            raise Misuse(f"An SSH key is of type {ED25519} or {SK_ED25519} here, not {kind!a:.80}.")
        point = reader.string()
        application = reader.string() if kind == SK_ED25519.encode() else b""
        reader.end()
    except ValueError:
        raise Misuse("The SSH key is malformed.") from None
    if len(point) != 32:
        raise Misuse("The SSH key is malformed: an Ed25519 key has 32 bytes.")
    return SshKey(kind.decode(), point, application)


def is_armoured(data: bytes) -> bool:
    """Whether this looks like what `ssh-keygen -Y sign` writes."""
    return data.lstrip().startswith(b"-----BEGIN SSH SIGNATURE-----")


def parse(data: bytes) -> SshSignature:
    """Take apart an armoured signature. Raises NotAuthorised if it is malformed."""
    match = _ARMOUR.fullmatch(data)
    if match is None:
        raise NotAuthorised("is a malformed SSH signature (it does not end)")
    try:
        return _envelope(_Reader(base64.b64decode(b"".join(match[1].split()), validate=True)))
    except ValueError as error:
        raise NotAuthorised(f"is a malformed SSH signature ({error})") from None


def verify(signature: SshSignature, message: bytes) -> None:
    """Return if the key that `signature` names signed `message` under our namespace. Raises NotAuthorised, or Misuse.

    The caller must have looked up `signature.key` in his list: anybody can make a key.
    """
    if signature.namespace != NAMESPACE.encode():
        raise NotAuthorised(f"is for the namespace {signature.namespace!a:.80}, not {NAMESPACE}")
    key = public_key(signature.key)
    hashed = hashlib.new(signature.hash_name, message).digest()
    signed = _MAGIC + b"".join(
        _string(part) for part in (signature.namespace, b"", signature.hash_name.encode(), hashed)
    )
    try:
        raw, signed = _opened(key, signature.signature, signed)
        Ed25519PublicKey.from_public_bytes(key.point).verify(raw, signed)
    except InvalidSignature:
        raise NotAuthorised("does not verify: it is for another manifest, or was altered") from None
    except ValueError as error:
        raise NotAuthorised(f"is a malformed SSH signature ({error})") from None


def _envelope(reader: _Reader) -> SshSignature:
    if reader.take(6) != _MAGIC or reader.u32() != 1:
        raise ValueError("not version 1")
    key, namespace, reserved, hash_name, signature = (reader.string() for _ in range(5))
    reader.end()
    if reserved:
        raise ValueError("the reserved field is not empty")
    if hash_name not in _HASHES:
        raise ValueError("its hash is neither sha256 nor sha512")
    return SshSignature(key, namespace, hash_name.decode(), signature)


def _opened(key: SshKey, blob: bytes, signed: bytes) -> tuple[bytes, bytes]:
    """The 64 bytes of Ed25519, and what they must be over: for a token not `signed` but what the token makes of it."""
    reader = _Reader(blob)
    if reader.string() != key.kind.encode():
        raise ValueError("it is of another type than its key")
    raw = reader.string()
    if key.kind == SK_ED25519:
        flags, counter = reader.take(1), reader.take(4)
        if not flags[0] & USER_PRESENT:
            raise NotAuthorised("was made by a security key that nobody touched")
        signed = hashlib.sha256(key.application).digest() + flags + counter + hashlib.sha256(signed).digest()
    reader.end()
    return raw, signed


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class _Reader:
    """The wire's types of RFC 4251, section 5, from the front. Raises ValueError where bytes are missing or left."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        if len(data) > BLOB_BYTES_MAX:
            raise ValueError("it is too long")
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise ValueError("it is cut short")
        self._at += count
        return part

    def u32(self) -> int:
        """The next four, a number."""
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        """The next bytes that are led by their length."""
        return self.take(self.u32())

    def end(self) -> None:
        """Nothing may be left."""
        if self._at != len(self._data):
            raise ValueError("bytes are left at its end")

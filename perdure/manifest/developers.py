"""Who may sign: n developers, of whom m must. The list is a file in the loader's image, hence measured with it.

One person counts once: two keys of one list may not be the same point of a curve, in whatever form they are written. A
key is of one of three kinds:

- `ssh`: an OpenSSH key, `ssh-ed25519` or `sk-ssh-ed25519@openssh.com` (a FIDO2 token's, which must have been touched);
- `bip340`: the 32-byte x-only public key of BIP-340;
- `bitcoin`: a 33-byte compressed secp256k1 public key, whose owner signs messages as Bitcoin wallets do.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import coincurve

from perdure.errors import Misuse
from perdure.manifest import form, sshsig

FORMAT: Final = 1
DEVELOPERS_MAX: Final = 32
DEVELOPERS_BYTES_MAX: Final = 1 << 16


class KeyKind(StrEnum):
    """How a developer signs."""

    SSH = "ssh"
    BIP340 = "bip340"
    BITCOIN = "bitcoin"


@dataclass(frozen=True, slots=True)
class Developer:
    """One developer. `key` is the blob of an SSH key (RFC 4253, 6.6), an x-only key of 32 bytes or a point of 33.

    Raises Misuse for a name that is none, and for a key that is malformed or of a type that is not supported.
    """

    name: str
    kind: KeyKind
    key: bytes

    def __post_init__(self) -> None:
        form.name(self.name, "developer's name")
        self.point()

    def point(self) -> tuple[str, bytes]:
        """What must not be there twice: the curve, and the point without its sign.

        Whoever can sign for a point can sign for its negative, which some forms tell apart and others do not.
        """
        if self.kind is KeyKind.SSH:
            public = sshsig.public_key(self.key).point
            return "ed25519", public[:31] + bytes([public[31] & 0x7F])
        length, read = _SECP256K1[self.kind]
        try:
            if len(self.key) == length:
                read(self.key)
                return "secp256k1", self.key[-32:]
        except ValueError:
            pass
        raise Misuse(f"The key of developer {self.name} is no {self.kind} key: {length} bytes, a point of secp256k1.")

    def key_text(self) -> str:
        """The key as people know it: `ssh-ed25519 AAAA...`, or hexadecimal."""
        if self.kind is KeyKind.SSH:
            return f"{sshsig.public_key(self.key).kind} {base64.b64encode(self.key).decode()}"
        return self.key.hex()

    @classmethod
    def of(cls, name: str, kind: str, key: str) -> Developer:
        """A developer whose key is given as people know it; an SSH key's comment is dropped. Raises Misuse."""
        form.name(name, "developer's name")
        known = KeyKind(form.one_of(kind, f"kind of developer {name}", tuple(KeyKind)))
        return cls(name, known, _ssh_blob(name, key) if known is KeyKind.SSH else _key_bytes(name, known, key))


@dataclass(frozen=True, slots=True)
class Developers:
    """The list, sorted by name; `threshold` of them must sign.

    Raises Misuse for a threshold below 1 or above their number, more than 32, two of one name, and two that are one.
    """

    threshold: int
    keys: tuple[Developer, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", tuple(sorted(self.keys, key=lambda developer: developer.name)))
        if not 1 <= len(self.keys) <= DEVELOPERS_MAX:
            raise Misuse(f"A list of developers has 1 to {DEVELOPERS_MAX}, not {len(self.keys)}.")
        form.number(self.threshold, "developers' threshold", least=1, most=len(self.keys))
        names: set[str] = set()
        points: dict[tuple[str, bytes], str] = {}
        for developer in self.keys:
            if developer.name in names:
                raise Misuse(f"The developers' list has two of the name {developer.name}.")
            names.add(developer.name)
            other = points.setdefault(developer.point(), developer.name)
            if other != developer.name:
                raise Misuse(f"Developers {other} and {developer.name} have the same key: one developer counts once.")

    def of_kind(self, kind: KeyKind) -> tuple[Developer, ...]:
        """Those who sign in this way."""
        return tuple(developer for developer in self.keys if developer.kind is kind)

    def to_json(self) -> bytes:
        """The canonical form of `developers.json`."""
        listed = [{"key": one.key_text(), "kind": one.kind.value, "name": one.name} for one in self.keys]
        return form.canonical({"developers": listed, "format": FORMAT, "threshold": self.threshold})

    @classmethod
    def from_json(cls, data: bytes) -> Developers:
        """Read `developers.json`; order and white space are free, all else is strict. Raises Misuse."""
        value = form.read_object(data, "developers' list", bytes_max=DEVELOPERS_BYTES_MAX)
        fields = form.keys(value, "developers' list", {"developers", "format", "threshold"})
        form.number(fields["format"], "developers' format", least=FORMAT, most=FORMAT)
        listed = form.items(fields["developers"], "developers' list", count_max=DEVELOPERS_MAX)
        return cls(fields["threshold"], tuple(_developers(listed)))


def _developers(listed: Iterable[object]) -> Iterable[Developer]:
    for index, item in enumerate(listed):
        where = f"developers[{index}]"
        fields = form.keys(item, where, {"key", "kind", "name"})
        name = form.name(fields["name"], f"{where}.name")
        yield Developer.of(name, form.text(fields["kind"], f"{where}.kind"), form.text(fields["key"], f"{where}.key"))


def _ssh_blob(name: str, line: str) -> bytes:
    words = line.split(maxsplit=2)
    try:
        blob = base64.b64decode(words[1].encode("ascii"), validate=True)
    except (IndexError, UnicodeEncodeError, binascii.Error):
        raise Misuse(f"The key of developer {name} is not a line of an OpenSSH public key file.") from None
    if sshsig.public_key(blob).kind != words[0]:
        raise Misuse(f"The key of developer {name} says {words[0]!a:.80} and is of another type.")
    return blob


def _key_bytes(name: str, kind: KeyKind, key: str) -> bytes:
    return form.hexadecimal(key.strip().lower(), f"key of developer {name}", length=_SECP256K1[kind][0])


_SECP256K1: Final[Mapping[KeyKind, tuple[int, Any]]] = {
    KeyKind.BIP340: (32, coincurve.PublicKeyXOnly),
    KeyKind.BITCOIN: (33, coincurve.PublicKey),
}

"""Whether enough developers signed a manifest.

Each developer signs the same canonical bytes in his own way (docs/spec.md, 16.4), and each signature is a small file of
its own. Whoever brings signatures, usually the host, is not trusted: one that is of no use counts for nothing, and does
no harm beside enough good ones, since he could have left it out. If there are too few, the error says what was wrong
with each of the others.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import coincurve

from perdure.errors import Misuse, NotAuthorised
from perdure.manifest import form, sshsig
from perdure.manifest.developers import Developer, Developers, KeyKind
from perdure.manifest.manifest import digest_of

SIGNATURE_BYTES_MAX: Final = 8192
SIGNATURES_MAX: Final = 64
_BITCOIN_MAGIC: Final = b"\x18Bitcoin Signed Message:\n"
_ANOTHER: Final = "by nobody who is listed, or for another manifest, or altered"


def verify(developers: Developers, signed_bytes: bytes, signatures: Sequence[bytes]) -> tuple[str, ...]:
    """The names, sorted, of the distinct developers who signed: at least `developers.threshold` of them.

    `signed_bytes` are the manifest's canonical bytes (`Manifest.to_json`), each of `signatures` one file's contents.
    Raises NotAuthorised with one sentence if they are fewer, and Misuse for more than 64 signatures.
    """
    if len(signatures) > SIGNATURES_MAX:
        raise Misuse(f"There are more than {SIGNATURES_MAX} signatures; nothing was verified.")
    names: list[str] = []
    faults: list[str] = []
    for index, signature in enumerate(signatures, 1):
        try:
            name = signer(developers, signed_bytes, signature)
        except NotAuthorised as error:
            faults.append(f"signature {index} {error}")
        else:
            if name in names:
                faults.append(f"signature {index} is another one by {name}, who counts once")
            names.append(name)
    signed = sorted(set(names))
    if len(signed) < developers.threshold:
        raise NotAuthorised(_too_few(developers, signed, faults))
    return tuple(signed)


def signer(developers: Developers, signed_bytes: bytes, signature: bytes) -> str:
    """The name of the listed developer who made this one signature over `signed_bytes`.

    Raises NotAuthorised if there is none; its text says what is wrong, and goes on after "signature 1 ...".
    """
    if len(signature) > SIGNATURE_BYTES_MAX:
        raise NotAuthorised(f"has more than {SIGNATURE_BYTES_MAX} bytes")
    if sshsig.is_armoured(signature):
        return _ssh(developers, signed_bytes, signature)
    kind, text = _parts(signature)
    return _READERS[kind](developers.of_kind(kind), digest_of(signed_bytes), text).name


def text_to_sign(digest: bytes) -> str:
    """What a Bitcoin wallet signs and shows: one line, with the manifest's digest in hexadecimal."""
    return f"perdure manifest {digest.hex()}"


def bip340_file(signature: bytes) -> bytes:
    """The file for a BIP-340 signature of 64 bytes over the manifest's digest."""
    return form.canonical({"kind": KeyKind.BIP340.value, "signature": signature.hex()})


def bitcoin_file(signature: str) -> bytes:
    """The file for a wallet's signature, base64 as the wallet shows it, over `text_to_sign`."""
    return form.canonical({"kind": KeyKind.BITCOIN.value, "signature": signature.strip()})


def recover(text: str, signature: str) -> bytes:
    """The compressed public key, 33 bytes, whose owner made this signature (base64) of `text`, which is ASCII.

    The form is BIP-137's, which wallets share for all kinds of addresses: header | r 32 | s 32; the header says which
    of the candidates the key is. Any signature gives some key, so it must be compared with those that are listed.
    Raises NotAuthorised if it has another form.
    """
    try:
        data = base64.b64decode(signature.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        data = b""
    if len(data) != 65 or not 27 <= data[0] <= 42:
        raise NotAuthorised("is not the base64 of a Bitcoin wallet's 65 bytes")
    compact = data[1:] + bytes([(data[0] - 27) % 4])
    try:
        key = coincurve.PublicKey.from_signature_and_message(compact, _wallets_hash(text), hasher=None)
    except Exception:  # libsecp256k1's word for "no key fits" is a plain Exception
        raise NotAuthorised(f"is {_ANOTHER}") from None
    return key.format()


def _wallets_hash(text: str) -> bytes:
    message = text.encode("ascii")
    assert len(message) < 253, "longer texts have their length in another form"
    inner = hashlib.sha256(_BITCOIN_MAGIC + bytes([len(message)]) + message).digest()
    return hashlib.sha256(inner).digest()


def _ssh(developers: Developers, signed_bytes: bytes, data: bytes) -> str:
    signature = sshsig.parse(data)
    for developer in developers.of_kind(KeyKind.SSH):
        if developer.key == signature.key:
            sshsig.verify(signature, signed_bytes)
            return developer.name
    raise NotAuthorised("is by an SSH key that is not listed")


def _bip340(listed: Sequence[Developer], digest: bytes, text: object) -> Developer:
    try:
        signature = form.hexadecimal(text, "signature", length=64)
    except Misuse:
        raise NotAuthorised("is not 64 bytes in lower-case hexadecimal") from None
    for developer in listed:
        if coincurve.PublicKeyXOnly(developer.key).verify(signature, digest):
            return developer
    raise NotAuthorised(f"is {_ANOTHER}")


def _bitcoin(listed: Sequence[Developer], digest: bytes, text: object) -> Developer:
    key = recover(text_to_sign(digest), text if isinstance(text, str) else "")
    for developer in listed:
        if developer.key == key:
            return developer
    raise NotAuthorised(f"is {_ANOTHER}")


_READERS: Final[Mapping[KeyKind, Callable[[Sequence[Developer], bytes, object], Developer]]] = {
    KeyKind.BIP340: _bip340,
    KeyKind.BITCOIN: _bitcoin,
}


def _parts(data: bytes) -> tuple[KeyKind, Any]:
    try:
        fields = form.keys(
            form.read_object(data, "signature", bytes_max=SIGNATURE_BYTES_MAX), "signature", {"kind", "signature"}
        )
        return KeyKind(form.one_of(fields["kind"], "signature's kind", tuple(_READERS))), fields["signature"]
    except Misuse as error:
        said = str(error).rstrip(".")
        raise NotAuthorised(f"is neither an SSH signature nor one in JSON ({said})") from None


def _too_few(developers: Developers, signed: Sequence[str], faults: Sequence[str]) -> str:
    by = f" ({', '.join(signed)})" if signed else ""
    missing = developers.threshold - len(signed)
    wrong = f"; {'; '.join(faults)}" if faults else ""
    return (
        f"{len(signed)} of the {developers.threshold} developers that are needed signed this manifest{by}; {missing} "
        f"more must{wrong}. Nothing was run, and no key was given out."
    )

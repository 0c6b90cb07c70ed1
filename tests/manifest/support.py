"""A manifest, developers of every kind, and how each signs, written a second time from the formats' descriptions."""

import base64
import hashlib
import json
import shutil
import struct

import coincurve
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import AWS_NITRO_G1
from perdure.manifest.developers import Developer, Developers, KeyKind
from perdure.manifest.manifest import Manifest, Overrides, Program, ProgramKind

needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")

ENCLAVE = Measurement.enclave(AWS_NITRO_G1, b"\x10" * 48, b"\x11" * 48, b"\x12" * 48)
POLICY = Policy((TrustedRoot.builtin(AWS_NITRO_G1),), (ENCLAVE,))
MANIFEST = Manifest(
    name="node",
    version=7,
    program=Program(ProgramKind.TREE, b"\xaa" * 32),
    command=("python3", "{program}/main.py", "--config={directory}/perdure.toml", ""),
    array_id=b"\xbb" * 32,
    threshold=3,
    disks=5,
    policy=POLICY,
    overrides=Overrides(attest="flush"),
)
SIGNED = MANIFEST.to_json()


def string(data):
    return struct.pack(">I", len(data)) + data


def tagged(tag, data):
    head = hashlib.sha256(tag).digest()
    return hashlib.sha256(head + head + data).digest()


class Ssh:
    """A developer with an Ed25519 key, in a file or, with `application`, in a FIDO2 token (PROTOCOL.u2f)."""

    def __init__(self, seed, application=None):
        self.key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest())
        self.kind = b"ssh-ed25519" if application is None else b"sk-ssh-ed25519@openssh.com"
        self.application = application
        self.blob = string(self.kind) + string(self.key.public_key().public_bytes_raw())
        if application is not None:
            self.blob += string(application)

    def line(self, comment=" somebody@example.org"):
        return f"{self.kind.decode()} {base64.b64encode(self.blob).decode()}{comment}"

    def envelope(
        self,
        message=SIGNED,
        namespace=b"perdure-manifest",
        hash_name=b"sha512",
        flags=1,
        reserved=b"",
        kind=None,
        tail=b"",
        head=b"SSHSIG\0\0\0\1",
    ):
        """The blob inside of the armour."""
        digest = hashlib.new(hash_name.decode(), message).digest()
        signed = b"SSHSIG" + b"".join(map(string, (namespace, reserved, hash_name, digest)))
        after = b""
        if self.application is not None:
            after = struct.pack(">BI", flags, 41)
            signed = hashlib.sha256(self.application).digest() + after + hashlib.sha256(signed).digest()
        signature = string(kind or self.kind) + string(self.key.sign(signed)) + after + tail
        return head + b"".join(map(string, (self.blob, namespace, reserved, hash_name, signature)))

    def sign(self, message=SIGNED, **how):
        return armour(self.envelope(message, **how))


def armour(blob):
    text = base64.b64encode(blob)
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    return b"\n".join([b"-----BEGIN SSH SIGNATURE-----", *lines, b"-----END SSH SIGNATURE-----", b""])


class Curve:
    """A developer with a secp256k1 key, who signs by BIP-340 or as a Bitcoin wallet."""

    def __init__(self, seed):
        self.key = coincurve.PrivateKey(hashlib.sha256(seed).digest())
        self.point = self.key.public_key.format()

    def bip340(self, message=SIGNED):
        digest = tagged(b"perdure/manifest/1", message)
        return json.dumps({"kind": "bip340", "signature": self.key.sign_schnorr(digest).hex()}).encode()

    def compact(self, text, first=31):
        inner = b"\x18Bitcoin Signed Message:\n" + bytes([len(text)]) + text.encode()
        digest = hashlib.sha256(hashlib.sha256(inner).digest()).digest()
        signature = self.key.sign_recoverable(digest, hasher=None)
        return base64.b64encode(bytes([first + signature[64]]) + signature[:64]).decode()

    def bitcoin(self, message=SIGNED, first=31):
        text = f"perdure manifest {tagged(b'perdure/manifest/1', message).hex()}"
        return json.dumps({"kind": "bitcoin", "signature": self.compact(text, first)}).encode()


ALICE, BOB, MALLORY = Ssh(b"alice"), Ssh(b"bob", application=b"ssh:"), Ssh(b"mallory")
CAROL, DAVE = Curve(b"carol"), Curve(b"dave")
LIST = (
    Developer("alice", KeyKind.SSH, ALICE.blob),
    Developer("bob", KeyKind.SSH, BOB.blob),
    Developer("carol", KeyKind.BIP340, CAROL.point[1:]),
    Developer("dave", KeyKind.BITCOIN, DAVE.point),
)


def developers(threshold, *names):
    return Developers(threshold, tuple(one for one in LIST if not names or one.name in names))

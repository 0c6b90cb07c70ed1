"""The simulated TPM platform: a software TPM, a firmware's measurements of an image, and a certified attestation key.

The TPM is `swtpm` (Debian package swtpm), a whole TPM 2.0 in a process of its own. What a machine's maker and its
firmware would have done is done here with the TPM's own commands (TCG, "TPM 2.0 Library", part 3):

    attestation key  restricted, signs only; ECDSA on P-256 with SHA-256; endorsement hierarchy; handle 0x81000003
    its certificate  by a simulated root, at NV index 0x01C101D0, padded with zeros as in real machines
    PCR0             extended by SHA-256("perdure simulated firmware, version 1")
    PCR2             extended by SHA-256(four zero bytes), a separator: no driver was loaded
    PCR4             extended by SHA-256(kernel | command line | first ramdisk)
    PCR9             extended by SHA-256(the other ramdisks, joined)

all in the bank of SHA-256, each once, from zero. So PCR4 names the program and PCR9 the authority. Parts are joined
without lengths, so a policy has to list them all.

It protects nothing: whoever holds the root's directory, or this process, can have anything signed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import socket
import struct
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ObjectIdentifier

from perdure.disk.tpm import (
    ATTESTATION_KEY,
    CERTIFICATE_INDEX,
    EMPTY_PASSWORD,
    NO_SESSIONS,
    NV_PIECE_BYTES,
    OWNER,
    SESSIONS,
    SHA256_BANK,
    exchange,
)
from perdure.errors import Misuse
from perdure.image.eif import Eif
from perdure.simtee.pki import Draw, SimulatedRoot, simulated_name
from perdure.simtee.process import die_with

FIRMWARE: Final = b"perdure simulated firmware, version 1"
SEPARATOR: Final = bytes(4)
ROOT_DIRECTORY: Final = "tpm"
"""Below the directory of the simulated platforms' roots: here is the one for TPMs."""
PROGRAM: Final = "swtpm"
REPLY_SECONDS_MAX: Final = 30
CERTIFICATE_LIFETIME: Final = timedelta(days=365)
CERTIFICATE_INDEX_BYTES: Final = 1536

_SUFFIX: Final = "tpm.perdure.simulated-tee"
_ROOT_WINDOW: Final = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC))
_BACKDATED: Final = timedelta(hours=1)
_AIK: Final = ObjectIdentifier("2.23.133.8.3")  # tcg-kp-AIKCertificate
_EXTEND, _CREATE_PRIMARY, _EVICT, _FLUSH, _NV_DEFINE, _NV_WRITE = 0x182, 0x131, 0x120, 0x165, 0x12A, 0x137
# Its hierarchy: under any other than this and the platform's, quotes do not show the true counts of resets.
_ENDORSEMENT: Final = 0x4000000B
_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_TIMEOUT: Final = struct.Struct("@ll")  # struct timeval

# TPMT_PUBLIC up to the point: an ECC key, name by SHA-256; fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth,
# noDA, restricted, sign; no policy; no symmetric cipher; ECDSA with SHA-256; P-256; no derivation.
_KEY: Final = bytes.fromhex("0023 000b 00050472 0000 0010 0018 000b 0003 0010")
# Owner and index may read and write; no lock-out by wrong passwords.
_INDEX_ATTRIBUTES: Final = 0x02060006


def expected_pcrs(parts: Eif) -> dict[str, bytes]:
    """Return what this platform's TPM shows of an image, 32 bytes each: what a policy lists to allow it."""
    return {f"pcr{number}": hashlib.sha256(bytes(32) + digest).digest() for number, digest in _events(parts).items()}


class TpmRoot(SimulatedRoot):
    """A root that certifies attestation keys of simulated TPMs; `der` is what a policy must carry to accept them."""

    __slots__ = ()

    @classmethod
    def create(cls, draw: Draw = os.urandom) -> TpmRoot:
        """Return a new root that is nowhere stored."""
        key = SimulatedRoot.create(draw).key
        # A name of its own, so that keys under another root do not seem to be its.
        name = simulated_name(f"{draw(4).hex()}.{_SUFFIX}")
        certificate = _certificate(name, name, key.public_key(), key, _ROOT_WINDOW, draw)
        return cls(key, certificate, certificate.public_bytes(Encoding.DER))

    @classmethod
    def load_or_create(cls, directory: Path, draw: Draw = os.urandom) -> TpmRoot:
        """Return the root for TPMs that `directory` holds; else as `SimulatedRoot.load_or_create`.

        It has a directory of its own in there: no certificate is a root of two platforms.
        """
        root = super().load_or_create(directory / ROOT_DIRECTORY, draw)
        return cls(root.key, root.certificate, root.der)

    def certify(self, key: ec.EllipticCurvePublicKey, name: str, draw: Draw = os.urandom) -> bytes:
        """Return the certificate (DER) of an attestation key, valid for a year from now, with `name` in its name."""
        now = datetime.now(UTC).replace(microsecond=0)
        window = (now - _BACKDATED, now + CERTIFICATE_LIFETIME)
        subject = simulated_name(f"{name}.{_SUFFIX}")
        certificate = _certificate(subject, self.certificate.subject, key, self.key, window, draw)
        return certificate.public_bytes(Encoding.DER)


class SimulatedTpm:
    """A machine's TPM after it has booted the image `parts`. A context manager: the TPM runs as long as that.

    It ends with the thread that started it, too. Entering raises Misuse if swtpm is not installed, OSError if it fails.
    """

    def __init__(self, root: TpmRoot, parts: Eif) -> None:
        self._root = root
        self._parts = parts
        self._socket: socket.socket
        self._process: subprocess.Popen[bytes]
        self._ending = contextlib.ExitStack()
        self.certificate = b""
        """Of the attestation key, in DER, once the TPM runs."""

    def fileno(self) -> int:
        """The socket that carries commands and replies; for one user at a time, and this object's to close."""
        return self._socket.fileno()

    @property
    def pid(self) -> int:
        """The process of the TPM."""
        return self._process.pid

    def __enter__(self) -> SimulatedTpm:
        if (program := shutil.which(PROGRAM)) is None:
            raise Misuse(f"The simulated TPM needs the program {PROGRAM}, which is not installed (Debian: {PROGRAM}).")
        with contextlib.ExitStack() as ending:
            directory = ending.enter_context(tempfile.TemporaryDirectory(prefix="perdure-tpm-"))  # 0700
            self._socket, theirs = socket.socketpair()
            ending.enter_context(self._socket)
            with theirs:
                self._process = _start(program, directory, theirs.fileno())
            ending.callback(self._end)
            try:
                self._provision()
            except BlockingIOError:
                raise TimeoutError(f"the program {PROGRAM} does not answer") from None
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def _end(self) -> None:
        self._process.kill()  # does nothing if it has ended; its state is of no more use
        self._process.wait()

    def _provision(self) -> None:
        # Not `settimeout`: that would make the socket, which the disk will share, one that never waits.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT.pack(REPLY_SECONDS_MAX, 0))
        self.certificate = provision(self.fileno(), self._root, secrets.token_hex(8))
        for pcr, digest in _events(self._parts).items():
            _authorised(self.fileno(), _EXTEND, _U32.pack(pcr), SHA256_BANK[:6] + digest)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT.pack(0, 0))


def provision(fd: int, root: TpmRoot, name: str) -> bytes:
    """Give the TPM behind `fd` what a cloud gives it: an attestation key, and its certificate, which is returned (DER).

    Both outlive the TPM's restarts. Raises OSError if the TPM refuses, ValueError if it misspeaks.
    """
    certificate = root.certify(_make_key(fd), name)
    _store(fd, certificate)
    return certificate


def _make_key(fd: int) -> ec.EllipticCurvePublicKey:
    """Make the attestation key, and have it kept under its handle."""
    public = _sized(_KEY + bytes(4))  # the coordinates x and y, both of length 0, are the TPM's to choose
    parameters = _sized(bytes(4)) + public + bytes(6)  # no password, no data; the template; nothing else, no PCRs
    reply = _authorised(fd, _CREATE_PRIMARY, _U32.pack(_ENDORSEMENT), parameters)
    handle, point = reply[:4], reply[4 + 4 + 2 + len(_KEY) :]  # past the handle, two sizes and the template
    x, point = _coordinate(point)
    y, _ = _coordinate(point)
    _authorised(fd, _EVICT, _U32.pack(OWNER) + handle, _U32.pack(ATTESTATION_KEY))
    exchange(fd, NO_SESSIONS, _FLUSH, handle)
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def _store(fd: int, certificate: bytes) -> None:
    index = _U32.pack(CERTIFICATE_INDEX)
    description = index + struct.pack(">HIHH", 0x000B, _INDEX_ATTRIBUTES, 0, CERTIFICATE_INDEX_BYTES)
    _authorised(fd, _NV_DEFINE, _U32.pack(OWNER), _U16.pack(0) + _sized(description))
    padded = certificate.ljust(CERTIFICATE_INDEX_BYTES, b"\0")
    for at in range(0, len(padded), NV_PIECE_BYTES):
        _authorised(fd, _NV_WRITE, index + index, _sized(padded[at : at + NV_PIECE_BYTES]) + _U16.pack(at))


def _authorised(fd: int, command: int, handles: bytes, parameters: bytes) -> bytes:
    return exchange(fd, SESSIONS, command, handles + EMPTY_PASSWORD + parameters)


def _events(parts: Eif) -> dict[int, bytes]:
    """What the firmware extends PCRs by."""
    boot = parts.kernel + parts.cmdline + parts.ramdisks[0]
    rest = b"".join(parts.ramdisks[1:])
    return {
        number: hashlib.sha256(data).digest() for number, data in ((0, FIRMWARE), (2, SEPARATOR), (4, boot), (9, rest))
    }


def _start(program: str, directory: str, fd: int) -> subprocess.Popen[bytes]:
    command = [program, "socket", "--tpm2", "--tpmstate", f"dir={directory},mode=0600"]
    # Commands come on this one connected socket, not on one that others could connect to; its end ends the TPM.
    command += ["--fd", str(fd), "--flags", "not-need-init,startup-clear"]
    return subprocess.Popen(  # noqa: S603  (the program is the TPM)
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(fd,),
        env={"PATH": os.defpath},
        start_new_session=True,
        preexec_fn=die_with(os.getpid()),  # noqa: PLW1509  (no other thread holds a lock that this needs)
    )


def _sized(data: bytes) -> bytes:
    return _U16.pack(len(data)) + data


def _coordinate(data: bytes) -> tuple[int, bytes]:
    """A number after its u16 length, and what follows."""
    end = 2 + int.from_bytes(data[:2], "big")
    return int.from_bytes(data[2:end], "big"), data[end:]


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    window: tuple[datetime, datetime],
    draw: Draw,
) -> x509.Certificate:
    is_root = subject == issuer
    usage = x509.KeyUsage(
        digital_signature=not is_root,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_root,
        crl_sign=is_root,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(int.from_bytes(b"\x40" + draw(15), "big"))
        .not_valid_before(window[0])
        .not_valid_after(window[1])
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=0 if is_root else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    if not is_root:
        issuers = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        builder = builder.add_extension(issuers, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([_AIK]), critical=False)
    return builder.sign(issuer_key, SHA384(), ecdsa_deterministic=True)

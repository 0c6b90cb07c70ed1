"""The simulated platform's certificates: a root in a directory, and chains of the shape that AWS Nitro really has.

Root, regional (20 days, pathLen 2), zonal (6 days, 1), instance (1 day, 0), leaf (3 hours); all P-384 with SHA-384.
As AWS's, the leaf has no key identifiers and its keyUsage is not critical. Names say "simulated" throughout.

All randomness comes from `draw` and signatures are deterministic (RFC 6979), so a simulation can be replayed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509.oid import NameOID

from perdure.errors import Misuse

Draw = Callable[[int], bytes]
"""Returns that many random bytes."""

REGION: Final = "sim-1"
KEY_FILE: Final = "root.key"
CERTIFICATE_FILE: Final = "root.der"

_SUFFIX: Final = "perdure.simulated-tee"
_ROOT_NOT_BEFORE: Final = datetime(2020, 1, 1, tzinfo=UTC)  # wide and fixed: a simulation may choose any time
_ROOT_NOT_AFTER: Final = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
_P384_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973


@dataclass(frozen=True, slots=True)
class Issuer:
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    der: bytes


@dataclass(frozen=True, slots=True)
class SimulatedRoot(Issuer):
    """A root of the simulated platform; `der` is what a policy must carry to accept what comes from it."""

    @classmethod
    def create(cls, draw: Draw = os.urandom) -> SimulatedRoot:
        """Return a new root that is nowhere stored."""
        key, name = _new_key(draw), simulated_name(_SUFFIX)
        builder = _builder(name, name, key, _ROOT_NOT_BEFORE, _ROOT_NOT_AFTER, draw)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        builder = builder.add_extension(_usage(cert_sign=True, crl_sign=True, signature=True), critical=True)
        return cls(*_signed(builder, key, key))

    @classmethod
    def load_or_create(cls, directory: Path, draw: Draw = os.urandom) -> SimulatedRoot:
        """Return the root that `directory` holds, making both if need be; processes may do so at the same time.

        Raises Misuse if the directory holds something else than a root.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        key_path, certificate_path = directory / KEY_FILE, directory / CERTIFICATE_FILE
        with _locked(directory):
            # The certificate is written last: a key without one was never used, and is replaced.
            if not certificate_path.exists():
                root = cls.create(draw)
                _write(key_path, _key_pem(root.key))
                _write(certificate_path, root.der)
                return root
            try:
                return cls._load(key_path.read_bytes(), certificate_path.read_bytes())
            except (OSError, ValueError, TypeError) as error:
                raise Misuse(f"The directory {directory} does not hold a simulated root that can be read.") from error

    @classmethod
    def _load(cls, key_pem: bytes, der: bytes) -> SimulatedRoot:
        key = serialization.load_pem_private_key(key_pem, password=None)
        certificate = x509.load_der_x509_certificate(der)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError("key and certificate do not belong together")
        return cls(key, certificate, der)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A document key, its certificate, and the rest of its chain, root first."""

    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    cabundle: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Level:
    """How one level of the chain is issued. It is renewed `renew_before` its end, so that what it issues fits in."""

    lifetime: timedelta
    backdated: timedelta
    renew_before: timedelta


_LEVELS: Final = (
    _Level(timedelta(days=20), timedelta(hours=1), timedelta(days=7)),
    _Level(timedelta(days=5, hours=15), timedelta(minutes=10), timedelta(hours=36)),
    _Level(timedelta(days=1), timedelta(minutes=1), timedelta(hours=4)),
    _Level(timedelta(hours=3), timedelta(seconds=3), timedelta(minutes=10)),
)
_LEAF: Final = len(_LEVELS) - 1


class LeafChain:
    """The chain of one launched enclave; issues and renews certificates as time goes on."""

    def __init__(self, root: SimulatedRoot, module_id: str, draw: Draw = os.urandom) -> None:
        self._draw = draw
        self._path: list[Issuer] = [root]
        instance_id = module_id.partition("-enc")[0]
        self._names = (
            lambda: f"{draw(8).hex()}.{REGION}.{_SUFFIX}",
            lambda: f"{draw(8).hex()}.zonal.{REGION}.{_SUFFIX}",
            lambda: f"{instance_id}.{REGION}.{_SUFFIX}",
            lambda: f"{module_id}.{REGION}.simulated",
        )

    def at(self, now_ms: int) -> Leaf:
        """Return the leaf in use at this time, Unix milliseconds."""
        now = datetime.fromtimestamp(now_ms // 1000, UTC)
        for number in range(len(_LEVELS)):
            if len(self._path) <= number + 1 or not self._is_current(number, now):
                del self._path[number + 1 :]  # whatever a renewed certificate had issued goes with it
                self._path.append(self._issue(number, now))
        leaf = self._path[-1]
        return Leaf(leaf.key, leaf.der, tuple(issuer.der for issuer in self._path[:-1]))

    def _is_current(self, number: int, now: datetime) -> bool:
        certificate = self._path[number + 1].certificate
        renew_at = certificate.not_valid_after_utc - _LEVELS[number].renew_before
        return certificate.not_valid_before_utc <= now < renew_at

    def _issue(self, number: int, now: datetime) -> Issuer:
        level, issuer, key = _LEVELS[number], self._path[-1], _new_key(self._draw)
        window = (now - level.backdated, now + level.lifetime)
        builder = _builder(simulated_name(self._names[number]()), issuer.certificate.subject, key, *window, self._draw)
        if number == _LEAF:
            builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            builder = builder.add_extension(_usage(signature=True, commitment=True), critical=False)
        else:
            builder = _with_authority_extensions(builder, number, key, issuer)
        return Issuer(*_signed(builder, key, issuer.key))


def _with_authority_extensions(
    builder: x509.CertificateBuilder, number: int, key: ec.EllipticCurvePrivateKey, issuer: Issuer
) -> x509.CertificateBuilder:
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    own_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    is_instance = number == _LEAF - 1
    usage = _usage(cert_sign=True) if is_instance else _usage(cert_sign=True, crl_sign=True, signature=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=2 - number), critical=True)
    builder = builder.add_extension(issuer_key, critical=False).add_extension(own_key, critical=False)
    return builder.add_extension(usage, critical=True)


def _usage(
    *, cert_sign: bool = False, crl_sign: bool = False, signature: bool = False, commitment: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signature,
        content_commitment=commitment,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _new_key(draw: Draw) -> ec.EllipticCurvePrivateKey:
    # 64 bits more than the order: the remainder's bias is below 2^-64.
    return ec.derive_private_key(int.from_bytes(draw(56), "big") % (_P384_ORDER - 1) + 1, ec.SECP384R1())


def simulated_name(common_name: str) -> x509.Name:
    """The name of a holder or issuer, which says that it is simulated."""
    parts = (
        (NameOID.COUNTRY_NAME, "ZZ"),
        (NameOID.ORGANIZATION_NAME, "Perdure"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "simulated"),
        (NameOID.COMMON_NAME, common_name),
    )
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    not_before: datetime,
    not_after: datetime,
    draw: Draw,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(b"\x40" + draw(15), "big"))
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate, bytes]:
    certificate = builder.sign(issuer_key, SHA384(), ecdsa_deterministic=True)
    return key, certificate, certificate.public_bytes(serialization.Encoding.DER)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(path: Path, data: bytes) -> None:
    """Write a whole file that only its owner can read, or leave the old one."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

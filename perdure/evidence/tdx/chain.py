"""Certificate paths of Intel's attestation: processor, its issuer, root; and signer of statements, root.

A path must have exactly these certificates, under the names that Intel's "PCK Certificate and CRL Profile" gives them:
a processor's key vouches for quoting enclaves alone, so it must never pass for the signer of Intel's statements. Each
path is verified by `cryptography`'s RFC 5280 verifier at a time inside every validity; the caller compares the window
with the time it asks about.

Revocation lists are checked here too; what they list, and until when they hold, is for the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import Criticality, PolicyBuilder, Store

from perdure.errors import BadChain, BadSignature, ExpiredEvidence, MalformedEvidence
from perdure.evidence.x509 import issuer_policy, leaf_policy

PCK_ISSUERS: Final = ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA")
PCK: Final = ("Intel SGX PCK Certificate",)
SIGNERS: Final = ("Intel SGX TCB Signing",)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ECDSA: Final = ec.ECDSA(SHA256())


@dataclass(frozen=True, slots=True)
class Window:
    """From `not_before_ms` to just before `not_after_ms`, Unix milliseconds."""

    not_before_ms: int
    not_after_ms: int

    @classmethod
    def of(cls, not_before: datetime, not_after: datetime) -> Window:
        """The window between two times that carry their zone."""
        milli = timedelta(milliseconds=1)
        return cls((not_before - _EPOCH) // milli, (not_after - _EPOCH) // milli)

    def and_(self, *others: Window) -> Window:
        """The time that is in all of them; it may be empty."""
        windows = (self, *others)
        return Window(max(one.not_before_ms for one in windows), min(one.not_after_ms for one in windows))

    def require(self, at_ms: int, what: str) -> None:
        """Return if `at_ms` is inside; raise ExpiredEvidence that begins with `what` otherwise."""
        if at_ms < self.not_before_ms:
            raise ExpiredEvidence(
                f"{what} hold only {self.not_before_ms - at_ms} ms from now; check this machine's clock."
            )
        if at_ms >= self.not_after_ms:
            raise ExpiredEvidence(
                f"{what} ended {at_ms - self.not_after_ms} ms ago: get new ones, or check this machine's clock."
            )


@dataclass(frozen=True, slots=True)
class VerifiedPath:
    """Certificates that the root vouches for, root first, leaf last, and the key and window of the leaf's path."""

    certificates: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePublicKey
    window: Window

    @property
    def leaf(self) -> x509.Certificate:
        """The last certificate."""
        return self.certificates[-1]


def verify_path(path: Sequence[bytes], *names: Sequence[str]) -> VerifiedPath:
    """Verify `path` (DER, a trusted root first, the leaf last); `names` are the common names allowed below the root.

    The caller has made sure that path[0] is trusted. Raises BadChain unless every signature, name, basicConstraints,
    pathLenConstraint and keyUsage is right, no unknown extension is critical, all certificates are valid at some
    common time, and the leaf's key is on P-256.
    """
    try:
        return _verify_path(path, names)
    except BadChain:
        raise
    except Exception as error:
        # The parser and the verifier have many exceptions for hostile certificates; each of them means this one.
        reason = str(error).partition(" (encountered")[0]
        raise BadChain(f"A certificate chain of the TDX evidence does not verify: {reason[:160]!a}.") from error


def _verify_path(path: Sequence[bytes], names: Sequence[Sequence[str]]) -> VerifiedPath:
    certificates = tuple(x509.load_der_x509_certificate(der) for der in path)
    for certificate, allowed in zip(certificates[1:], names, strict=True):
        name = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if len(name) != 1 or name[0] not in allowed:
            raise BadChain(f"A certificate of the TDX evidence is for {str(name)[:120]!a}, not for {allowed[0]}.")
    root, leaf = certificates[0], certificates[-1]
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadChain("A leaf certificate of the TDX evidence does not hold a P-256 key.")
    window = Window.of(
        max(certificate.not_valid_before_utc for certificate in certificates),
        min(certificate.not_valid_after_utc for certificate in certificates),
    )
    # If it is empty, one of them is not valid at its start, and the verifier says so.
    common = (_EPOCH + timedelta(milliseconds=window.not_before_ms)).replace(tzinfo=None)
    policies = {"ca_policy": _CA_POLICY, "ee_policy": _LEAF_POLICY}
    builder = PolicyBuilder().store(Store([root])).time(common).extension_policies(**policies)
    found = builder.build_client_verifier().verify(leaf, list(certificates[1:-1])).chain
    if found != list(certificates[::-1]):
        raise BadChain("A certificate chain of the TDX evidence holds certificates that do not belong to the path.")
    return VerifiedPath(certificates, key, window)


def verify_signature(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes, what: str) -> None:
    """Return if `key` made `signature` (r || s, 64 bytes) over `signed`; raise BadSignature about `what` otherwise."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), signed, _ECDSA)
    except InvalidSignature as error:
        raise BadSignature(f"{what} does not verify: it was altered.") from error


def public_key(point: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key with these coordinates (x || y, 64 bytes); raise MalformedEvidence if there is none."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    except ValueError as error:
        raise MalformedEvidence("The TDX quote's attestation key is not a point on P-256.") from error


def read_crl(der: bytes) -> x509.CertificateRevocationList:
    """Read a revocation list, whose signature is not looked at; raise MalformedEvidence."""
    try:
        crl = x509.load_der_x509_crl(der)
        _ = crl.issuer, crl.last_update_utc, crl.next_update_utc  # what is read lazily, and looked at later
    except Exception as error:  # the parser has many exceptions for hostile lists
        raise MalformedEvidence("A certificate revocation list is malformed.") from error
    return crl


def verify_crl(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> Window:
    """Return when a list holds; raise BadSignature if `issuer` did not sign it, MalformedEvidence if it never ends."""
    key = issuer.public_key()
    try:
        genuine = isinstance(key, ec.EllipticCurvePublicKey) and crl.is_signature_valid(key)
    except Exception:  # an algorithm that is not known, in one of many ways
        genuine = False
    if not genuine or crl.issuer != issuer.subject:
        raise BadSignature("A certificate revocation list does not verify: it was altered, or is another issuer's.")
    if crl.next_update_utc is None:
        raise MalformedEvidence("A certificate revocation list does not say until when it holds.")
    return Window.of(crl.last_update_utc, crl.next_update_utc)


def require_unrevoked(crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> None:
    """Return unless `crl` lists `certificate`; raise BadChain if it does."""
    if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
        raise BadChain(f"Intel has revoked the certificate of {certificate.subject.rfc4514_string()[:80]!a}.")


_CA_POLICY: Final = issuer_policy(Criticality.CRITICAL)
_LEAF_POLICY: Final = leaf_policy(key_usage=Criticality.CRITICAL)

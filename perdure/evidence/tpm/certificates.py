"""From a TPM's attestation key (AK) to a root that the policy names, with `cryptography`'s RFC 5280 verifier.

Certificates come as hints, in any order and of any quality: a hint that is no certificate, or belongs to no path, is
passed over. Demanded of the path: signatures and names from the AK to a root whose DER is in the policy, at most
`ISSUERS_BETWEEN_MAX` issuers between them, all valid at the time asked about; issuers that are CAs, sign certificates
and respect path lengths and name constraints; an AK that is no CA and, if its certificate says what its key is for,
signs data.

Tolerated, since the clouds' certificates have it so: any extended key usage (Google's AKs have that of endorsement
keys), a critical subjectAltName with the TPM's maker and model where the subject is empty (TCG EK Credential Profile),
basicConstraints and keyUsage that are not critical, and an AK without either. Every other critical extension that the
verifier does not know is refused. Revocation lists are not read.

Not seen here, and left to the CA that certified the AK: that the key is restricted, so that it signs nothing that
looks like a quote unless the TPM itself made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store

from perdure.errors import BadChain, ExpiredEvidence, MalformedEvidence, UntrustedRoot
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.x509 import is_no_ca, issuer_policy, signs_data

ISSUERS_BETWEEN_MAX: Final = 4
HINT_COUNT_MAX: Final = 256
HINT_BYTES_MAX: Final = 1 << 16
ISSUER_CANDIDATES_MAX: Final = 16
"""How many certificates may stand above an AK by their names; bounds the search, which tries signatures."""

_EPOCH: Final = datetime(1970, 1, 1)  # UTC without a zone, as the verifier takes it
_TIME_MS_MAX: Final = 253_402_300_799_999  # the end of the year 9999, where certificate times end too


@dataclass(frozen=True, slots=True)
class Hint:
    """A certificate that parses, with its DER. Nothing in it is verified."""

    der: bytes
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class VerifiedPath:
    """A root vouches for the AK, inside of this window; both ends inclusive, Unix milliseconds."""

    root: TrustedRoot
    not_before_ms: int
    not_after_ms: int


def read_hints(hints: Sequence[bytes]) -> list[Hint]:
    """Return those that are certificates, in their order; raise MalformedEvidence for too many."""
    if len(hints) > HINT_COUNT_MAX:
        raise MalformedEvidence(
            f"There are {len(hints)} certificates beside the quote; at most {HINT_COUNT_MAX} may be."
        )
    certificates = ((der, _certificate(der)) for der in hints if 0 < len(der) <= HINT_BYTES_MAX)
    return [Hint(der, certificate) for der, certificate in certificates if certificate is not None]


def _certificate(der: bytes) -> x509.Certificate | None:
    try:
        certificate = x509.load_der_x509_certificate(der)
        # The parser puts off much of its work; whatever has no names, times or key can be no part of a path.
        _ = certificate.subject, certificate.issuer, certificate.public_key(), _window([certificate])
    except Exception:  # of many classes: the parser's own, ValueError, UnsupportedAlgorithm
        return None
    return certificate


def verify_path(attestation_key: Hint, hints: Iterable[Hint], policy: Policy, at_ms: int) -> VerifiedPath:
    """Return which root of Platform.TPM vouches for the AK at the time `at_ms`, and until when.

    An AK that is itself a root of the policy needs nobody else's word: its bytes count, and its window. Where an issuer
    and another above it are both roots of the policy, the one nearer to the AK counts.
    Raises UntrustedRoot, BadChain, ExpiredEvidence.
    """
    pinned = policy.root_of(attestation_key.der, Platform.TPM)
    if pinned is not None:
        root, path = pinned, [attestation_key.certificate]
    else:
        root, path = _find_path(attestation_key, hints, policy, at_ms)
    not_before_ms, not_after_ms = _window(path)
    if at_ms < not_before_ms:
        raise ExpiredEvidence(
            f"The certificates of the TPM's key are valid only {not_before_ms - at_ms} ms from now; "
            "check this machine's clock."
        )
    if at_ms > not_after_ms:
        raise ExpiredEvidence(
            f"The certificates of the TPM's key ended {at_ms - not_after_ms} ms ago: renew them, or correct this clock."
        )
    return VerifiedPath(root, not_before_ms, not_after_ms)


def _find_path(
    attestation_key: Hint, hints: Iterable[Hint], policy: Policy, at_ms: int
) -> tuple[TrustedRoot, list[x509.Certificate]]:
    leaf = attestation_key.certificate
    known = ((_certificate(root.certificate), root) for root in policy.roots if root.platform is Platform.TPM)
    roots = {certificate: root for certificate, root in known if certificate is not None}
    above = _above(leaf, [*roots, *(hint.certificate for hint in hints)])
    anchors = [certificate for certificate in above if certificate in roots]
    if not anchors:
        raise UntrustedRoot(
            "The TPM's key hangs on no root certificate that the policy names for TPMs, or an issuer's certificate "
            "between them is missing; nothing the quote says is used."
        )
    if len(above) > ISSUER_CANDIDATES_MAX:
        raise BadChain(f"More than {ISSUER_CANDIDATES_MAX} certificates could be issuers of the TPM's key.")
    between = [certificate for certificate in above if certificate not in roots]
    now = _EPOCH + timedelta(milliseconds=min(max(at_ms, 0), _TIME_MS_MAX))
    # A path that is good at another time has expired, or is not valid yet: an error of its own. Windows that have a
    # time in common have the latest of their beginnings in common, so these are the only other times to try.
    starts = {one.not_valid_before_utc.replace(tzinfo=None) for one in (leaf, *above)}
    reason = ""
    for time in (now, *sorted(starts, reverse=True)):
        builder = PolicyBuilder().store(Store(anchors)).time(time).max_chain_depth(ISSUERS_BETWEEN_MAX)
        builder = builder.extension_policies(ca_policy=_CA_POLICY, ee_policy=_AK_POLICY)
        try:
            path = list(builder.build_client_verifier().verify(leaf, between).chain)
        except Exception as error:  # the verifier's own, and those of extensions that it parses
            # Its text may quote names from the certificates: one line, escaped, is all that a terminal gets to see.
            reason = reason or str(error).partition(" (encountered")[0]
        else:
            return roots[path[-1]], path
    raise BadChain(f"The certificate chain of the TPM's key does not verify: {reason[:160]!a}.")


def _above(leaf: x509.Certificate, known: Iterable[x509.Certificate]) -> list[x509.Certificate]:
    """The certificates that may stand above `leaf` going by names alone, which anyone can write."""
    by_subject: dict[x509.Name, list[x509.Certificate]] = {}
    for certificate in dict.fromkeys(known):
        by_subject.setdefault(certificate.subject, []).append(certificate)
    above = by_subject.pop(leaf.issuer, [])
    for certificate in above:  # grows while it is walked
        above.extend(by_subject.pop(certificate.issuer, []))
    return above


def _window(path: Sequence[x509.Certificate]) -> tuple[int, int]:
    """When all of these are valid, Unix milliseconds; the end may lie before the beginning."""
    return (
        max(_unix_ms(certificate.not_valid_before_utc) for certificate in path),
        min(_unix_ms(certificate.not_valid_after_utc) for certificate in path),
    )


def _unix_ms(time: datetime) -> int:
    return (time.replace(tzinfo=None) - _EPOCH) // timedelta(milliseconds=1)


_CA_POLICY: Final = issuer_policy(Criticality.AGNOSTIC)
_AK_POLICY: Final = (
    ExtensionPolicy.permit_all()
    .may_be_present(
        x509.BasicConstraints, Criticality.AGNOSTIC, is_no_ca("the attestation key is a certificate authority's")
    )
    .may_be_present(
        x509.KeyUsage, Criticality.AGNOSTIC, signs_data("the attestation key is not for signing data alone")
    )
)

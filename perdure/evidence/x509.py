"""What a certificate path demands of its certificates' extensions, in place of the verifier's web profile.

`cryptography`'s verifier checks signatures, names, validity and path lengths, and insists that issuers are marked as
CAs. What it demands beyond that is the web's: alternative names, key identifiers, extended key usages. Certificates of
attestation keys have none of these, so its profile is replaced; every extension is permitted that it understands, and
a critical one that it does not is refused still. Two extensions decide who may say what, and those are demanded here:

    of an issuer  basicConstraints; keyUsage with keyCertSign. Without it, a key that was meant for statements could
                  be made to vouch for other keys.
    of a leaf     not a CA; keyUsage with digitalSignature and without keyCertSign. A key that signs certificates
                  would sign what somebody else wrote, and that could be made to look like a document.

Whether they must be there, and be critical (RFC 5280, 4.2.1.3 and 4.2.1.9), is what each maker's certificates really
have; so it is for the caller to say, where the makers' formats are named.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography import x509
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy


def issuer_policy(criticality: Criticality) -> ExtensionPolicy:
    """Of every issuer: basicConstraints and keyUsage, each as critical as this, and a key that signs certificates."""
    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, criticality, None)  # the path builder insists on ca itself
        .require_present(x509.KeyUsage, criticality, _signs_certificates)
    )


def leaf_policy(*, key_usage: Criticality) -> ExtensionPolicy:
    """Of a leaf that has both extensions: no CA, critically; a key that signs documents alone, as critical as this."""
    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.CRITICAL, is_no_ca("the leaf is a certificate authority"))
        .require_present(x509.KeyUsage, key_usage, signs_data("the leaf's key is not for signing documents alone"))
    )


def is_no_ca(refusal: str) -> Callable[[Policy, x509.Certificate, x509.BasicConstraints | None], None]:
    """A validator of basicConstraints, which may be missing where a policy lets it; raises ValueError(`refusal`)."""

    def validate(_policy: Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints | None) -> None:
        if constraints is not None and constraints.ca:
            raise ValueError(refusal)

    return validate


def signs_data(refusal: str) -> Callable[[Policy, x509.Certificate, x509.KeyUsage | None], None]:
    """A validator of a leaf's keyUsage, which may be missing where a policy lets it; raises ValueError(`refusal`)."""

    def validate(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
        if usage is not None and (not usage.digital_signature or usage.key_cert_sign):
            raise ValueError(refusal)

    return validate


def _signs_certificates(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage) -> None:
    if not usage.key_cert_sign:
        raise ValueError("an issuer's key is not for signing certificates")

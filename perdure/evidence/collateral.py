"""What a verifier may need beside the evidence: certificates, and Intel's statements about its processors.

Nothing in it is trusted: each piece is signed by somebody whom a root in the policy vouches for, and is verified so.
A host that withholds or ages it can make evidence unusable, no more.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Collateral:
    """`certificates`: DER, in any order (AMD's ASK, VCEK, VLEK; a TPM's attestation key and the issuers above it).

    `tdx`: JSON texts in the form of `dcap_qvl.QuoteCollateralV3`, one for each kind of processor.
    """

    certificates: tuple[bytes, ...] = ()
    tdx: tuple[str, ...] = ()


NONE = Collateral()

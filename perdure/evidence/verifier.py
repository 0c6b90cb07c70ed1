"""One verifier for every platform: evidence in, a verified statement or an error out. It raises, never returns a bool.

The evidence's form says which platform's verifier reads it; each of these accepts only what hangs on a root that the
policy names for its own platform. So a host gains nothing by calling its evidence something else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from perdure.errors import MalformedEvidence
from perdure.evidence import envelope
from perdure.evidence.collateral import NONE, Collateral
from perdure.evidence.nitro import verifier as nitro
from perdure.evidence.nitro.chain import ChainCache
from perdure.evidence.nitro.forms import Forms
from perdure.evidence.policy import Policy
from perdure.evidence.snp import verifier as snp
from perdure.evidence.tdx import verifier as tdx
from perdure.evidence.tpm import verifier as tpm
from perdure.evidence.verified import VerifiedEvidence, expect_report_data

EVIDENCE_BYTES_MAX: Final = 36 << 10
"""The longest TDX quote and what is around it. Hosts may lengthen most platforms' evidence with bytes that nobody signs
and nobody reads; what is believed must fit into one record of the history, or a host could keep out its own proof."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """Judges evidence under `policy`. Good chains, and what documents have in common, are kept, verdicts never.

    Safe between threads.
    """

    policy: Policy
    collateral: Collateral = NONE
    chains: ChainCache = field(default_factory=ChainCache, repr=False, compare=False)
    forms: Forms = field(default_factory=Forms, repr=False, compare=False)

    def verify(self, evidence: bytes, commitment: bytes, at_ms: int) -> VerifiedEvidence:
        """Return what `evidence` proves at the time `at_ms` (Unix milliseconds), if it commits to `commitment`.

        Raises BadEvidence: one of the classes below it, and nothing else, whatever the bytes.
        """
        verified = self.read(evidence, at_ms)
        expect_report_data(verified, commitment)
        return verified

    def read(self, evidence: bytes, at_ms: int) -> VerifiedEvidence:
        """The same, whatever the evidence commits to."""
        if len(evidence) > EVIDENCE_BYTES_MAX:
            raise MalformedEvidence(f"The evidence has {len(evidence)} bytes; {EVIDENCE_BYTES_MAX} are the most.")
        if not envelope.is_envelope(evidence):
            return nitro.verify(evidence, policy=self.policy, at_ms=at_ms, chains=self.chains, forms=self.forms)
        opened = envelope.open_envelope(evidence)
        if opened.name == envelope.TPM:
            attest, signature, pcrs, certificate = opened.parts
            quote = tpm.Quote(attest, signature, pcrs)
            certificates = (certificate, *self.collateral.certificates)
            return tpm.verify(quote, certificates, policy=self.policy, at_ms=at_ms)
        provider, blob, extra = opened.parts
        if provider == envelope.SNP_PROVIDER:
            certificates = (*snp.certificate_table(extra), *self.collateral.certificates)
            return snp.verify(blob, certificates, policy=self.policy, at_ms=at_ms)
        if provider == envelope.TDX_PROVIDER:
            return tdx.verify(blob, self.collateral.tdx, policy=self.policy, at_ms=at_ms)
        raise MalformedEvidence(f"The evidence is by {provider[:40]!r}, which is no platform that is known.")


def stated_time_ms(evidence: bytes) -> int | None:
    """Return when the evidence says it was made, Unix milliseconds; None where a platform's says nothing of time.

    UNVERIFIED: anyone can write any time. Its one use is to judge stored evidence again as of then. Raises
    MalformedEvidence.
    """
    return None if envelope.is_envelope(evidence) else nitro.document_time_ms(evidence)

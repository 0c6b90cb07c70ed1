"""The verifier of TPM 2.0 quotes: of a discrete TPM, or of a cloud's virtual one.

Trusts the policy, the time it is given, and nothing else. What a good quote says: a TPM whose attestation key a root of
the policy vouches for had these PCR values when it signed this report data. That the key is restricted, so that no
software can have it sign a made-up quote, is the word of the CA that certified it; the operator who names that CA, or
pins a key, answers for it.

What it does not say: when. A TPM's clock is no wall clock and a host can keep quotes, so freshness comes from the
report data alone: compare it with `expect_report_data`. Nor what ran in a machine whose firmware does not measure, and
nothing worth knowing by PCR 16 and 23, which every program on the machine may reset.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from perdure.errors import BadEvidence, BadSignature, ForbiddenLaunch, MissingCollateral, WrongMeasurement
from perdure.evidence.measurement import REGISTERS
from perdure.evidence.policy import Policy
from perdure.evidence.roots import Platform
from perdure.evidence.tpm.certificates import Hint, read_hints, verify_path
from perdure.evidence.tpm.quote import PCR_BYTES, Key, Signature, parse_attest, parse_signature
from perdure.evidence.verified import VerifiedEvidence

_ZEROS: Final = bytes(PCR_BYTES)
_IDENTITY_CHARS: Final = 16


@dataclass(frozen=True, slots=True)
class Quote:
    """What a disk with a TPM sends: a TPMS_ATTEST, its TPMT_SIGNATURE, and the quoted PCRs' values, ascending."""

    attest: bytes
    signature: bytes
    pcrs: bytes


def verify(quote: Quote, certificates: Sequence[bytes], *, policy: Policy, at_ms: int) -> VerifiedEvidence:
    """Return what `quote` proves under `policy` at the time `at_ms` (Unix milliseconds).

    `certificates` are DER hints in any order: the first whose key made the signature is the attestation key's; those
    of issuers below the root may be among them. `module_id` and `host` are made from the key, and `module_id` from the
    TPM's counters of resets and restarts too. Keeps nothing; safe to call from several threads.

    Raises, in the order of the checks: MalformedEvidence, MissingCollateral, BadSignature, UntrustedRoot, BadChain,
    ExpiredEvidence, BadSignature (the PCR values are not the signed ones), ForbiddenLaunch, WrongMeasurement. Nothing
    else, whatever the bytes.
    """
    attestation = parse_attest(quote.attest)  # 1: a quote of the SHA-256 bank ...
    signature = parse_signature(quote.signature)  # ... a signature of a known scheme ...
    found = attestation.registers(quote.pcrs)  # ... and as many values as PCRs were quoted
    hints = read_hints(certificates)
    attestation_key, key = _signer(quote.attest, signature, hints)  # 2: a key that signed these bytes
    path = verify_path(attestation_key, hints, policy, at_ms)  # 3: the path to a root, at the time asked about
    if signature.digest(quote.pcrs) != attestation.pcr_digest:  # 4: the values are those that were signed
        raise BadSignature("The PCR values that came with the quote are not those that the TPM signed.")
    _check_measured(found)  # 5: somebody measured, whatever the policy lists ...
    _check_present(found)
    policy.require_measurement(path.root, found)  # ... and a program that it allows
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    host = f"tpm-{hashlib.sha256(spki).hexdigest()[:_IDENTITY_CHARS]}"
    return VerifiedEvidence(
        platform=path.root.platform,
        root=path.root.name,
        measurement=found,
        report_data=attestation.extra_data or None,
        module_id=f"{host}-{attestation.reset_count}.{attestation.restart_count}",
        host=host,
        time_ms=None,
        not_after_ms=path.not_after_ms,
    )


def _signer(signed: bytes, signature: Signature, hints: Sequence[Hint]) -> tuple[Hint, Key]:
    failure: BadEvidence = MissingCollateral(
        "No certificate of an attestation key that could have signed the quote is at hand; "
        "let the disk send it, or add it to the collateral."
    )
    for hint in hints:
        key = hint.certificate.public_key()
        if signature.suits(key):
            try:
                signature.verify(key, signed)
            except BadSignature as error:
                failure = error
            else:
                return hint, key
    raise failure


def _check_measured(found: Mapping[str, bytes]) -> None:
    """Firmware that measures extends PCR0 with itself and PCR4 with what it starts, so neither stays at zero."""
    for name in REGISTERS[Platform.TPM].required:
        if found.get(name) == _ZEROS:
            raise ForbiddenLaunch(
                f"The machine's firmware measured nothing into {name.upper()}: anything may be running there."
            )


def _check_present(found: Mapping[str, bytes]) -> None:
    for name in REGISTERS[Platform.TPM].required:
        if name not in found:
            raise WrongMeasurement(f"The quote leaves out {name.upper()}, so it does not say what was started.")

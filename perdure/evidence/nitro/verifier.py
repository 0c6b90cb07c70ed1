"""The verifier of AWS's attestation documents: Nitro Enclaves', the simulated platform's in the same form, NitroTPMs'.

Trusts the policy, the time it is given, and nothing else. Refuses everything that is not, byte for byte, a document
signed by hardware under a root that the policy names, made about now, by a program that it allows, outside of debug
mode. The numbers in `verify` are those of the verification process in the AWS Nitro Enclaves user guide ("Verifying
the root of trust"), extended where that is silent.

What a good document does not say: that it answers *our* question. The same leaf signs for hours and a host can keep
documents, so freshness comes from the report data alone: compare it with `expect_report_data`.
"""

from __future__ import annotations

from typing import Final

from perdure.errors import DebugMode, ExpiredEvidence, UntrustedRoot
from perdure.evidence.nitro import chain, cose, document
from perdure.evidence.nitro.chain import ChainCache, VerifiedPath
from perdure.evidence.nitro.document import Kind, Payload
from perdure.evidence.nitro.forms import Forms
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.verified import VerifiedEvidence

_PLATFORMS: Final = {Kind.ENCLAVE: (Platform.NITRO, Platform.SIMULATED), Kind.NITROTPM: (Platform.NITROTPM,)}
_ZEROS: Final = bytes(document.PCR_BYTES)


def verify(
    evidence: bytes, *, policy: Policy, at_ms: int, chains: ChainCache | None = None, forms: Forms | None = None
) -> VerifiedEvidence:
    """Return what `evidence` proves under `policy` at the time `at_ms` (Unix milliseconds).

    Live, `at_ms` is now. To check a stored document again, pass its own `document_time_ms`; the result then means
    "was made while the hardware's key was valid", not "is fresh", and trusts that no such key leaked since.
    With `chains`, a certificate path costs its signatures once, and a call one P-384 verification; with `forms`, what
    all documents of one enclave have in common is parsed once.
    Safe to call from several threads.

    Raises, in the order of the checks: MalformedEvidence, UntrustedRoot, BadChain, ExpiredEvidence, BadSignature,
    ExpiredEvidence (the document's own time), DebugMode, WrongMeasurement. Nothing else, whatever the bytes.
    """
    message = cose.split(evidence)  # 1: COSE_Sign1, ES384
    payload = (document if forms is None else forms).parse(
        message.payload
    )  # 2: all fields; 7: of an enclave or of a NitroTPM, never in between
    root = _trusted_root(payload, policy)  # 3: the pinned root, byte for byte
    certificates = (*payload.cabundle, payload.certificate)
    path = chain.verify_path(certificates) if chains is None else chains.verify(certificates)  # 4: the path ...
    _check_path_time(path, at_ms)  # ... at the time asked about
    message.verify(path.key)  # 5: the leaf signed these bytes
    if forms is not None:
        forms.learn(message.payload, payload)
    _check_document_time(payload.time_ms, path, policy.skew_ms_max, at_ms)  # 6
    found = {f"pcr{index}": pcr for index, pcr in sorted(payload.pcrs.items())}
    _check_debug(payload)  # 8: no program's zeros, whatever the policy lists ...
    policy.require_measurement(root, found)  # ... and a program that it allows
    return VerifiedEvidence(
        platform=root.platform,
        root=root.name,
        measurement=found,
        report_data=payload.user_data,
        module_id=payload.module_id,
        host=payload.module_id.rpartition("-")[0],
        time_ms=payload.time_ms,
        not_after_ms=path.not_after_ms,
        nonce=payload.nonce,
        public_key=payload.public_key,
    )


def document_time_ms(evidence: bytes) -> int:
    """Return the time that a document states, in Unix milliseconds. UNVERIFIED: anyone can write any time.

    Its one use is as `at_ms` of `verify` for a stored document. Raises MalformedEvidence.
    """
    return document.parse(cose.split(evidence).payload).time_ms


def _trusted_root(payload: Payload, policy: Policy) -> TrustedRoot:
    """Which profile holds is the policy's choice: a root that it trusts with enclaves vouches for no NitroTPM."""
    root = policy.root_of(payload.cabundle[0], *_PLATFORMS[payload.kind])
    if root is None:
        raise UntrustedRoot(
            "The evidence comes from hardware, or a simulation, whose root certificate the policy does not name; "
            "nothing it says is used."
        )
    return root


def _check_path_time(path: VerifiedPath, at_ms: int) -> None:
    if at_ms < path.not_before_ms:
        raise ExpiredEvidence(
            f"The evidence's certificates are valid only {path.not_before_ms - at_ms} ms from now; "
            "check this machine's clock."
        )
    if at_ms > path.not_after_ms:
        raise ExpiredEvidence(
            f"The evidence's certificates ended {at_ms - path.not_after_ms} ms ago: it is old, or this clock is wrong."
        )


def _check_document_time(time_ms: int, path: VerifiedPath, skew_ms_max: int, at_ms: int) -> None:
    if not path.leaf_not_before_ms <= time_ms <= path.leaf_not_after_ms:
        raise ExpiredEvidence("The evidence states a time outside of its own certificate's validity.")
    if abs(time_ms - at_ms) > skew_ms_max:
        raise ExpiredEvidence(
            f"The evidence's time and this clock differ by {abs(time_ms - at_ms)} ms; the policy allows {skew_ms_max}."
        )


def _check_debug(payload: Payload) -> None:
    """Nitro zeroes them in debug mode, and signs all the same. Refused even if a policy lists zeros."""
    if payload.kind is Kind.ENCLAVE and _ZEROS in (payload.pcrs[0], payload.pcrs[1], payload.pcrs[2]):
        raise DebugMode("The enclave runs in debug mode, so its host can read its memory; start it without debugging.")
    if payload.kind is Kind.NITROTPM and payload.pcrs[4] == _ZEROS:
        raise DebugMode("The machine's firmware measured no boot image: anything may be running there.")

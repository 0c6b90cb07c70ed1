"""The verifier of Intel TDX quotes, versions 4 and 5.

Trusts the policy, the time it is given, and nothing else. Each signature, from the policy's root to the quote and to
each of Intel's statements, is verified here first, with an error of its own. Then `dcap_qvl` does it all over again
and does what is hard besides: it finds the TCB level of the platform, the TDX module and the quoting enclave. It is
native code that may end the process on input that it does not expect. So it is given the quote and the statements as
they are written again from verified parts: no byte that it reads is a host's to choose.

What a good quote does not say: when it was made, and which launch of the guest made it. Freshness comes from the
report data alone: compare it with `expect_report_data`. Of launches TDX signs nothing: two guests of one program on
one machine have the same `module_id`, unless the program extends RTMR3 with random bytes at its start.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from perdure.errors import (
    BadChain,
    BadEvidence,
    BadSignature,
    DebugMode,
    ForbiddenLaunch,
    MissingCollateral,
    OutdatedTcb,
    UntrustedRoot,
)
from perdure.evidence.limits import TdxLimits
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.tdx import chain, collateral
from perdure.evidence.tdx import quote as quotes
from perdure.evidence.tdx.chain import VerifiedPath, Window
from perdure.evidence.tdx.collateral import Statements
from perdure.evidence.tdx.quote import Quote
from perdure.evidence.verified import VerifiedEvidence

TRIES_MAX: Final = 8
"""How many texts that claim to be about the same processors are verified, newest first, until one is good."""

_DEBUG: Final = 1 << 0
_SEPT_VE_DISABLE: Final = 1 << 28
_MIGRATABLE: Final = 1 << 29
_HARMLESS: Final = _SEPT_VE_DISABLE | 1 << 30 | 1 << 31 | 1 << 63
"""Attributes that a guest may have: PKS, KL and PERFMON (30, 31, 63) let it use features of the processor, no more."""


@dataclass(frozen=True, slots=True)
class _Processor:
    """Names: `ppid` of one machine, `fmspc` and `pce_id` of the kind whose TCB levels Intel states."""

    ppid: bytes
    fmspc: bytes
    pce_id: bytes


def verify(quote: bytes, collateral: Sequence[str], *, policy: Policy, at_ms: int) -> VerifiedEvidence:
    """Return what `quote` proves under `policy` at the time `at_ms` (Unix milliseconds).

    `collateral` are texts in the form of `dcap_qvl.QuoteCollateralV3`, in any order. Those that are not of that form,
    or about other processors, are passed over. Of the rest the one counts that was issued last and verifies; its
    verdict is final. To check a stored quote again, pass a time at which the stored collateral held.

    `host` is named by the processor's PPID, which Intel's certificate states: the hash of the certificate would give
    one machine as many names as it has certificates, and signatures on them. Safe to call from several threads.

    Raises, in the order of the checks: MalformedEvidence, UntrustedRoot, BadChain, ExpiredEvidence, BadSignature,
    DebugMode, ForbiddenLaunch, MissingCollateral; for the collateral UntrustedRoot, BadChain, BadSignature,
    MalformedEvidence, ExpiredEvidence; BadChain (revoked; not Intel's quoting enclave), OutdatedTcb, WrongMeasurement.
    Nothing else, whatever the bytes.
    """
    parsed = quotes.parse(quote)
    root = _trusted_root(parsed, policy)
    path = chain.verify_path(parsed.certificates[::-1], chain.PCK_ISSUERS, chain.PCK)
    path.window.require(at_ms, "The certificates of the TDX quote's processor")
    _verify_signatures(parsed, path)
    _check_attributes(parsed)
    processor = _processor(parsed)
    statements, window = _statements(collateral, processor, path, root, at_ms)
    chain.require_unrevoked(statements.root_crl, path.certificates[1])
    chain.require_unrevoked(statements.pck_crl, path.leaf)
    if not statements.enclave.fits(parsed.quoting_enclave):
        raise BadChain("The TDX quote's key is vouched for by an enclave that is not Intel's quoting enclave for TDX.")
    _check_tcb(parsed, statements, root, at_ms)
    policy.require_measurement(root, parsed.registers)
    host = f"tdx-{_name(processor.ppid)}"
    return VerifiedEvidence(
        platform=root.platform,
        root=root.name,
        measurement=parsed.registers,
        report_data=parsed.report_data,
        module_id=f"{host}-{_name(*(value for _, value in sorted(parsed.registers.items())))}",
        host=host,
        time_ms=None,
        not_after_ms=window.not_after_ms,
    )


def _trusted_root(quote: Quote, policy: Policy) -> TrustedRoot:
    root = policy.root_of(quote.certificates[-1], Platform.TDX)
    if root is None:
        raise UntrustedRoot(
            "The TDX quote comes from hardware, or a test, whose root certificate the policy does not name; "
            "nothing it says is used."
        )
    return root


def _verify_signatures(quote: Quote, path: VerifiedPath) -> None:
    """From the processor's key to the quoting enclave, from there to the attestation key, from there to the guest."""
    chain.verify_signature(path.key, quote.qe_report_signature, quote.qe_report, "The quoting enclave's report")
    bound = hashlib.sha256(quote.attestation_key + quote.qe_auth_data).digest() + bytes(32)
    if quote.quoting_enclave.report_data != bound:
        raise BadSignature("The quoting enclave did not vouch for the key that signed the TDX quote.")
    chain.verify_signature(chain.public_key(quote.attestation_key), quote.signature, quote.signed, "The TDX quote")


def _check_attributes(quote: Quote) -> None:
    """Attributes as in Intel's "TDX Module ABI Specification", TD_PARAMS. Refused whatever the policy says."""
    attributes = quote.td_attributes
    if attributes & _DEBUG:
        raise DebugMode("The TDX guest runs in debug mode: its host can read its memory; start it without debugging.")
    if not attributes & _SEPT_VE_DISABLE:
        # Without it the guest's kernel is told when the host takes a page away, in the middle of anything it does.
        raise ForbiddenLaunch(
            "The TDX guest was launched without SEPT_VE_DISABLE: its host can disturb it at any page."
        )
    if attributes & _MIGRATABLE or any(quote.service_td):
        # What may be moved may be copied and started again from its past.
        raise ForbiddenLaunch("The TDX guest may be migrated, so its host may hold older copies of its memory.")
    if unknown := attributes & ~_HARMLESS:
        # Profiling (bits 4 to 6) shows the host what the guest does; the others have no meaning that is known here.
        raise ForbiddenLaunch(
            f"The TDX guest was launched with attributes {unknown:#x}, which are not known as harmless."
        )


def _processor(quote: Quote) -> _Processor:
    """What the processor's certificate, which is verified, says in Intel's own extension."""
    import dcap_qvl  # noqa: PLC0415  (native code that only arrays with TDX disks need in memory)

    try:
        found = dcap_qvl.parse_pck_extension_from_pem(quotes.to_pem(quote.certificates[:1]))
        return _Processor(ppid=bytes(found.ppid), fmspc=bytes(found.fmspc), pce_id=bytes(found.pce_id))
    except ValueError as error:
        raise BadChain("The certificate of the TDX quote's processor does not say which processor it is.") from error


def _statements(
    texts: Sequence[str], processor: _Processor, path: VerifiedPath, root: TrustedRoot, at_ms: int
) -> tuple[Statements, Window]:
    """The collateral that fits, verified, and when it and the quote's certificates hold together."""
    issuer = path.certificates[1]
    read = [found for found in map(collateral.read, texts) if found is not None]
    fitting = [found for found in read if found.is_for(processor.fmspc, processor.pce_id, issuer)]
    fitting.sort(key=lambda found: found.tcb_info.window.not_before_ms, reverse=True)
    faults: list[BadEvidence] = []
    for found in fitting[:TRIES_MAX]:
        try:
            window = found.verify(path.certificates[0], root.certificate, issuer).and_(path.window)
            window.require(at_ms, "Intel's statements about the TDX quote's processor")
            return found, window
        except BadEvidence as error:
            faults.append(error)
    if faults:
        raise faults[0]
    raise MissingCollateral(
        f"There are no statements of Intel's about processors of kind {processor.fmspc.hex()}, by which to judge the "
        "TDX quote: fetch the collateral for it."
    )


def _check_tcb(quote: Quote, statements: Statements, root: TrustedRoot, at_ms: int) -> None:
    """The status of every part's TCB level, and what they come to, must be one that the policy accepts."""
    import dcap_qvl  # noqa: PLC0415

    tcb_info, qe_identity = statements.tcb_info, statements.qe_identity
    rewritten = dcap_qvl.QuoteCollateralV3(
        pck_crl_issuer_chain=quotes.to_pem(quote.certificates[1:]).decode(),
        root_ca_crl=statements.root_crl_der,
        pck_crl=statements.pck_crl_der,
        tcb_info_issuer_chain=quotes.to_pem(tcb_info.path).decode(),
        tcb_info=tcb_info.signed.decode(),
        tcb_info_signature=tcb_info.signature,
        qe_identity_issuer_chain=quotes.to_pem(qe_identity.path).decode(),
        qe_identity=qe_identity.signed.decode(),
        qe_identity_signature=qe_identity.signature,
    )
    seconds = at_ms // 1000
    try:
        claims = json.loads(
            dcap_qvl.QuoteVerifier(root.certificate)
            .verify_with_policy(quote.to_bytes(), rewritten, seconds, dcap_qvl.QuotePolicy.claims_only(seconds))
            .to_json()
        )
    except (ValueError, OverflowError) as error:
        # All that is signed was verified before: what is left is that no TCB level of Intel's fits.
        raise OutdatedTcb(
            f"Intel does not vouch for the state of the TDX quote's platform: {str(error)[:160]!a}."
        ) from error
    # The overall status says nothing of a TD 1.5 that was launched on newer firmware than runs now, nor of all that is
    # wrong with the quoting enclave.
    platform, enclave = claims["platform"], claims["qe"]
    levels = (platform["tcb_level"], platform["current_tcb_level"], enclave["tcb_level"])
    statuses = {claims["tcb"]["status"], *(level["tcbStatus"] for level in levels if level is not None)}
    assert isinstance(root.limits, TdxLimits)
    if refused := sorted(statuses - set(root.limits.statuses)):
        accepted = ", ".join(root.limits.statuses)
        raise OutdatedTcb(f"The TDX platform's firmware has the status {refused[0]}; the policy accepts {accepted}.")


def _name(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

"""The verifier of AMD SEV-SNP's attestation reports.

Trusts the policy, the time it is given, and nothing else. Refuses everything that is not a report which a processor
(VCEK) or a cloud's processors (VLEK) signed under a root that the policy names, with firmware as new as it demands, of
a guest that its host can neither debug nor migrate, with a measurement that it allows.

What a good report does not say: when it was made. It carries no time, so its freshness comes from the report data
alone: compare it with `expect_report_data`. Nor what runs beyond the measurement, which on many clouds is the vendor's
firmware only. Nor that the machine's memory bus is not tapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from perdure.errors import (
    BadChain,
    BadEvidence,
    BadSignature,
    DebugMode,
    ExpiredEvidence,
    ForbiddenLaunch,
    MissingCollateral,
    OutdatedTcb,
    UntrustedRoot,
)
from perdure.evidence.limits import VMPL_MAX, SnpLimits
from perdure.evidence.policy import Policy
from perdure.evidence.roots import Platform
from perdure.evidence.snp.certificates import Chain, certificate_table, chain_of, fitting
from perdure.evidence.snp.report import Product, Report, Signer, parse, tcb_of
from perdure.evidence.verified import VerifiedEvidence

__all__ = ["certificate_table", "verify"]

_POLICY_SMT: Final = 1 << 16
_POLICY_MIGRATION: Final = 1 << 18
_POLICY_DEBUG: Final = 1 << 19
_POLICY_BITS_KNOWN: Final = 26
_PLATFORM_SMT: Final = 1 << 0
_PLATFORM_ALIAS_CHECKED: Final = 1 << 5
_IDENTITY_CHARS: Final = 16
_PROGRESS: Final = (UntrustedRoot, MissingCollateral, BadChain, BadSignature, ExpiredEvidence)


def verify(report: bytes, certificates: Sequence[bytes], *, policy: Policy, at_ms: int) -> VerifiedEvidence:
    """Return what `report` proves under `policy` at the time `at_ms` (Unix milliseconds).

    `certificates` are hints, DER, in any order: the key's certificate must be among them; AMD's issuers (ASK, ASVK)
    are built in and those of other roots must be; roots are the policy's alone. Hints that are of no use are ignored.
    Safe to call from several threads. The cost is two RSA verifications and one on P-384.

    The checks, in order, with what each raises:

    1. the report's length, version, algorithm, reserved fields: MalformedEvidence (nobody signed: BadSignature);
    2. a key certificate of the kind, product, REPORTED_TCB and CHIP_ID that the report says: MissingCollateral;
    3. its issuer, and over it a root of the policy: UntrustedRoot, MissingCollateral, BadChain;
    4. the key signed these bytes: BadSignature;
    5. all three certificates hold at `at_ms`: ExpiredEvidence;
    6. the kind of key is the one that the limits name, of the cloud that they name: ForbiddenLaunch;
    7. no debugging: DebugMode; no migration, no sharing of cores unless allowed, nothing that is not known, and no
       weaker privilege level than allowed: ForbiddenLaunch;
    8. all four TCBs: OutdatedTcb;
    9. the program: WrongMeasurement.

    Nothing else is raised, whatever the bytes. If several certificates fit, one has to pass 3 to 5; else the failure
    of the one that came furthest is raised.
    """
    statement = parse(report)  # 1
    chain = _vouching(statement, certificates, policy, at_ms)  # 2 to 5
    limits = chain.root.limits
    assert isinstance(limits, SnpLimits)  # what a TrustedRoot of this platform has
    _check_signer(chain, limits)  # 6
    _check_launch(statement, limits)  # 7
    _check_tcb(statement, chain.leaf.product, limits)  # 8
    found = {
        "measurement": statement.measurement,
        "host_data": statement.host_data,
        "id_key_digest": statement.id_key_digest,
        "author_key_digest": statement.author_key_digest,
    }
    policy.require_measurement(chain.root, found)  # 9
    chip = _chip(statement)
    return VerifiedEvidence(
        platform=Platform.SEV_SNP,
        root=chain.root.name,
        measurement=found,
        report_data=statement.report_data,
        module_id=f"snp-{chip or '0' * _IDENTITY_CHARS}-{statement.report_id.hex()[:_IDENTITY_CHARS]}",
        host=None if chip is None else f"snp-{chip}",
        time_ms=None,
        not_after_ms=chain.not_after_ms,
    )


def _vouching(report: Report, hints: Sequence[bytes], policy: Policy, at_ms: int) -> Chain:
    failures: list[BadEvidence] = []
    for leaf in fitting(hints, report):
        try:
            chain = chain_of(leaf, hints, policy)
            report.verify(leaf.key)
            _check_time(chain, at_ms)
        except _PROGRESS as failure:
            failures.append(failure)
        else:
            return chain
    raise max(failures, key=lambda failure: _PROGRESS.index(type(failure)))


def _check_time(chain: Chain, at_ms: int) -> None:
    if at_ms < chain.not_before_ms:
        raise ExpiredEvidence(
            f"The evidence's certificates are valid only {chain.not_before_ms - at_ms} ms from now; "
            "check this machine's clock."
        )
    if at_ms > chain.not_after_ms:
        raise ExpiredEvidence(
            f"The evidence's certificates ended {at_ms - chain.not_after_ms} ms ago: the host must send newer ones, "
            "or this clock is wrong."
        )


def _check_signer(chain: Chain, limits: SnpLimits) -> None:
    """A cloud's name in the limits is where the machine has to stand; a VCEK may be of a machine in anyone's cellar."""
    if limits.csp_id is None and chain.leaf.signer is not Signer.VCEK:
        raise ForbiddenLaunch("The evidence is signed with a cloud's key; the policy accepts a processor's own alone.")
    if limits.csp_id != chain.leaf.csp_id:
        raise ForbiddenLaunch("The evidence is not signed with the key of the cloud that the policy names.")


def _check_launch(report: Report, limits: SnpLimits) -> None:
    """The guest policy binds the firmware for the guest's life; a host chose it, and the report repeats it signed."""
    if report.guest_policy & _POLICY_DEBUG:
        raise DebugMode("The guest may be debugged, so its host can read its memory; start it without debugging.")
    if report.guest_policy & _POLICY_MIGRATION:
        raise ForbiddenLaunch("The guest may be moved by a migration agent, which could copy it; start it without one.")
    if report.guest_policy >> _POLICY_BITS_KNOWN:
        # Of the bits that are known, all but those above (and CXL, which says where memory may be) narrow what a host
        # may do. Of those to come nobody can say that.
        raise ForbiddenLaunch("The guest was launched under a policy with bits that this release does not know.")
    # The second is implied by a policy without SMT, and is asked as well because it is what is at this moment.
    if not limits.smt_allowed and (report.guest_policy & _POLICY_SMT or report.platform_info & _PLATFORM_SMT):
        raise ForbiddenLaunch("The guest may share a core with a neighbour (SMT), which the policy forbids.")
    if limits.alias_checked and not report.platform_info & _PLATFORM_ALIAS_CHECKED:
        raise ForbiddenLaunch(
            "The processor did not say that its firmware has checked memory for aliases (BadRAM); update its firmware."
        )
    if report.vmpl > VMPL_MAX:
        raise ForbiddenLaunch("The evidence was asked for by the host, not by the guest.")
    if report.vmpl > limits.vmpl_max:
        raise ForbiddenLaunch(
            f"The evidence was asked for at privilege level {report.vmpl}; the policy allows 0 to {limits.vmpl_max}."
        )


def _check_tcb(report: Report, product: Product, limits: SnpLimits) -> None:
    """Every TCB must reach the floor, for each stands for an attack.

    REPORTED is what the operator chose to certify: the key is derived from it. CURRENT is what runs; COMMITTED is what
    the operator may go back to while the guest runs; LAUNCH is what measured the guest: firmware that was updated under
    a running guest does not undo what broken firmware let its host do when the guest was launched.
    """
    for name, raw in (
        ("reported", report.reported_tcb),
        ("current", report.current_tcb),
        ("committed", report.committed_tcb),
        ("launch", report.launch_tcb),
    ):
        if not tcb_of(product, raw).is_at_least(limits.tcb_min):
            raise OutdatedTcb(
                f"The {name} TCB of the evidence's processor is {raw.hex()}, older than the policy demands; "
                "its firmware must be updated."
            )


def _chip(report: Report) -> str | None:
    """A short name of the processor; None if its operator does not tell which it is."""
    if not any(report.chip_id):
        return None
    return hashlib.sha256(report.chip_id).hexdigest()[:_IDENTITY_CHARS]

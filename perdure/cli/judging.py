"""What the evidence verbs share: from a reader's files to a policy and hints; from a judgement to what is printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from perdure.cli.options import FILE
from perdure.errors import BadEvidence, ForbiddenLaunch, MalformedEvidence, Misuse, OutdatedTcb
from perdure.evidence import anchors, envelope
from perdure.evidence.collateral import Collateral
from perdure.evidence.limits import KINDS, TDX_STATUSES, VMPL_MAX, Limits, SnpLimits, Tcb, TdxLimits
from perdure.evidence.measurement import REGISTERS, Measurement
from perdure.evidence.nitro import cose, document
from perdure.evidence.nitro.document import Kind
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import BUILTIN_CERTIFICATES, Platform
from perdure.evidence.snp.certificates import KeyCertificate, certificate_table, chain_of, fitting
from perdure.evidence.snp.report import Report, tcb_of
from perdure.evidence.snp.report import parse as parse_report
from perdure.evidence.tdx import quote as tdx
from perdure.evidence.tpm import quote as tpm
from perdure.evidence.verified import VerifiedEvidence
from perdure.evidence.verifier import Verifier
from perdure.service.collateral import read_certificates, read_statement

_F = TypeVar("_F", bound=Callable[..., Any])
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DOCUMENTS: Final = {Kind.ENCLAVE: (Platform.NITRO, Platform.SIMULATED), Kind.NITROTPM: (Platform.NITROTPM,)}
_SNP_WIDEST: Final = SnpLimits(Tcb(0, 0, 0, 0), vmpl_max=VMPL_MAX, smt_allowed=True, alias_checked=False)
_WIDEST: Final[Mapping[Platform, Limits]] = {Platform.SEV_SNP: _SNP_WIDEST, Platform.TDX: TdxLimits(TDX_STATUSES)}
"""Limits that refuse nothing which a policy could accept; SNP's csp_id is still to be set."""


def hint_options(function: _F) -> _F:
    """--chain and --collateral; `read_collateral` makes of both what a verifier needs."""
    chain = click.option(
        "--chain",
        "chain_files",
        type=FILE,
        multiple=True,
        help="Certificates that lead to a root: DER, PEM, or the kernel's table (auxblob). Only hints, never trusted.",
    )
    intel = click.option(
        "--collateral",
        "collateral_files",
        type=FILE,
        multiple=True,
        help="Intel's statements about its processors, the JSON that `dcap-qvl` reads. Only hints, never trusted.",
    )
    return chain(intel(function))


@contextmanager
def named_errors(*, as_json: bool) -> Iterator[None]:
    """Begin the sentence about bad evidence with the error's class; with --json the object has it anyway."""
    try:
        yield
    except BadEvidence as error:
        if as_json:
            raise
        raise type(error)(f"{type(error).__name__}: {error}") from None


# Files ----------------------------------------------------------------------------------------------------


def read_collateral(chain_files: Iterable[Path], collateral_files: Iterable[Path]) -> Collateral:
    """The hints in these files. Raises Misuse for a file that is of none of the forms, before anything is judged."""
    certificates = tuple(der for path in chain_files for der in read_certificates(path))
    return Collateral(certificates, tuple(read_statement(path) for path in collateral_files))


def at_ms(text: str) -> int:
    """The time that --at names, Unix milliseconds. Raises Misuse."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise Misuse(f"--at {text!r:.80} is not a time with its zone in RFC 3339; write it as 2026-05-01T12:00:00Z.")
    return (time - _EPOCH) // timedelta(milliseconds=1)


def rfc3339(time_ms: int) -> str:
    """The same the other way round."""
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# What evidence says ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stated:
    """What evidence says of itself. Nothing in it is verified.

    `platforms` are those that write this form. `report` and `hints` are SEV-SNP's: the certificates that came along,
    and those of the reader.
    """

    platforms: tuple[Platform, ...]
    registers: Mapping[str, bytes]
    report: Report | None = None
    hints: tuple[bytes, ...] = ()


def read_stated(evidence: bytes, collateral: Collateral) -> Stated:
    """What evidence, in the form in which a disk sends it, says of itself. Raises BadEvidence."""
    if not envelope.is_envelope(evidence):
        payload = document.parse(cose.split(evidence).payload)
        return Stated(_DOCUMENTS[payload.kind], {f"pcr{index}": pcr for index, pcr in payload.pcrs.items()})
    opened = envelope.open_envelope(evidence)
    if opened.name == envelope.TPM:
        attest, _, pcrs, _ = opened.parts
        return Stated((Platform.TPM,), tpm.parse_attest(attest).registers(pcrs))
    provider, blob, extra = opened.parts
    if provider == envelope.TDX_PROVIDER:
        return Stated((Platform.TDX,), tdx.parse(blob).registers)
    if provider == envelope.SNP_PROVIDER:
        report = parse_report(blob)
        hints = (*certificate_table(extra), *collateral.certificates)
        return Stated((Platform.SEV_SNP,), {"measurement": report.measurement}, report, hints)
    raise MalformedEvidence(f"The evidence is by {provider[:40]!r}, which is no platform that is known.")


def require_form(stated: Stated, platform: Platform) -> None:
    """Return if this is a form that `platform` writes; raise MalformedEvidence otherwise."""
    if platform not in stated.platforms:
        raise MalformedEvidence(
            f"The file holds evidence in the form of {stated.platforms[0]}, not of {platform}; nothing was verified."
        )


# Policies -------------------------------------------------------------------------------------------------


def stated_policy(stated: Stated, platform: Platform, extra: Sequence[bytes] = ()) -> Policy:
    """The built-in roots of `platform` and the `extra` ones (DER), the widest limits, and the program that is stated.

    Raises Misuse if there is no root: then nobody could vouch for anything.
    """
    known = [certificate for kind, certificate in BUILTIN_CERTIFICATES.values() if kind is platform]
    limits = _WIDEST.get(platform)
    roots = [TrustedRoot.builtin(name, limits) for name, (kind, _) in BUILTIN_CERTIFICATES.items() if kind is platform]
    roots += _chain_roots([der for der in extra if der not in known], platform, limits)
    if not roots:
        raise Misuse(
            f"Platform {platform} has no root that is trusted by itself: name one with --policy, or give "
            "`perdure evidence verify` a --chain-root."
        )
    if stated.report is not None:
        key = snp_key(stated, Policy(tuple(roots), ()))
        limits = replace(_SNP_WIDEST, csp_id=None if key is None else key.csp_id)
        roots = [replace(root, limits=limits) for root in roots]
    needed = REGISTERS[platform].required
    registers = {name: value for name, value in stated.registers.items() if name in needed}
    # A quote may leave out what is needed. Then no program is allowed, and the verifier says why.
    allowed = roots if registers.keys() == needed.keys() else []
    return Policy(tuple(roots), tuple(Measurement.of(root.name, registers) for root in allowed))


def narrowed(policy: Policy, platform: Platform, extra: Sequence[bytes]) -> Policy:
    """The policy without other platforms' roots; its programs and limits count under the `extra` roots (DER) too.

    Raises Misuse if an extra root needs limits and the policy does not have the same for all roots of the platform.
    """
    roots = [root for root in policy.roots if root.platform is platform]
    known = {root.certificate for root in roots}
    new = [der for der in extra if der not in known]
    limits = {root.limits for root in roots}
    if new and platform in KINDS and len(limits) != 1:
        raise Misuse(f"The policy does not have one set of limits for {platform} that a --chain-root could have too.")
    added = _chain_roots(new, platform, limits.pop() if new and platform in KINDS else None)
    named = {root.name for root in roots}
    measured = [one for one in policy.measurements if one.root in named]
    moved = {Measurement(root.name, one.registers) for root in added for one in measured}
    return replace(policy, roots=(*roots, *added), measurements=(*measured, *moved))


def _chain_roots(ders: Iterable[bytes], platform: Platform, limits: Limits | None) -> list[TrustedRoot]:
    return [TrustedRoot(f"chain-root-{index}", platform, der, limits) for index, der in enumerate(dict.fromkeys(ders))]


def platform_of(evidence: bytes, stated: Stated) -> Platform:
    """The platform to judge by where nobody named one: a document is Nitro's only under AWS's own root."""
    if Platform.NITRO not in stated.platforms:
        return stated.platforms[0]
    root = document.parse(cose.split(evidence).payload).cabundle[0]
    return Platform.NITRO if root == anchors.AWS_NITRO_G1 else Platform.SIMULATED


def snp_key(stated: Stated, policy: Policy) -> KeyCertificate | None:
    """The key certificate that vouches for the stated report under a root of `policy`, None if there is none.

    A time at which it does is not asked for. Raises MissingCollateral.
    """
    assert stated.report is not None
    for leaf in fitting(stated.hints, stated.report):
        try:
            chain_of(leaf, stated.hints, policy)
            stated.report.verify(leaf.key)
        except BadEvidence:
            continue
        return leaf
    return None


# Limits that the evidence would pass ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judgement:
    """Evidence that was verified, and all that it was verified with."""

    evidence: bytes
    stated: Stated
    policy: Policy
    collateral: Collateral
    at_ms: int

    def passes(self, platform: Platform, limits: Limits) -> bool:
        """Whether it would have been under these limits too."""
        roots = tuple(replace(root, limits=limits) if root.platform is platform else root for root in self.policy.roots)
        try:
            Verifier(replace(self.policy, roots=roots), self.collateral).read(self.evidence, self.at_ms)
        except (OutdatedTcb, ForbiddenLaunch):
            return False
        return True

    def limits(self) -> dict[str, Any] | None:
        """What the evidence has where a policy sets limits, None where its platform has none of them."""
        if self.stated.report is not None:
            return self._snp(self.stated.report)
        if Platform.TDX in self.stated.platforms:
            return {"statuses": [status for status in TDX_STATUSES if self._needs(status)]}
        return None

    def _needs(self, status: str) -> bool:
        """Whether a policy must accept this status of Intel's: it is that of one of the platform's parts."""
        others = tuple(one for one in TDX_STATUSES if one != status)
        return not self.passes(Platform.TDX, TdxLimits(others))

    def _snp(self, report: Report) -> dict[str, Any]:
        key = snp_key(self.stated, self.policy)
        assert key is not None, "the evidence was verified"
        widest = replace(_SNP_WIDEST, csp_id=key.csp_id)
        tcbs = {
            "reported": report.reported_tcb,
            "current": report.current_tcb,
            "committed": report.committed_tcb,
            "launch": report.launch_tcb,
        }
        return {
            "tcb": {name: asdict(tcb_of(key.product, raw)) for name, raw in tcbs.items()},
            "vmpl": report.vmpl,
            "smt": not self.passes(Platform.SEV_SNP, replace(widest, smt_allowed=False)),
            "alias_checked": self.passes(Platform.SEV_SNP, replace(widest, alias_checked=True)),
            "csp_id": key.csp_id,
        }


# What is printed ------------------------------------------------------------------------------------------


def to_json(verified: VerifiedEvidence, limits: Mapping[str, Any] | None, *, is_checked: bool) -> dict[str, Any]:
    """What is proved, for programs. `is_checked`: whether a policy said which program and limits are right."""
    registers = sorted(verified.measurement.items(), key=lambda item: (len(item[0]), item[0]))
    return {
        "platform": verified.platform.value,
        "root": verified.root,
        "measurement": {name: value.hex() for name, value in registers},
        "measurement_checked": is_checked,
        "limits": limits,
        "limits_checked": None if limits is None else is_checked,
        "report_data": _hexadecimal(verified.report_data),
        "nonce": _hexadecimal(verified.nonce),
        "public_key": _hexadecimal(verified.public_key),
        "module_id": verified.module_id,
        "host": verified.host,
        "time": None if verified.time_ms is None else rfc3339(verified.time_ms),
        "time_ms": verified.time_ms,
        "not_after": rfc3339(verified.not_after_ms),
        "not_after_ms": verified.not_after_ms,
    }


def _hexadecimal(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def lines(value: Mapping[str, Any]) -> str:
    """The same for people: a line for each value, aligned."""
    pairs = list(_flat(value))
    width = max(len(key) for key, _ in pairs)
    return "\n".join(f"{key:{width}}  {shown}" for key, shown in pairs)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _shown(item)


def _shown(item: object) -> str:
    if item is None:
        return "-"
    if isinstance(item, bool):
        return "yes" if item else "no"
    return ", ".join(map(str, item)) if isinstance(item, list) else str(item)

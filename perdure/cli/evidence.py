"""`perdure evidence`: judge by hand what hardware says, ask a running disk for it, and join policies."""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from perdure.cli import judging, output, receipt
from perdure.cli.options import FILE, verb
from perdure.disk.wire import DISK_SECTOR_BYTES
from perdure.errors import Clone, Misuse, WrongCommitment
from perdure.evidence import envelope
from perdure.evidence.policy import SEATS_MAX, Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.verified import COMMITMENT_BYTES, TPM_REPORT_DATA_BYTES, VerifiedEvidence
from perdure.evidence.verifier import Verifier
from perdure.service import asking
from perdure.service.site import artefacts

QUESTIONS_MAX: Final = 10_000
_DOCUMENTS: Final = (Platform.NITRO, Platform.SIMULATED, Platform.NITROTPM)


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @cli.group("evidence")
    def evidence() -> None:
        """Check hardware evidence."""

    _register_verify(evidence)
    _register_ask(evidence)
    _register_merge(evidence)
    receipt.register(evidence)


# verify ---------------------------------------------------------------------------------------------------


def _register_verify(evidence: click.Group) -> None:
    @verb(
        evidence,
        "verify",
        "perdure evidence verify --platform nitro --at 2026-05-01T12:00:00Z --policy policy.json document.cbor",
    )
    @click.option(
        "--platform", required=True, type=click.Choice([kind.value for kind in Platform]), help="Whose format."
    )
    @click.option(
        "--at", required=True, metavar="TIME", help="The time to judge at, RFC 3339, as 2026-05-01T12:00:00Z."
    )
    @click.option("--policy", "policy_file", type=FILE, help="What must be running, and under which roots.")
    @click.option(
        "--chain-root", "root_files", type=FILE, multiple=True, help="Trust this root certificate (DER or PEM) too."
    )
    @judging.hint_options
    @click.option("--report-data", metavar="HEX", help="What it must commit to: 64 bytes; of a TPM 32 will do.")
    @click.option("--nonce", metavar="HEX", help="The nonce that a document of AWS must carry besides.")
    @click.option("--signature", "signature_file", type=FILE, help="For a TPM's TPMS_ATTEST: its TPMT_SIGNATURE.")
    @click.option("--pcrs", "pcrs_file", type=FILE, help="For a TPM's TPMS_ATTEST: the quoted PCRs, ascending.")
    @click.argument("file", type=FILE)
    def verify(
        platform: str,
        at: str,
        policy_file: Path | None,
        root_files: tuple[Path, ...],
        chain_files: tuple[Path, ...],
        collateral_files: tuple[Path, ...],
        report_data: str | None,
        nonce: str | None,
        signature_file: Path | None,
        pcrs_file: Path | None,
        file: Path,
        as_json: bool,
    ) -> int:
        """Verify evidence as of a time, and print what it proves, as JSON. Exit code 0 only if everything holds.

        FILE is what the hardware made (a document of Nitro or NitroTPM, an SEV-SNP report, a TDX quote, a TPM's
        TPMS_ATTEST) or what a disk sent, from `perdure evidence ask`.

        Without --policy any program is accepted, with whatever firmware and launch: measurement and limits are for
        you to compare. Debugging is refused all the same.
        """
        kind, at_ms = Platform(platform), judging.at_ms(at)
        wanted = _Wanted(
            None if report_data is None else _report_data(report_data, kind),
            None if nonce is None else _nonce(nonce, kind),
        )
        data = _sealed(file, kind, signature_file, pcrs_file)
        roots = [artefacts.read_certificate(path) for path in root_files]
        collateral = judging.read_collateral(chain_files, collateral_files)
        given = None if policy_file is None else artefacts.read_policy(policy_file)
        with judging.named_errors(as_json=as_json):
            stated = judging.read_stated(data, collateral)
            judging.require_form(stated, kind)
            if given is None:
                policy = judging.stated_policy(stated, kind, roots)
            else:
                policy = judging.narrowed(given, kind, roots)
            verified = Verifier(policy, collateral).read(data, at_ms)
            wanted.expect(verified)
            limits = judging.Judgement(data, stated, policy, collateral, at_ms).limits()
        value = judging.to_json(verified, limits, is_checked=given is not None)
        value["report_data_checked"] = wanted.report_data is not None
        output.result(value, "", as_json=True)
        return 0


def _sealed(file: Path, platform: Platform, signature_file: Path | None, pcrs_file: Path | None) -> bytes:
    """The evidence in the form in which a disk sends it; raw evidence is put into its envelope."""
    data = artefacts.read_bounded(file, "evidence")
    is_quote = platform is Platform.TPM and not envelope.is_envelope(data)
    if is_quote:
        if signature_file is None or pcrs_file is None:
            raise Misuse("A TPM's quote is three files: name --signature and --pcrs too; nothing was verified.")
        signature = artefacts.read_bounded(signature_file, "signature")
        return envelope.seal(envelope.TPM, data, signature, artefacts.read_bounded(pcrs_file, "file of PCRs"), b"")
    if signature_file is not None or pcrs_file is not None:
        raise Misuse("--signature and --pcrs belong to a TPM's TPMS_ATTEST, which this is not; nothing was verified.")
    providers = {Platform.SEV_SNP: envelope.SNP_PROVIDER, Platform.TDX: envelope.TDX_PROVIDER}
    if platform in providers and not envelope.is_envelope(data):
        return envelope.seal(envelope.TSM, providers[platform], data, b"")
    return data


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the reader says that the evidence must carry; None asks for nothing."""

    report_data: bytes | None
    nonce: bytes | None

    def expect(self, verified: VerifiedEvidence) -> None:
        """Raise WrongCommitment unless it does; takes the same time wherever the bytes differ."""
        for what, wanted, found in (
            ("report data", self.report_data, verified.report_data),
            ("nonce", self.nonce, verified.nonce),
        ):
            if wanted is not None and (found is None or not hmac.compare_digest(wanted, found)):
                raise WrongCommitment(f"The evidence of {verified.module_id} is genuine, but it has another {what}.")


def _report_data(text: str, platform: Platform) -> bytes:
    """Of a document whatever it carries; elsewhere 64 bytes, of which a TPM takes the first 32."""
    data = _bytes(text)
    lengths = (COMMITMENT_BYTES, TPM_REPORT_DATA_BYTES) if platform is Platform.TPM else (COMMITMENT_BYTES,)
    if data is None or (platform not in _DOCUMENTS and len(data) not in lengths):
        raise Misuse(
            f"--report-data of platform {platform} is {' or '.join(map(str, lengths))} bytes in hexadecimal; "
            "nothing was verified."
        )
    return data[:TPM_REPORT_DATA_BYTES] if platform is Platform.TPM else data


def _nonce(text: str, platform: Platform) -> bytes:
    data = _bytes(text)
    if data is None or platform not in _DOCUMENTS:
        raise Misuse("--nonce is hexadecimal, and only AWS's documents have one; nothing was verified.")
    return data


def _bytes(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


# ask ------------------------------------------------------------------------------------------------------


def _register_ask(evidence: click.Group) -> None:
    @verb(
        evidence,
        "ask",
        "perdure evidence ask tcp:10.0.0.7:7001 --authority-key-file authority.key -o evidence.bin --count 100",
    )
    @click.argument("address")
    @click.option("--authority-key-file", required=True, type=FILE, help="The key that the disk obeys; it signs.")
    @click.option("-o", "--output", "output_file", type=FILE, help="Where the evidence goes, good or bad.")
    @click.option(
        "--count", type=click.IntRange(1, QUESTIONS_MAX), help="Ask as often again, and say how long it took."
    )
    @click.option("--policy", "policy_file", type=FILE, help="What must be running, and under which roots.")
    @click.option(
        "--chain-root",
        "root_files",
        type=FILE,
        multiple=True,
        help="Without --policy: trust this root (DER or PEM) too.",
    )
    @judging.hint_options
    def ask(
        address: str,
        authority_key_file: Path,
        output_file: Path | None,
        count: int | None,
        policy_file: Path | None,
        root_files: tuple[Path, ...],
        chain_files: tuple[Path, ...],
        collateral_files: tuple[Path, ...],
        as_json: bool,
    ) -> int:
        """Ask a running disk for fresh evidence, and print what it proves. Exit code 0 only if everything holds.

        The question changes nothing on the disk, whether or not it is in an array. Times are from sending the signed
        question to having the whole answer, on a connection that is open.

        Without --policy the roots that are built in or given are trusted, and any program is accepted, with whatever
        firmware and launch: measurement and limits are for you to compare.
        """
        authority = artefacts.read_key(authority_key_file)
        given = None if policy_file is None else artefacts.read_policy(policy_file)
        if given is not None and root_files:
            raise Misuse("--policy says which roots are trusted, so --chain-root cannot go with it; nothing was asked.")
        roots = [artefacts.read_certificate(path) for path in root_files]
        collateral = judging.read_collateral(chain_files, collateral_files)
        with judging.named_errors(as_json=as_json):
            first, *others = asyncio.run(asking.ask(address, authority, count=1 + (count or 0)))
            data = first.answer.document
            if output_file is not None:
                artefacts.write_atomic(output_file, data, 0o644)
            stated = judging.read_stated(data, collateral)
            policy = judging.stated_policy(stated, judging.platform_of(data, stated), roots) if given is None else given
            verifier = Verifier(policy, collateral)
            verified = verifier.verify(data, first.commitment, first.at_ms)
            for one in others:
                if one.answer.instance != first.answer.instance:
                    raise Clone(f"At {address} several disks answer in turn: somebody puts one in place of another.")
                verifier.verify(one.answer.document, one.commitment, one.at_ms)
            limits = judging.Judgement(data, stated, policy, collateral, first.at_ms).limits()
        value = {
            "address": address,
            "instance": first.answer.instance.hex(),
            "epoch": first.answer.epoch.hex(),
            "seq": first.answer.seq,
            "size_bytes": first.answer.size * DISK_SECTOR_BYTES,
            **judging.to_json(verified, limits, is_checked=given is not None),
            "evidence_bytes": len(data),
            "output": None if output_file is None else str(output_file),
            "latency": _latency([one.took_ms for one in others]),
        }
        output.result(value, judging.lines(value), as_json=as_json)
        return 0


def _latency(took_ms: Sequence[float]) -> dict[str, Any] | None:
    if not took_ms:
        return None
    ordered = sorted(took_ms)
    return {
        "count": len(ordered),
        **{f"p{part}_ms": round(ordered[math.ceil(part / 100 * len(ordered)) - 1], 3) for part in (50, 99)},
    }


# merge-policies -------------------------------------------------------------------------------------------


def _register_merge(evidence: click.Group) -> None:
    seats = click.IntRange(1, SEATS_MAX)

    @verb(
        evidence,
        "merge-policies",
        "perdure evidence merge-policies nitro.json sev-snp.json tdx.json -o policy.json --seats-per-root-max 1",
    )
    @click.argument("files", type=FILE, nargs=-1, required=True)
    @click.option("-o", "--output", "output_file", required=True, type=FILE, help="Where the joint policy goes.")
    @click.option("--seats-per-root-max", type=seats, help="How many disks of an array may hang on one root.")
    @click.option("--seats-per-domain-max", type=seats, help="How many disks of an array may be on one host or zone.")
    @click.option(
        "--acknowledgement-chains", is_flag=True, help="Allow FLUSHes to rest on chains: faster, and weaker (see docs)."
    )
    def merge_policies(
        files: tuple[Path, ...],
        output_file: Path,
        seats_per_root_max: int | None,
        seats_per_domain_max: int | None,
        acknowledgement_chains: bool,
        as_json: bool,
    ) -> int:
        """Join policies into one, for an array over several platforms: it accepts what any of them accepts.

        Clocks may differ by the least that any of them allows. Chains are allowed if all of them allow them, or you do.
        """
        policies = {path: artefacts.read_policy(path) for path in files}
        try:
            merged = Policy(
                roots=_union_of_roots(policies),
                measurements=tuple({one for policy in policies.values() for one in policy.measurements}),
                skew_ms_max=min(policy.skew_ms_max for policy in policies.values()),
                seats_per_root_max=_agreed(policies, "seats_per_root_max", seats_per_root_max),
                seats_per_domain_max=_agreed(policies, "seats_per_domain_max", seats_per_domain_max),
                acknowledgement_chains=acknowledgement_chains
                or all(policy.acknowledgement_chains for policy in policies.values()),
            )
        except Misuse as error:
            raise Misuse(f"{error} Nothing was written.") from None
        artefacts.write_atomic(output_file, merged.to_json(), 0o644)
        value = {
            "policy": str(output_file),
            "digest": merged.digest().hex(),
            "roots": [root.name for root in merged.roots],
            "measurements": len(merged.measurements),
            "skew_ms_max": merged.skew_ms_max,
            "seats_per_root_max": merged.seats_per_root_max,
            "seats_per_domain_max": merged.seats_per_domain_max,
            "acknowledgement_chains": merged.acknowledgement_chains,
        }
        output.result(value, judging.lines(value), as_json=as_json)
        return 0


def _union_of_roots(policies: dict[Path, Policy]) -> tuple[TrustedRoot, ...]:
    """All roots, equal ones once. Raises Misuse where two policies mean different things by one name or certificate."""
    found: list[tuple[TrustedRoot, Path]] = []
    for path, policy in policies.items():
        for root in policy.roots:
            alike = [(other, where) for other, where in found if _is_same_root(root, other)]
            for other, where in alike:
                if other != root:
                    is_named_alike = (other.name, other.certificate) == (root.name, root.certificate)
                    what = "the platform or limits" if is_named_alike else "the name or certificate"
                    raise Misuse(f"{where} and {path} differ in {what} of root {root.name}; make them agree.")
            if not alike:
                found.append((root, path))
    return tuple(root for root, _ in found)


def _is_same_root(one: TrustedRoot, other: TrustedRoot) -> bool:
    return one.name == other.name or (one.platform, one.certificate) == (other.platform, other.certificate)


def _agreed(policies: dict[Path, Policy], name: str, wanted: int | None) -> int | None:
    """The number of seats that was asked for, else the one in all policies. Raises Misuse."""
    if wanted is not None:
        return wanted
    first, *others = {getattr(policy, name): None for policy in policies.values()}
    if others:
        raise Misuse(f"The policies differ in {name}; say what it shall be with --{name.replace('_', '-')}.")
    assert first is None or isinstance(first, int)
    return first

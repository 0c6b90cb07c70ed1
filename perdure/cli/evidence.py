"""`evidence verify` and `evidence verify-receipt`: check by hand what hardware said, with no array at hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from perdure.array.receipt import Attest, Erased, Receipt, judge
from perdure.cli import output
from perdure.cli.options import FILE, verb
from perdure.errors import Misuse, Unproved, WrongCommitment
from perdure.evidence import cose, document, nitro
from perdure.evidence.policy import Measurement, Policy, TrustedRoot
from perdure.evidence.roots import BUILTIN_CERTIFICATES, Platform
from perdure.evidence.verified import VerifiedEvidence
from perdure.service import artefacts

RECEIPT_BYTES_MAX: Final = 1 << 28
"""A document for each MiB of a disk that was erased: enough for a range of some ten GiB."""


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @cli.group("evidence")
    def evidence() -> None:
        """Check hardware evidence."""

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
    @click.option("--chain-root", type=FILE, multiple=True, help="Trust this root certificate (DER or PEM) too.")
    @click.argument("file", type=FILE)
    def verify(
        platform: str, at: str, policy_file: Path | None, chain_root: tuple[Path, ...], file: Path, as_json: bool
    ) -> int:
        """Verify a document as of a time, and print what it proves. Exit code 0 only if everything holds.

        Without --policy any program is accepted, and the measurements are for you to compare.
        """
        data = artefacts.read_bounded(file, "document")
        roots = tuple(_root(path, Platform(platform), index) for index, path in enumerate(chain_root))
        if policy_file is None:
            policy = _any_program(data, Platform(platform), roots)
        else:
            policy = _narrowed(artefacts.read_policy(policy_file), Platform(platform), roots)
        verified = nitro.verify(data, policy=policy, at_ms=_time_ms(at))
        value = _to_json(verified, is_measured=policy_file is not None)
        output.result(value, "\n".join(f"{key:20} {shown}" for key, shown in _flat(value)), as_json=as_json)
        return 0

    @verb(
        evidence,
        "verify-receipt",
        "perdure evidence verify-receipt --policy policy.json --array-id 9f86d081... receipt.json",
    )
    @click.option("--policy", "policy_file", type=FILE, required=True, help="The array's evidence policy.")
    @click.option("--array-id", metavar="HEX", help="The array that it must be about.")
    @click.argument("file", type=FILE)
    def verify_receipt(policy_file: Path, array_id: str | None, file: Path, as_json: bool) -> int:
        """Check an erase receipt offline, and print what it proves. Exit code 0 only if everything holds.

        Each document is judged at its own time, so whoever needs to know when looks at the times.
        """
        receipt = _receipt(file)
        policy = artefacts.read_policy(policy_file)
        _require_about(receipt, policy, array_id)
        erased = judge(receipt, _attest(policy))
        if not erased.is_beyond_recall:
            raise Unproved(
                f"{file} proves that no live disk holds the range, but dead ones of {len(erased.exposed_seats)} seats "
                "may: enough to bring it back, if their hosts kept them running."
            )
        value = _receipt_to_json(erased)
        output.result(value, _receipt_text(erased, value), as_json=as_json)
        return 0


def _receipt(file: Path) -> Receipt:
    data = artefacts.read_bounded(file, "receipt", bytes_max=RECEIPT_BYTES_MAX)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise Misuse(f"{file} is not JSON, so it is no erase receipt; nothing was verified.") from None
    return Receipt.from_json(value)


def _require_about(receipt: Receipt, policy: Policy, array_id: str | None) -> None:
    genesis = receipt.genesis
    if array_id is not None and array_id.lower() != genesis.array_id.hex():
        raise WrongCommitment(f"The receipt is about array {genesis.array_id.hex()}, not about {array_id:.64}.")
    if policy.digest() != genesis.policy_digest:
        raise Misuse("The policy is not the one that the receipt's array was created with; nothing was verified.")


def _attest(policy: Policy) -> Attest:
    chains = nitro.ChainCache()

    def attest(evidence: bytes, commitment: bytes) -> VerifiedEvidence:
        at_ms = nitro.document_time_ms(evidence)
        verified = nitro.verify(evidence, policy=policy, at_ms=at_ms, chains=chains)
        nitro.expect_report_data(verified, commitment)
        return verified

    return attest


def _receipt_to_json(erased: Erased) -> dict[str, Any]:
    receipt, genesis = erased.receipt, erased.receipt.genesis
    return {
        "array_id": receipt.array_id.hex(),
        "authority": genesis.authority.hex(),
        "offset": receipt.offset,
        "length": receipt.length,
        "entry": receipt.entry,
        "oldest_version": receipt.oldest,
        "witnesses": [
            {
                "seat": witness.seat,
                "instance": witness.instance.hex(),
                "platform": str(witness.attested.platform),
                "module_id": witness.attested.module_id,
                "time": _rfc3339(witness.attested.time_ms),
            }
            for witness in erased.witnesses
        ],
        "departed": [
            {"seat": gone.seat, "instance": gone.instance.hex(), "may_hold": gone.last >= receipt.oldest > 0}
            for gone in erased.departed
        ],
        "seats_exposed": len(erased.exposed_seats),
        "seats_needed": genesis.geometry.k,
        "beyond_recall": erased.is_beyond_recall,
    }


def _receipt_text(erased: Erased, value: dict[str, Any]) -> str:
    receipt, exposed = erased.receipt, len(erased.exposed_seats)
    lines = [
        f"Erased: {receipt.length} bytes from {receipt.offset} of array {value['array_id']}.",
        f"{len(erased.witnesses)} disks, all members, proved that they hold nothing of it:",
        *(
            f"  seat {one['seat']}  {one['instance'][:16]}  {one['time']}  {one['module_id']}"
            for one in value["witnesses"]
        ),
        f"Dead disks of {exposed} seats may hold fragments of it; it takes {value['seats_needed']} to bring it back.",
        "What was written there after these times is another matter, and so is what was recorded on the way.",
    ]
    return "\n".join(lines)


def _time_ms(text: str) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise Misuse(f"--at {text!r:.80} is not a time with its zone in RFC 3339; write it as 2026-05-01T12:00:00Z.")
    return int(time.timestamp() * 1000)


def _root(path: Path, platform: Platform, index: int) -> TrustedRoot:
    data = artefacts.read_bounded(path, "certificate")
    try:
        is_pem = data.lstrip().startswith(b"-----BEGIN")
        certificate = x509.load_pem_x509_certificate(data) if is_pem else x509.load_der_x509_certificate(data)
    except ValueError:
        raise Misuse(f"{path} is not an X.509 certificate, neither DER nor PEM; nothing was verified.") from None
    return TrustedRoot(f"chain-root-{index}", platform, certificate.public_bytes(Encoding.DER))


def _any_program(data: bytes, platform: Platform, roots: tuple[TrustedRoot, ...]) -> Policy:
    """The built-in and the named roots, and whatever program the document says; its signature is still checked."""
    known = {root.certificate for root in roots}
    builtin = (TrustedRoot.builtin(name) for name in BUILTIN_CERTIFICATES)
    roots += tuple(root for root in builtin if root.platform is platform and root.certificate not in known)
    if not roots:
        raise Misuse(
            f"Platform {platform} has no root that is trusted by itself; name one with --chain-root or --policy."
        )
    pcrs = document.parse(cose.split(data).payload).pcrs
    return Policy(roots, tuple(Measurement(root.name, pcrs[0], pcrs[1], pcrs[2]) for root in roots))


def _narrowed(policy: Policy, platform: Platform, extra: tuple[TrustedRoot, ...]) -> Policy:
    """The policy without other platforms' roots; its programs count under the extra roots too."""
    known = {root.certificate for root in policy.roots}
    roots = tuple(root for root in policy.roots if root.platform is platform)
    named = {root.name for root in roots}
    measured = [measurement for measurement in policy.measurements if measurement.root in named]
    extra = tuple(root for root in extra if root.certificate not in known)
    moved = {Measurement(root.name, m.pcr0, m.pcr1, m.pcr2) for root in extra for m in policy.measurements}
    return Policy(roots + extra, (*measured, *moved), policy.skew_ms_max)


def _to_json(verified: VerifiedEvidence, *, is_measured: bool) -> dict[str, Any]:
    pcrs = verified.measurement
    named = {"pcr0": pcrs.pcr0, "pcr1": pcrs.pcr1, "pcr2": pcrs.pcr2, "pcr4": pcrs.pcr4, "pcr8": pcrs.pcr8}
    return {
        "platform": verified.platform.value,
        "root": verified.root,
        "measurement": {name: None if pcr is None else pcr.hex() for name, pcr in named.items()},
        "measurement_checked": is_measured,
        "report_data": None if verified.report_data is None else verified.report_data.hex(),
        "module_id": verified.module_id,
        "time": _rfc3339(verified.time_ms),
        "time_ms": verified.time_ms,
        "leaf_not_after": _rfc3339(verified.leaf_not_after_ms),
        "leaf_not_after_ms": verified.leaf_not_after_ms,
    }


def _rfc3339(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _flat(value: dict[str, Any]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, item in value.items():
        pairs += list(item.items()) if isinstance(item, dict) else [(key, item)]
    return pairs

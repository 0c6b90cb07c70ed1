"""`evidence verify`: check a hardware document by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from perdure.cli import output
from perdure.cli.options import FILE, verb
from perdure.errors import Misuse
from perdure.evidence import cose, document, nitro
from perdure.evidence.policy import Measurement, Policy, TrustedRoot
from perdure.evidence.roots import BUILTIN_CERTIFICATES, Platform
from perdure.evidence.verified import VerifiedEvidence
from perdure.service import artefacts


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

"""`evidence verify-receipt`: check an erase receipt, of a range or of a key, by hand, with no array at hand."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import click

from perdure.array.receipt import Attest, Erased, Receipt, judge
from perdure.cli import judging, key_receipt, output
from perdure.cli.options import FILE, verb
from perdure.errors import Misuse, Unproved, WrongCommitment
from perdure.evidence.policy import Policy
from perdure.evidence.verified import VerifiedEvidence
from perdure.evidence.verifier import Verifier, stated_time_ms
from perdure.keystore.receipt import FORMAT as KEY_FORMAT
from perdure.keystore.receipt import ErasedKey, KeyReceipt
from perdure.keystore.receipt import judge as judge_key
from perdure.service.site import artefacts

RECEIPT_BYTES_MAX: Final = 1 << 28
"""A document for each MiB of a disk that was erased: enough for a range of some ten GiB."""
_WHAT_IT_IS_NOT: Final = "What was written there later is another matter, and so is what was recorded on the way."


def register(evidence: click.Group) -> None:
    """Add the verb to `perdure evidence`."""

    @verb(
        evidence,
        "verify-receipt",
        "perdure evidence verify-receipt --policy policy.json --array-id 9f86d081... receipt.json",
    )
    @click.option("--policy", "policy_file", type=FILE, required=True, help="The array's evidence policy.")
    @click.option("--array-id", metavar="HEX", help="The array that it must be about.")
    @click.option("--public-key", metavar="HEX", help="The key that it must be about: of receipts for keys alone.")
    @click.option(
        "--at", metavar="TIME", help="The time, RFC 3339, to judge evidence at that states none (default: now)."
    )
    @judging.hint_options
    @click.argument("file", type=FILE)
    def verify_receipt(
        policy_file: Path,
        array_id: str | None,
        public_key: str | None,
        at: str | None,
        chain_files: tuple[Path, ...],
        collateral_files: tuple[Path, ...],
        file: Path,
        as_json: bool,
    ) -> int:
        """Check an erase receipt offline, and print what it proves. Exit code 0 only if everything holds.

        Receipts of `perdure erase` and those of a key store, which name the key that was erased.

        Evidence that states its time is judged at that time, so whoever needs to know when looks at the times. On
        other platforms it states none, and is judged at the time --at: the receipt does not prove when it was made.
        """
        at_ms = time.time_ns() // 1_000_000 if at is None else judging.at_ms(at)
        receipt = _receipt(file)
        policy = artefacts.read_policy(policy_file)
        _require_about(receipt if isinstance(receipt, Receipt) else receipt.erasure, policy, array_id)
        _require_key(receipt, public_key)
        verifier = Verifier(policy, judging.read_collateral(chain_files, collateral_files))
        found: Erased | ErasedKey
        with judging.named_errors(as_json=as_json):
            attest = _attest(verifier, at_ms)
            found = judge(receipt, attest) if isinstance(receipt, Receipt) else judge_key(receipt, attest)
        if not found.is_beyond_recall:
            raise Unproved(
                f"{file} proves that no live disk holds the range, but dead ones of {len(found.exposed_seats)} seats "
                "may: enough to bring it back, if their hosts kept them running."
            )
        value, text = _shown(found, at_ms)
        is_key = isinstance(found, ErasedKey)
        unnamed = _unnamed(is_array_named=array_id is not None, is_key_named=public_key is not None or not is_key)
        output.result(value, "\n".join((text, *unnamed)), as_json=as_json)
        return 0


def _shown(found: Erased | ErasedKey, at_ms: int) -> tuple[dict[str, Any], str]:
    """What a receipt proves, as JSON and as text."""
    if isinstance(found, ErasedKey):
        value = _to_json(found.erased, at_ms)
        return key_receipt.to_json(found, value), key_receipt.text(found, _text(found.erased, value))
    value = _to_json(found, at_ms)
    return value, "\n".join((_text(found, value), _of_the_dead(found, value), _WHAT_IT_IS_NOT))


def _unnamed(*, is_array_named: bool, is_key_named: bool) -> list[str]:
    """What whoever verifies has yet to compare by eye: one authority may have many arrays and keys under one policy."""
    array = "No --array-id was given: compare the array above with yours. The same key and policy may have others."
    key = "No --public-key was given: compare the key above with the one that must be gone."
    return [sentence for sentence, is_named in ((array, is_array_named), (key, is_key_named)) if not is_named]


def _receipt(file: Path) -> Receipt | KeyReceipt:
    data = artefacts.read_bounded(file, "receipt", bytes_max=RECEIPT_BYTES_MAX)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise Misuse(f"{file} is not JSON, so it is no erase receipt; nothing was verified.") from None
    if isinstance(value, dict) and value.get("format") == KEY_FORMAT:
        return KeyReceipt.from_json(value)
    return Receipt.from_json(value)


def _require_about(receipt: Receipt, policy: Policy, array_id: str | None) -> None:
    genesis = receipt.genesis
    if array_id is not None and array_id.lower() != genesis.array_id.hex():
        raise WrongCommitment(f"The receipt is about array {genesis.array_id.hex()}, not about {array_id:.64}.")
    if policy.digest() != genesis.policy_digest:
        raise Misuse("The policy is not the one that the receipt's array was created with; nothing was verified.")


def _require_key(receipt: Receipt | KeyReceipt, public_key: str | None) -> None:
    found = "" if isinstance(receipt, Receipt) else receipt.public_key.hex()
    if public_key is not None and public_key.lower() != found:
        about = f"the key {found}" if found else "a range, and names no key"
        raise WrongCommitment(f"The receipt is about {about}, not about the key {public_key:.66}.")


def _attest(verifier: Verifier, at_ms: int) -> Attest:
    def attest(evidence: bytes, commitment: bytes) -> VerifiedEvidence:
        stated_ms = stated_time_ms(evidence)
        return verifier.verify(evidence, commitment, at_ms if stated_ms is None else stated_ms)

    return attest


def _to_json(erased: Erased, at_ms: int) -> dict[str, Any]:
    receipt, genesis = erased.receipt, erased.receipt.genesis
    times = {witness.instance: witness.attested.time_ms for witness in erased.witnesses}
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
                "time": None if (time_ms := times[witness.instance]) is None else judging.rfc3339(time_ms),
            }
            for witness in erased.witnesses
        ],
        "judged_at": judging.rfc3339(at_ms) if None in times.values() else None,
        "departed": [
            {"seat": gone.seat, "instance": gone.instance.hex(), "may_hold": gone.last >= receipt.oldest > 0}
            for gone in erased.departed
        ],
        "seats_exposed": len(erased.exposed_seats),
        "seats_needed": genesis.geometry.k,
        "beyond_recall": erased.is_beyond_recall,
    }


def _text(erased: Erased, value: dict[str, Any]) -> str:
    """Which range was erased, and who proved it when."""
    receipt, judged_at = erased.receipt, value["judged_at"]
    lines = [
        f"Erased: {receipt.length} bytes from {receipt.offset} of array {value['array_id']}.",
        f"{len(erased.witnesses)} disks, all members, proved that they hold nothing of it:",
        *(
            f"  seat {one['seat']}  {one['instance'][:16]}  {one['time'] or 'no time stated':24}  {one['module_id']}"
            for one in value["witnesses"]
        ),
    ]
    if judged_at is not None:
        lines.append(f"Evidence without a time was judged as of {judged_at}; when it was made is not proved by it.")
    return "\n".join(lines)


def _of_the_dead(erased: Erased, value: dict[str, Any]) -> str:
    exposed = len(erased.exposed_seats)
    return f"Dead disks of {exposed} seats may hold fragments of it; it takes {value['seats_needed']} to bring it back."

"""How `evidence verify-receipt` shows what the receipt for an erased key proves."""

from __future__ import annotations

from typing import Any

from perdure.keystore.receipt import ErasedKey


def to_json(found: ErasedKey, erasure: dict[str, Any]) -> dict[str, Any]:
    """What is known of the erasure, with the key that it erased."""
    receipt, holders = found.receipt, {gone.instance for gone in found.holders}
    return {
        **erasure,
        "store": receipt.place.store,
        "slot": receipt.place.slot,
        "version": receipt.version,
        "public_key": receipt.public_key.hex(),
        "since_entry": receipt.since,
        "departed": [
            {"seat": gone.seat, "instance": gone.instance.hex(), "may_hold": gone.instance in holders}
            for gone in found.erased.departed
        ],
        "seats_exposed": len(found.exposed_seats),
        "beyond_recall": found.is_beyond_recall,
    }


def text(found: ErasedKey, erasure: str) -> str:
    """The same in sentences; `erasure` says which range was erased, and who proved it when."""
    receipt = found.receipt
    return "\n".join(
        (
            f"The key in slot {receipt.place.slot}, version {receipt.version}, is erased. Its public key was",
            f"  {receipt.public_key.hex()}",
            erasure,
            *_dead(found),
            "That this key stood in that range, and nowhere else, is the word of the program that signed the receipt.",
            "Whoever copied the key while it was in use has it, and so has whoever recorded the links to enough disks",
            "and gets the authority's private key.",
        )
    )


def _dead(found: ErasedKey) -> list[str]:
    if not found.holders:
        return ["No dead disk was there since the key was stored, so none can hold a fragment of it."]
    needed = found.receipt.erasure.genesis.geometry.k
    return [
        "These disks are dead to the array, and may hold fragments of it if their hosts kept them running:",
        *(f"  seat {gone.seat}  {gone.instance.hex()[:16]}" for gone in found.holders),
        f"Of any one sealing of it they hold the fragments of {len(found.exposed_seats)} seats at most. It takes those "
        f"of {needed} to open it,",
        "even with the authority's private key: fewer say nothing.",
    ]

"""Receipts for erased keys: an erase receipt of the array, bound to slot, version and public key (spec 20.5).

`judge` checks one with nothing but itself and the means to check a hardware document. What is then proved by hardware
is that no member of the array holds anything of the slot's secret sector. That the key's secret stood there, since
when, and nowhere else, is the word of the main program that signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from perdure.array import receipt as array_receipt
from perdure.array.commands import Authority
from perdure.array.geometry import SECTOR_BYTES
from perdure.array.receipt import Attest, Erased, Receipt
from perdure.array.roster import Departed
from perdure.errors import Corrupt, Misuse
from perdure.keystore.slots import Place, Slot, is_public_key

FORMAT: Final = "perdure-key-receipt-1"
_TAG: Final = sha256(b"perdure/keystore/receipt/1").digest() * 2
_KEYS: Final = {"format", "store", "slot", "version", "public_key", "since", "erasure", "signature"}


@dataclass(frozen=True, slots=True)
class KeyReceipt:
    """That version `version` of a slot, the secret of `public_key`, was erased with `erasure`."""

    place: Place
    version: int
    public_key: bytes
    since: int
    """No journal entry with a lower number held a fragment of it."""
    erasure: Receipt
    signature: bytes
    """The authority's, over everything else."""

    @classmethod
    def signed(cls, authority: Authority, slot: Slot, erasure: Receipt) -> KeyReceipt:
        """The receipt for what `slot` holds or held."""
        fields = (slot.place, slot.version, slot.public_key, slot.since, erasure)
        return cls(*fields, authority.sign(cls(*fields, b"").digest()))

    def digest(self) -> bytes:
        """The 32 bytes that the authority signs: tagged SHA-256 of the JSON without the signature, keys sorted."""
        return array_receipt.signed_digest(_TAG, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """What a file holds."""
        return {
            "format": FORMAT,
            "store": self.place.store,
            "slot": self.place.slot,
            "version": self.version,
            "public_key": self.public_key.hex(),
            "since": self.since,
            "erasure": self.erasure.to_json(),
            "signature": self.signature.hex(),
        }

    @classmethod
    def from_json(cls, value: object) -> KeyReceipt:
        """What `to_json` made. Raises Misuse or Corrupt for anything else."""
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise Misuse(f"this is not a receipt for an erased key, of the format {FORMAT}")
        if value.keys() != _KEYS:
            raise _damaged()
        erasure = Receipt.from_json(value["erasure"])
        numbers = [value[key] for key in ("store", "slot", "version", "since")]
        if any(type(number) is not int or not 0 <= number < 1 << 63 for number in numbers):
            raise _damaged()
        try:
            public_key, signature = (bytes.fromhex(value[key]) for key in ("public_key", "signature"))
        except (TypeError, ValueError):
            raise _damaged() from None
        store, slot, version, since = numbers
        return cls(Place(store, slot), version, public_key, since, erasure, signature)


def _damaged() -> Corrupt:
    return Corrupt("the receipt is damaged: its fields are not those, or not of the shapes, that they must have")


@dataclass(frozen=True, slots=True)
class ErasedKey:
    """What a receipt for a key proves, once nothing is wrong with it."""

    receipt: KeyReceipt
    erased: Erased

    @property
    def holders(self) -> tuple[Departed, ...]:
        """The dead or absent instances that may hold a fragment of some sealing of the key, if they still run."""
        return tuple(gone for gone in self.erased.departed if gone.last >= self.receipt.since)

    @property
    def exposed_seats(self) -> frozenset[int]:
        """The seats whose fragments of one and the same sealing may stand on such instances.

        The array's own word where it erased something. Where nothing was left to erase, because an earlier receipt
        was lost on its way, all holders count: more than can be true, never less.
        """
        if self.receipt.erasure.oldest:
            return self.erased.exposed_seats
        return frozenset(gone.seat for gone in self.holders)

    @property
    def is_beyond_recall(self) -> bool:
        """Whether all departed disks together, and the authority's private key, do not bring the secret back."""
        return len(self.exposed_seats) < self.receipt.erasure.genesis.geometry.k


def judge(receipt: KeyReceipt, attest: Attest) -> ErasedKey:
    """Check all of `receipt` but the policy, which is inside `attest`.

    Raises what `perdure.array.receipt.judge` raises, and Corrupt when key and erasure do not belong together.
    """
    place, erasure = receipt.place, receipt.erasure
    authority, digest = erasure.genesis.authority, receipt.digest()
    array_receipt.require_signature(authority, digest, receipt.signature, "the receipt for the key")
    if (erasure.offset, erasure.length) != (place.secret_start, SECTOR_BYTES):
        raise Corrupt("the range that the receipt shows erased is not that of its slot's secret")
    if not receipt.version or not is_public_key(receipt.public_key):
        raise Corrupt("the receipt names no key: its version is 0, or its public key is not one of secp256k1")
    if not 0 < receipt.since <= erasure.entry or 0 < erasure.oldest < receipt.since:
        raise Corrupt("the receipt contradicts itself about when its key was stored")
    if not erasure.genesis.is_sealed:
        raise Corrupt("the receipt is of an array in the clear, where every disk holds a part that can be read")
    return ErasedKey(receipt, array_receipt.judge(erasure, attest))

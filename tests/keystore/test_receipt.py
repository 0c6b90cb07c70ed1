"""Receipts for erased keys: nothing in one can be changed, and none can be made of an erasure of something else."""

from __future__ import annotations

import dataclasses

import pytest

from perdure.array.commands import Authority
from perdure.array.genesis import Genesis
from perdure.array.geometry import SECTOR_BYTES, Run
from perdure.array.receipt import Receipt
from perdure.array.roster import Departed
from perdure.errors import Corrupt, Misuse
from perdure.keystore.receipt import ErasedKey, KeyReceipt, judge
from perdure.keystore.slots import Place, Slot, State
from tests.array.world import KEY
from tests.keystore.world import OFFSET, SimStore, attest, key

MINE = Authority(KEY)


@pytest.fixture(scope="module")
def erased() -> ErasedKey:
    world = SimStore(k=2, n=3)
    world.put(1, 1)
    return world.run(world.store.erase(1))


def _signed(erased: ErasedKey, **changes: object) -> KeyReceipt:
    """What somebody with the authority's key could sign: so nothing but the content is in the way."""
    one = erased.receipt
    fields = {"place": one.place, "version": one.version, "public_key": one.public_key, "since": one.since} | changes
    erasure = fields.pop("erasure", one.erasure)
    return KeyReceipt.signed(MINE, Slot(state=State.HELD, last_version=1, is_torn=False, **fields), erasure)  # type: ignore[arg-type]


def _refused(receipt: KeyReceipt) -> str:
    with pytest.raises(Corrupt) as caught:
        judge(receipt, attest)
    return str(caught.value)


def test_it_is_judged_as_it_was_made(erased: ErasedKey) -> None:
    assert judge(erased.receipt, attest) == erased
    assert judge(_signed(erased), attest) == erased
    assert (erased.receipt.erasure.offset, erased.receipt.erasure.length) == (OFFSET + 3 * SECTOR_BYTES, SECTOR_BYTES)


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"public_key": key(2)[1]}, {"since": 2}, {"place": Place(OFFSET, 2)}, {"signature": b""}],
)
def test_no_field_of_a_signed_receipt_can_be_changed(erased: ErasedKey, change: dict[str, object]) -> None:
    assert "did not sign the receipt for the key" in _refused(dataclasses.replace(erased.receipt, **change))


def test_the_erasure_cannot_be_exchanged(erased: ErasedKey) -> None:
    other = dataclasses.replace(erased.receipt.erasure, entry=erased.receipt.erasure.entry + 1)
    assert "did not sign" in _refused(dataclasses.replace(erased.receipt, erasure=other))
    assert "did not sign the receipt, or" in _refused(_signed(erased, erasure=other))


def test_another_authority_cannot_sign_it(erased: ErasedKey) -> None:
    one = erased.receipt
    slot = Slot(one.place, State.HELD, one.version, one.public_key, one.since, one.version, is_torn=False)
    assert "did not sign" in _refused(KeyReceipt.signed(Authority(b"\x05" * 32), slot, one.erasure))


def test_an_erasure_of_another_slot_or_of_more_shows_nothing_about_this_one(erased: ErasedKey) -> None:
    assert "not that of its slot's secret" in _refused(_signed(erased, place=Place(OFFSET, 2)))
    assert "not that of its slot's secret" in _refused(_signed(erased, place=Place(OFFSET + SECTOR_BYTES, 1)))
    one = erased.receipt.erasure
    longer = Receipt.signed(MINE, one.genesis, Run(one.run.start, 2), one.entry, one.oldest, one.proofs)
    assert "not that of its slot's secret" in _refused(_signed(erased, erasure=longer))


@pytest.mark.parametrize("change", [{"version": 0}, {"public_key": b""}, {"public_key": bytes(33)}])
def test_a_receipt_names_a_key(erased: ErasedKey, change: dict[str, object]) -> None:
    assert "names no key" in _refused(_signed(erased, **change))


def test_a_receipt_does_not_contradict_itself(erased: ErasedKey) -> None:
    erasure = erased.receipt.erasure
    for since in (0, erasure.entry + 1, erasure.oldest + 1):
        assert "contradicts itself" in _refused(_signed(erased, since=since))


def test_an_array_in_the_clear_has_no_receipts(erased: ErasedKey) -> None:
    one, genesis = erased.receipt.erasure, erased.receipt.erasure.genesis
    clear = Genesis(genesis.geometry, genesis.authority, genesis.policy_digest, genesis.instances, is_sealed=False)
    forged = Receipt.signed(MINE, clear, one.run, one.entry, one.oldest, one.proofs)
    assert "in the clear" in _refused(_signed(erased, erasure=forged))


def test_enough_dead_disks_are_not_beyond_recall(erased: ErasedKey) -> None:
    gone = tuple(Departed(seat, erased.receipt.since, bytes([seat]) * 32) for seat in range(2))
    exposed = dataclasses.replace(erased, erased=dataclasses.replace(erased.erased, departed=gone))
    assert (exposed.holders, exposed.exposed_seats) == (gone, {0, 1})
    assert not exposed.is_beyond_recall
    lost = dataclasses.replace(erased.receipt, erasure=dataclasses.replace(erased.receipt.erasure, oldest=0))
    assert not dataclasses.replace(exposed, receipt=lost).is_beyond_recall, "nothing is claimed that is not known"


@pytest.mark.parametrize(
    "change",
    [
        {"slot": -1},
        {"version": True},
        {"store": "0"},
        {"since": 1 << 63},
        {"public_key": 5},
        {"signature": "zz"},
        {"x": 1},
    ],
)
def test_a_damaged_file_is_refused_with_one_sentence(erased: ErasedKey, change: dict[str, object]) -> None:
    with pytest.raises(Corrupt, match="receipt is damaged"):
        KeyReceipt.from_json({**erased.receipt.to_json(), **change})


@pytest.mark.parametrize("value", [None, [], {}, {"format": "perdure-erase-receipt-1"}])
def test_what_is_no_receipt_for_a_key_is_refused(value: object) -> None:
    with pytest.raises(Misuse, match="not a receipt for an erased key"):
        KeyReceipt.from_json(value)

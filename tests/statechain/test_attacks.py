"""Operator and old owner together, after a transfer: they have o1, x1, the authority's private key and disks."""

from __future__ import annotations

from hashlib import sha256
from itertools import combinations

import pytest
from coincurve import PrivateKey

from examples.statechain import curve, transport
from examples.statechain.owner import Owner
from tests.statechain.world import Chain

MESSAGE = sha256(b"steal").digest()


def steals(alice: Owner, shares: set[bytes]) -> bool:
    """Whether the old owner's share, and any that was found, sign alone for the coin."""
    keys = [PrivateKey(curve.add(share, alice._share)) for share in shares]
    return any(curve.verify(alice.key, MESSAGE, one.sign_schnorr(MESSAGE)) for one in keys)


@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5)])
def test_the_old_share_does_not_come_back_from_k_minus_1_kept_disks_and_from_k_it_does_and_steals_the_coin(
    k: int, n: int
) -> None:
    with Chain(k=k, n=n) as chain:
        alice, bob = chain.deposited(), chain.owner()
        chain.sim.settle()
        before = chain.memories()
        bob.take(chain.signer, alice.hand_over(chain.signer, bob.address), chain.check)
        live = chain.memories()
        new = chain.secrets(1, {}, live)
        assert [curve.point(share) for share in new] == [chain.signer.share(0)], "the private key reads what is alive"
        assert not steals(alice, new)
        for seats in combinations(range(n), k - 1):
            assert chain.secrets(0, {seat: before[seat] for seat in seats}, live) == set()
        for seats in combinations(range(n), k):
            assert steals(alice, chain.secrets(0, {seat: before[seat] for seat in seats}, live))


def test_disks_that_were_kept_from_the_erasure_are_in_the_receipt_and_are_not_enough() -> None:
    with Chain(k=3, n=5) as chain:
        alice, bob = chain.deposited(), chain.owner()
        chain.sim.settle()
        for seat in (1, 4):
            chain.sim.channels[seat].is_silent = True
        erased = bob.take(chain.signer, alice.hand_over(chain.signer, bob.address), chain.check)
        assert sorted(gone.seat for gone in erased.holders) == [1, 4]
        assert chain.secrets(0, {}, chain.memories()) == set()


def test_whoever_reads_the_difference_on_its_way_and_later_the_new_share_has_the_old_one_so_it_is_sealed(
    chain: Chain,
) -> None:
    alice, bob = chain.deposited(), chain.owner()
    old = chain.signer.share(0)
    handover = alice.hand_over(chain.signer, bob.address)
    blinding = curve.subtract(handover.blinded, alice._share)  # the old owner was given it
    difference = curve.subtract(handover.blinded, bob._share)
    sent: list[bytes] = []
    true = chain.signer.take
    chain.signer.take = lambda number, sealed, signature: (sent.append(sealed), true(number, sealed, signature))[1]  # type: ignore[method-assign]
    bob.take(chain.signer, handover, chain.check)
    (new,) = chain.secrets(1, {}, chain.memories())
    stolen = curve.add(curve.subtract(new, difference), blinding)
    assert curve.point(stolen) == old, "with the difference the old share comes back, erased or not"
    assert steals(alice, {stolen})
    assert difference not in sent[0]
    for known in (new, alice._share, blinding):
        with pytest.raises(ValueError, match="sealed to another key"):
            transport.open_sealed(known, sent[0])
    assert chain.signer._offers == {}, "the key to it is forgotten"

"""Blind co-signing and the transfer of coins, on a simulated array."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import pytest

from examples.statechain import curve
from examples.statechain.owner import Handover, Owner, Past
from examples.statechain.signer import Signer
from perdure.errors import Fenced, Misuse, PerdureError, Unproved, WrongCommitment
from perdure.keystore.receipt import KeyReceipt
from perdure.keystore.slots import State
from tests.statechain.world import Chain

MESSAGE = sha256(b"transaction").digest()


class Watching:
    """A signer that keeps all that is said to it and by it: what an operator could ever link."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.sessions: list[tuple[bytes, bytes, bytes]] = []
        self._first = b""

    def begin(self, number: int, signature: bytes) -> bytes:
        self._first = self._signer.begin(number, signature)
        return self._first

    def cosign(self, number: int, blinded: bytes, signature: bytes) -> bytes:
        partial = self._signer.cosign(number, blinded, signature)
        self.sessions.append((self._first, blinded, partial))
        return partial

    def share(self, number: int) -> bytes:
        return self._signer.share(number)


def test_both_together_make_a_valid_signature_whatever_the_parities() -> None:
    seen = set()
    for seed in range(12):
        with Chain(seed=seed) as chain:
            owner = chain.deposited()
            for number in range(3):
                message = sha256(bytes([seed, number])).digest()
                signature = owner.sign(chain.signer, message)
                assert curve.verify(owner.key, message, signature)
                seen.add(owner.key[0])
    assert seen == {2, 3}


def test_the_signer_cannot_tell_which_session_made_a_signature(chain: Chain) -> None:
    """Every session fits every signature: there are blinding factors for each pair, even for one who knows o."""
    owner = chain.deposited()
    watching = Watching(chain.signer)
    made = []
    for number in range(4):
        message = sha256(bytes([number])).digest()
        made.append((message, owner.sign(watching, message)))  # type: ignore[arg-type]
    for message, signature in made:
        assert not any(part in b"".join(session) for session in watching.sessions for part in (message, owner.key[1:]))
        assert not any(signature[at : at + 32] in b"".join(one) for one in watching.sessions for at in (0, 32))
        for first, c, partial in watching.sessions:
            assert _fits(owner, message, signature, first, c, partial)


def _fits(owner: Owner, message: bytes, signature: bytes, first: bytes, c: bytes, partial: bytes) -> bool:
    """Whether some r2 and b lead from this session to this signature (see `examples.statechain.owner`)."""
    for y in (b"\x02", b"\x03"):
        nonce, s = y + signature[:32], signature[32:]
        e = curve.challenge(nonce, owner.key, message)
        b = curve.subtract(c, e if nonce[0] == owner.key[0] else curve.negate(e))
        whole = s if y == b"\x02" else curve.negate(s)
        second = curve.subtract(whole, curve.add(partial, curve.multiply(c, owner._share)))
        if curve.sum_of(first, curve.point(second), curve.times(owner.key, b)) == nonce:
            return True
    return False


def test_a_coin_that_changes_hands_keeps_its_key_and_the_new_owner_has_a_receipt(chain: Chain) -> None:
    alice, bob, carol = chain.deposited(), chain.owner(), chain.owner()
    before, old = alice, chain.signer.share(0)
    for after in (bob, carol):
        share = chain.signer.share(0)
        erased = after.take(chain.signer, before.hand_over(chain.signer, after.address), chain.check)
        assert erased.receipt.public_key == share
        assert after.key == alice.key
        assert curve.verify(alice.key, MESSAGE, after.sign(chain.signer, MESSAGE))
        assert chain.signer.share(0) != share
        with pytest.raises(Misuse, match="not signed by the owner"):
            before.sign(chain.signer, MESSAGE)
        before = after
    assert old != chain.signer.share(0)


def test_a_transfer_that_was_cut_off_anywhere_leaves_the_coin_with_one_owner_and_one_share() -> None:
    outcomes = set()
    for count in range(1000):
        with Chain(seed=count % 5) as chain:
            outcomes.add(_transfer_cut_after(chain, count))
        if (True, True) in outcomes:
            break
    assert outcomes == {(False, False), (False, True), (True, True)}


def _transfer_cut_after(chain: Chain, count: int) -> tuple[bool, bool]:
    """Whether the transfer returned before the signer died after `count` commands to disks, and whether it happened."""
    alice, bob = chain.deposited(), chain.owner()
    handover = alice.hand_over(chain.signer, bob.address)
    old = chain.signer.share(0)
    has_returned = chain.lives(count, lambda: bob.take(chain.signer, handover, chain.check))
    signer = chain.restart()
    held = [slot for slot in (0, 1) if signer._keys.get(slot).state is State.HELD]
    is_bobs = curve.sum_of(signer.share(0), bob.address.share) == alice.key
    assert len(held) == 1
    assert is_bobs or curve.sum_of(signer.share(0), alice.address.share) == alice.key
    if is_bobs:
        bob.coin, bob.key = 0, alice.key
        erased = signer.receipt(0, bob._ask("receipt", b""))
        chain.check(erased.receipt.to_json(), old)
    assert curve.verify(alice.key, MESSAGE, (bob if is_bobs else alice).sign(signer, MESSAGE))
    return has_returned, is_bobs


def test_a_signature_that_was_given_out_is_counted_wherever_the_signer_dies() -> None:
    outcomes = set()
    for count in range(1000):
        with Chain(seed=count % 5) as chain:
            alice = chain.deposited()
            alice.sign(chain.signer, MESSAGE)
            has_returned = chain.lives(count, lambda chain=chain, alice=alice: alice.sign(chain.signer, MESSAGE))
            coin = chain.restart()._ledger.get(0)
            outcomes.add((has_returned, coin.signatures))
        if has_returned:
            break
    assert outcomes == {(False, 1), (False, 2), (True, 2)}


# What is refused ------------------------------------------------------------------------------------------


def test_only_the_owner_is_served(chain: Chain) -> None:
    owner, thief = chain.deposited(), chain.owner()
    thief.coin, thief.key = 0, owner.key
    chain.signer.begin(0, owner._ask("begin", b""))
    for ask in (
        lambda: thief.sign(chain.signer, MESSAGE),
        lambda: thief.hand_over(chain.signer, thief.address),
        lambda: chain.signer.receipt(0, thief._ask("receipt", b"")),
        lambda: chain.signer.cosign(0, bytes(32), owner._ask("begin", b"")),
        lambda: chain.signer.begin(0, b""),
    ):
        with pytest.raises(Misuse, match="not signed by the owner of coin 0"):
            ask()
    handover = owner.hand_over(chain.signer, chain.owner().address)
    with pytest.raises(Misuse, match="has not proved"):
        thief.take(chain.signer, handover, chain.check)
    with pytest.raises(Misuse, match="not signed by the one to whom"):
        chain.signer.take(0, b"sealed", thief._sign("take", 0, b"sealed"))


def test_a_nonce_signs_once_and_there_is_one_at_a_time(chain: Chain) -> None:
    owner = chain.deposited()
    begin, c = owner._ask("begin", b""), bytes(31) + b"\5"
    first = chain.signer.begin(0, begin)
    second = chain.signer.begin(0, begin)
    assert first != second
    asked = owner._ask("cosign", second + c)
    with pytest.raises(Misuse, match="not signed by the owner of coin 0"):
        chain.signer.cosign(0, c, owner._ask("cosign", first + c))
    partial = chain.signer.cosign(0, c, asked)
    assert curve.point(partial) == curve.sum_of(second, curve.times(chain.signer.share(0), c))
    with pytest.raises(Misuse, match="no open session"):
        chain.signer.cosign(0, c, asked)
    third = chain.signer.begin(0, begin)
    with pytest.raises(Misuse, match="no scalar"):
        chain.signer.cosign(0, bytes(32), owner._ask("cosign", third + bytes(32)))
    chain.restart()
    with pytest.raises(Misuse, match="no open session"):
        chain.signer.cosign(0, c, asked)


def test_a_request_to_sign_that_somebody_recorded_is_good_in_no_other_session(chain: Chain) -> None:
    owner = chain.deposited()
    begin, c = owner._ask("begin", b""), bytes(31) + b"\5"
    asked = owner._ask("cosign", chain.signer.begin(0, begin) + c)
    chain.signer.cosign(0, c, asked)
    chain.signer.begin(0, begin)
    with pytest.raises(Misuse, match="not signed by the owner of coin 0"):
        chain.signer.cosign(0, c, asked)


def test_an_address_is_good_for_one_coming_of_a_coin(chain: Chain) -> None:
    """The share that the signer would need is one that it has proved to be gone."""
    alice, bob = chain.deposited(), chain.owner()
    bob.take(chain.signer, alice.hand_over(chain.signer, bob.address), chain.check)
    with pytest.raises(Misuse, match="held this very key before"):
        alice.take(chain.signer, bob.hand_over(chain.signer, alice.address), chain.check)
    bob.sign(chain.signer, MESSAGE)


def test_signatures_are_counted_before_they_are_given_out_and_the_new_owner_sees_how_many(chain: Chain) -> None:
    alice, bob = chain.deposited(), chain.owner()
    for _ in range(3):
        alice.sign(chain.signer, MESSAGE)
    chain.restart()
    alice.hand_over(chain.signer, bob.address)
    assert chain.signer.terms(0).signatures == 3


def test_a_signer_that_was_overtaken_says_nothing_of_its_coins(chain: Chain) -> None:
    chain.deposited()
    chain.sim.mount()
    with pytest.raises(Fenced):
        chain.signer.has(0)


def test_an_old_owner_who_signs_after_his_offer_withdraws_it(chain: Chain) -> None:
    alice, bob = chain.deposited(), chain.owner()
    handover = alice.hand_over(chain.signer, bob.address)
    alice.sign(chain.signer, MESSAGE)
    with pytest.raises(Misuse, match="not offered to anyone"):
        bob.take(chain.signer, handover, chain.check)
    with pytest.raises(Misuse, match="not offered to anyone"):
        chain.signer.take(0, b"", b"")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"key": curve.point(bytes(31) + b"\7")}, "do not add up"),
        ({"blinded": bytes(31) + b"\7"}, "not his share"),
        ({"blinded": bytes(32)}, "not made of points and scalars"),
        ({"share": bytes(33)}, "not made of points and scalars"),
        ({"proof": bytes(64)}, "has not proved"),
    ],
)
def test_a_handover_that_does_not_fit_is_refused_and_the_coin_stays(
    chain: Chain, change: dict[str, bytes], sentence: str
) -> None:
    alice, bob = chain.deposited(), chain.owner()
    handover = replace(alice.hand_over(chain.signer, bob.address), **change)
    with pytest.raises(Misuse, match=sentence):
        bob.take(chain.signer, handover, chain.check)
    assert curve.verify(alice.key, MESSAGE, alice.sign(chain.signer, MESSAGE))


def handed_on(chain: Chain, *owners: Owner) -> Handover:
    """The coin goes from the first owner to the last but one, who hands it to the last."""
    *past, last, to = owners
    for giver, taker in itertools.pairwise([*past, last]):
        taker.take(chain.signer, giver.hand_over(chain.signer, taker.address), chain.check)
    return last.hand_over(chain.signer, to.address)


def test_a_later_owner_has_a_receipt_for_every_share_that_went(chain: Chain) -> None:
    alice, bob, carol, dave = chain.deposited(), chain.owner(), chain.owner(), chain.owner()
    went = [chain.signer.share(0)]
    handover = handed_on(chain, alice, bob, carol)
    went.append(chain.signer.share(0))
    checked = []

    def check(value: object, share: bytes) -> KeyReceipt:
        checked.append(share)
        return chain.check(value, share)

    carol.take(chain.signer, handover, check)
    assert checked == went
    dave.take(chain.signer, carol.hand_over(chain.signer, dave.address), chain.check)
    assert [past.share for past in dave.past] == [owner.address.share for owner in (alice, bob, carol)]
    assert curve.verify(alice.key, MESSAGE, dave.sign(chain.signer, MESSAGE))


Spoiled = tuple[type[PerdureError], str, Callable[[tuple[Past, ...]], tuple[Past, ...]]]
SPOILED: list[Spoiled] = [
    (Misuse, "changed hands 2 times, and 1 receipts", lambda past: past[1:]),
    (Misuse, "changed hands 2 times, and 0 receipts", lambda _: ()),
    (Misuse, "did not hand it on to each other", lambda past: past[:1]),
    (Misuse, "did not hand it on to each other", lambda past: (past[1], past[1])),
    (Misuse, "did not hand it on to each other", lambda past: (replace(past[0], proof=bytes(64)), past[1])),
    (WrongCommitment, "another key", lambda past: (replace(past[0], receipt=past[1].receipt), past[1])),
    (Misuse, "did not hand it on to each other", lambda past: (replace(past[0], share=bytes(33)), past[1])),
]


@pytest.mark.parametrize(("error", "sentence", "spoil"), SPOILED)
def test_a_coin_that_comes_without_all_its_receipts_is_not_taken(
    chain: Chain, error: type[PerdureError], sentence: str, spoil: Callable[[tuple[Past, ...]], tuple[Past, ...]]
) -> None:
    owners = chain.deposited(), chain.owner(), chain.owner(), chain.owner()
    handover = handed_on(chain, *owners)
    with pytest.raises(error, match=sentence):
        owners[3].take(chain.signer, replace(handover, past=spoil(handover.past)), chain.check)
    owners[2].sign(chain.signer, MESSAGE)


def test_the_receipt_for_another_coins_share_is_none_for_this_one(chain: Chain) -> None:
    """Its point and one that is chosen so add up to this coin's key, but nobody has the share of the chosen one."""
    other, thief = chain.deposited(1), chain.owner()
    foreign = chain.signer.share(1)
    receipt = thief.take(chain.signer, other.hand_over(chain.signer, thief.address), chain.check).receipt.to_json()
    alice, bob, carol = chain.deposited(), chain.owner(), chain.owner()
    handover = handed_on(chain, alice, bob, carol)
    fitting = curve.minus(alice.key, foreign)
    chain.check(receipt, curve.minus(alice.key, fitting))
    forged = replace(handover.past[0], share=fitting, receipt=receipt)
    with pytest.raises(Misuse, match="did not hand it on to each other"):
        carol.take(chain.signer, replace(handover, past=(forged,)), chain.check)


def test_a_difference_that_cannot_be_read_changes_nothing(chain: Chain) -> None:
    alice, bob = chain.deposited(), chain.owner()
    alice.hand_over(chain.signer, bob.address)
    with pytest.raises(Misuse, match="cannot be read"):
        chain.signer.take(0, bytes(80), bob._sign("take", 0, bytes(80)))
    assert curve.verify(alice.key, MESSAGE, alice.sign(chain.signer, MESSAGE))


def test_a_part_by_another_share_than_the_signer_shows_is_noticed(chain: Chain) -> None:
    owner = chain.deposited()
    watching = Watching(chain.signer)
    watching.share = lambda _: curve.point(bytes(31) + b"\7")  # type: ignore[method-assign]
    with pytest.raises(Unproved, match="not by the share"):
        owner.sign(watching, MESSAGE)  # type: ignore[arg-type]


def test_coins_are_numbered_and_there_is_room_for_so_many(chain: Chain) -> None:
    chain.deposited(1)
    with pytest.raises(Misuse, match="There is a coin 1 already"):
        chain.deposited(1)
    with pytest.raises(Misuse, match="There is no coin 0"):
        chain.signer.share(0)
    with pytest.raises(Misuse, match="room for coins 0 to 1"):
        chain.deposited(2)

"""How a new owner checks, with no array at hand, that the old share is gone."""

from __future__ import annotations

import time

from perdure.array.ports import Attested
from perdure.errors import Unproved, WrongCommitment
from perdure.evidence.policy import Policy
from perdure.evidence.verifier import Verifier, stated_time_ms
from perdure.keystore.receipt import KeyReceipt, judge


def check(value: object, policy: Policy, array_id: bytes, public_key: bytes) -> KeyReceipt:
    """The receipt in `value` (its JSON), if it proves that this key was erased from this array, beyond recall.

    `policy` and `array_id` are the signer's, published before there were coins. Raises PerdureError.
    """
    receipt = KeyReceipt.from_json(value)
    genesis = receipt.erasure.genesis
    if (genesis.array_id, genesis.policy_digest) != (array_id, policy.digest()):
        raise WrongCommitment("The receipt is about another array than the signer's, or under another policy.")
    if receipt.public_key != public_key:
        raise WrongCommitment(f"The receipt is about the key {receipt.public_key.hex()}, not {public_key.hex()}.")
    verifier = Verifier(policy)

    def attest(document: bytes, commitment: bytes) -> Attested:
        stated_ms = stated_time_ms(document)
        return verifier.verify(document, commitment, time.time_ns() // 1_000_000 if stated_ms is None else stated_ms)

    if not judge(receipt, attest).is_beyond_recall:
        raise Unproved("Enough dead disks may hold fragments of the old share to bring it back.")
    return receipt

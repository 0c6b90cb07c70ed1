"""The signer: it holds one share of each coin's key, co-signs blindly, and forgets the old share when a coin changes
hands, with a receipt.

The share s of a coin stands in the key store; the owner has o, and s + o is the coin's private key, which nobody ever
has. The signer does not know the coin's public key, nor what it signs.

What lives in memory alone, and is worth as much as the share: a session's nonce, and what a transfer draws. A crash
ends sessions and transfers that were begun; owners begin again. A coin has one open session: concurrent sessions of
blind Schnorr signatures can be combined into one signature more than were given out (ROS, eprint 2020/945).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

from examples.statechain import curve, transport
from examples.statechain.ledger import Coin, Ledger
from perdure.errors import Misuse
from perdure.keystore.receipt import ErasedKey
from perdure.keystore.slots import State
from perdure.keystore.threads import SyncKeyStore

Random = Callable[[int], bytes]


def request(verb: str, coin: int, body: bytes) -> bytes:
    """The 32 bytes that an owner signs to ask for something: a tagged hash, so it is no signature of anything else."""
    tag = sha256(b"perdure/example/statechain/1").digest()
    return sha256(tag + tag + verb.encode() + b"\0" + coin.to_bytes(4, "big") + body).digest()


@dataclass(frozen=True, slots=True)
class Offer:
    """What the signer has drawn for one transfer."""

    to: bytes
    """The new owner's key, x-only."""
    blinding: bytes
    """x1: goes to the old owner, who adds it to his share before he hands that on."""
    private: bytes
    """To what the new owner seals his answer."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a new owner asks the signer before he takes a coin."""

    share: bytes
    """S, 33 bytes: the point of the signer's present share."""
    blinding: bytes
    """X1, 33 bytes."""
    transport: bytes
    """33 bytes: what to seal the answer to."""
    signatures: int
    """How many partial signatures the signer has given out for this coin."""
    transfers: int
    """How often it changed hands, so how many receipts there must be."""


class Signer:
    """Coins 0 to count - 1 of a ledger; coin c has slots 2 c and 2 c + 1 of the key store.

    `random` gives bytes that are fresh and secret. One thread at a time. Raises Misuse for whatever is not in order.
    """

    def __init__(self, keys: SyncKeyStore, ledger: Ledger, random: Random) -> None:
        self._keys = keys
        self._ledger = ledger
        self._random = random
        self._nonces: dict[int, bytearray] = {}
        self._offers: dict[int, Offer] = {}
        for number in range(ledger.count):
            self._finish(number)

    def _finish(self, number: int) -> None:
        """What a crash left of a transfer or a deposit: a share that the ledger does not name goes."""
        coin = self._ledger.find(number)
        for slot in (2 * number, 2 * number + 1):
            if self._keys.get(slot).state is State.HELD and (coin is None or slot != coin.slot):
                self._keys.erase(slot)

    def has(self, number: int) -> bool:
        """Whether there is such a coin."""
        return self._ledger.find(number) is not None

    # Deposit and signing ----------------------------------------------------------------------------------

    def deposit(self, number: int, owner: bytes) -> bytes:
        """Draw a share for a new coin of `owner` (x-only); its point."""
        if self.has(number):
            raise Misuse(f"There is a coin {number} already.")
        share = self._random(32)
        self._keys.put(2 * number, share, curve.point(share))
        self._ledger.write(Coin(number, owner, 2 * number))
        return curve.point(share)

    def begin(self, number: int, signature: bytes) -> bytes:
        """Open a session: the point of a nonce that is good for one partial signature.

        An open session is forgotten, and so is an offer: nothing is signed between its terms and its taking.
        """
        self._authentic(number, "begin", b"", signature)
        self._offers.pop(number, None)
        nonce = bytearray(self._random(32))
        self._nonces[number] = nonce
        return curve.point(bytes(nonce))

    def cosign(self, number: int, blinded: bytes, signature: bytes) -> bytes:
        """The session's nonce plus `blinded` (c) times the share: one partial signature. Ends the session.

        It is counted before it is given out. The owner signs c with the nonce's point, so that nobody who has recorded
        it can say it again in another session.
        """
        nonce = self._nonces.get(number)
        if nonce is None:
            raise Misuse(f"Coin {number} has no open session; begin one.")
        coin = self._authentic(number, "cosign", curve.point(bytes(nonce)) + blinded, signature)
        if not curve.is_scalar(blinded):
            raise Misuse("What is to be signed is no scalar of secp256k1; nothing was signed.")
        del self._nonces[number]
        self._ledger.count_signature(coin)
        try:
            signed = self._keys.use(coin.slot, lambda share: curve.multiply(bytes(share), blinded))
            return curve.add(signed, bytes(nonce))
        finally:
            nonce[:] = bytes(32)

    # Transfer ---------------------------------------------------------------------------------------------

    def offer(self, number: int, to: bytes, signature: bytes) -> bytes:
        """The old owner wants `to` (x-only) to have the coin: the blinding x1, for him alone.

        Said again by whoever recorded it, it ends what was offered since, and a session, and no more: `to` needs what
        the old owner hands over with this blinding.
        """
        self._authentic(number, "offer", to, signature)
        self._nonces.pop(number, None)
        self._offers[number] = Offer(to, self._random(32), self._random(32))
        return self._offers[number].blinding

    def terms(self, number: int) -> Terms:
        """What the new owner checks what he was given against."""
        coin, offer = self._ledger.get(number), self._offered(number)
        return Terms(
            self.share(number), curve.point(offer.blinding), curve.point(offer.private), coin.signatures, coin.transfers
        )

    def take(self, number: int, sealed: bytes, signature: bytes) -> ErasedKey:
        """The new owner takes the coin: `sealed` is t2, his difference, sealed to the terms' transport key.

        The new share, s + t2 - x1, is durable before the coin is his, and that before the old share is erased. Returns
        when every live disk has proved that it is, with the receipt for him. After a crash `receipt` gives it again.
        """
        coin, offer = self._ledger.get(number), self._offered(number)
        if not curve.verify(b"\x02" + offer.to, request("take", number, sealed), signature):
            raise Misuse(f"This is not signed by the one to whom coin {number} was offered; nothing was changed.")
        try:
            difference = curve.subtract(transport.open_sealed(offer.private, sealed), offer.blinding)
        except ValueError:
            raise Misuse("What was sent for the transfer cannot be read; nothing was changed.") from None
        share = self._keys.use(coin.slot, lambda old: curve.add(bytes(old), difference))
        self._keys.put(coin.other_slot, share, curve.point(share))
        del self._offers[number]
        moved = replace(coin, owner=offer.to, slot=coin.other_slot, transfers=coin.transfers + 1)
        self._ledger.write(moved)
        return self._keys.erase(coin.slot)

    def share(self, number: int) -> bytes:
        """S, 33 bytes: the point of the coin's present share."""
        return self._keys.get(self._ledger.get(number).slot).public_key

    def receipt(self, number: int, signature: bytes) -> ErasedKey:
        """Once more the receipt for the share that went with the last transfer, for the present owner."""
        coin = self._authentic(number, "receipt", b"", signature)
        return self._keys.erase(coin.other_slot)

    def _offered(self, number: int) -> Offer:
        offer = self._offers.get(number)
        if offer is None:
            raise Misuse(f"Coin {number} is not offered to anyone.")
        return offer

    def _authentic(self, number: int, verb: str, body: bytes, signature: bytes) -> Coin:
        coin = self._ledger.get(number)
        if not curve.verify(b"\x02" + coin.owner, request(verb, number, body), signature):
            raise Misuse(f"This is not signed by the owner of coin {number}; nothing was done.")
        return coin

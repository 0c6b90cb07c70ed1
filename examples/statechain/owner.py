"""An owner of coins: the other share, the blinding, and all that must be checked before a coin is taken.

Blind co-signing. The coin's private key is p = s + o, its point P = S + O. For a message m:

    the signer draws r1 and gives R1 = r1 G;  the owner draws r2 and b
    R = R1 + r2 G + b P,  e = BIP-340's challenge of (R, P, m),  c = b + h g e
    the signer gives s1 = r1 + c s;  the signature is (x of R, h (s1 + r2 + c o))

h and g are 1 where R and P have an even y, else -1: BIP-340 signs for the points with an even y. It holds since
h (r1 + r2 + c p) = h (r1 + r2 + b p) + e g p. To the signer c is random, for b is, so it learns nothing of m, R or P.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coincurve import PrivateKey

from examples.statechain import curve, transport
from examples.statechain.signer import Signer, Terms, request
from perdure.errors import Misuse, Unproved
from perdure.keystore.receipt import ErasedKey, KeyReceipt

Random = Callable[[int], bytes]
Check = Callable[[object, bytes], KeyReceipt]
"""Checks a receipt's JSON offline, for the public key that it must be about. See `examples.statechain.proof`."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a coin may be sent."""

    share: bytes
    """O2, 33 bytes."""
    owner: bytes
    """32 bytes, x-only: authenticates the new owner to the signer."""


@dataclass(frozen=True, slots=True)
class Past:
    """An earlier owner of a coin, and the receipt for the signer's share that went when he handed it on."""

    share: bytes
    """33 bytes: the point of what he had. The signer's was the coin's key minus this."""
    to: Address
    """To whom he handed it on."""
    proof: bytes
    """His, as in `Handover`."""
    receipt: object
    """JSON."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What an old owner gives the new one, for nobody else to read."""

    coin: int
    key: bytes
    """P, 33 bytes."""
    share: bytes
    """O1, 33 bytes."""
    blinded: bytes
    """t1 = o1 + x1."""
    proof: bytes
    """By o1, over the address: without it O1 could have been chosen so that the signer's share does not matter."""
    past: tuple[Past, ...]
    """All owners before, the first one first: any share that a coin ever had spends it, together with its owner's."""


class Owner:
    """One owner's share and keys for one coin. `key` is P once the coin is his."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._share = random(32)
        self._auth = PrivateKey(random(32))
        self.coin = -1
        self.key = b""
        self.past: tuple[Past, ...] = ()

    @property
    def address(self) -> Address:
        """Where to send a coin to him."""
        return Address(curve.point(self._share), self._auth.public_key_xonly.format())

    def deposit(self, signer: Signer, number: int) -> bytes:
        """Make a coin of the signer's share and his own; its key P, 33 bytes, to which one would pay."""
        self.key = curve.sum_of(signer.deposit(number, self.address.owner), self.address.share)
        self.coin = number
        return self.key

    def sign(self, signer: Signer, message: bytes) -> bytes:
        """A BIP-340 signature by the coin's key over 32 bytes that the signer does not see.

        Raises Unproved when the signer did not sign with the share that it shows.
        """
        first = signer.begin(self.coin, self._ask("begin", b""))
        second, blinding = self._random(32), self._random(32)
        nonce = curve.sum_of(first, curve.point(second), curve.times(self.key, blinding))
        e = curve.challenge(nonce, self.key, message)
        c = curve.add(blinding, e if nonce[0] == self.key[0] else curve.negate(e))
        partial = signer.cosign(self.coin, c, self._ask("cosign", first + c))
        if curve.point(partial) != curve.sum_of(first, curve.times(signer.share(self.coin), c)):
            raise Unproved("The signer's part of the signature is not by the share that it shows; nothing was signed.")
        whole = curve.add(curve.add(partial, second), curve.multiply(c, self._share))
        return nonce[1:] + (whole if nonce[0] == curve.EVEN else curve.negate(whole))

    def hand_over(self, signer: Signer, to: Address) -> Handover:
        """Offer the coin to `to`; what to send there."""
        blinding = signer.offer(self.coin, to.owner, self._ask("offer", to.owner))
        proof = PrivateKey(self._share).sign_schnorr(_statement(self.coin, to))
        share = curve.point(self._share)
        return Handover(self.coin, self.key, share, curve.add(self._share, blinding), proof, self.past)

    def take(self, signer: Signer, what: Handover, check: Check) -> ErasedKey:
        """Take a coin, and return when it is his alone: the key is the same, and every old share is proved gone.

        Raises Misuse, or what `check` raises of earlier receipts, before anything was asked for, when what the old
        owner or the signer says does not fit; later Unproved, or what `check` raises: then the coin is his, and the
        last share may not be gone.
        """
        terms = signer.terms(what.coin)
        try:
            self._require_right(what, terms)
            _require_past(what, terms, check)
            difference = curve.subtract(what.blinded, self._share)
        except ValueError:
            raise Misuse("What was handed over is not made of points and scalars; the coin was not taken.") from None
        sealed = transport.seal(terms.transport, difference, self._random(32))
        erased = signer.take(what.coin, sealed, self._sign("take", what.coin, sealed))
        self.coin, self.key = what.coin, what.key
        receipt = erased.receipt.to_json()
        self.past = (*what.past, Past(what.share, self.address, what.proof, receipt))
        check(receipt, terms.share)
        if curve.sum_of(signer.share(what.coin), self.address.share) != what.key:
            raise Unproved("The signer's new share and ours do not add up to the coin's key.")
        return erased

    def _require_right(self, what: Handover, terms: Terms) -> None:
        if curve.sum_of(terms.share, what.share) != what.key:
            raise Misuse("The shares of this coin do not add up to its key; it was not taken.")
        if not curve.verify(what.share, _statement(what.coin, self.address), what.proof):
            raise Misuse("The old owner has not proved to have the share that he names; the coin was not taken.")
        if curve.point(what.blinded) != curve.sum_of(what.share, terms.blinding):
            raise Misuse("What the old owner hands over is not his share; the coin was not taken.")

    def _ask(self, verb: str, body: bytes) -> bytes:
        return self._sign(verb, self.coin, body)

    def _sign(self, verb: str, coin: int, body: bytes) -> bytes:
        return self._auth.sign_schnorr(request(verb, coin, body))


def _require_past(what: Handover, terms: Terms, check: Check) -> None:
    """As many owners as the coin had, each proved by the one before, and the receipt for each share that went."""
    shares = [past.share for past in what.past] + [what.share]
    for past, following in zip(what.past, shares[1:], strict=True):
        is_proved = curve.verify(past.share, _statement(what.coin, past.to), past.proof)
        if past.to.share != following or not is_proved:
            raise Misuse("The earlier owners of this coin did not hand it on to each other; it was not taken.")
        check(past.receipt, curve.minus(what.key, past.share))
    if len(what.past) != terms.transfers:
        raise Misuse(
            f"The coin changed hands {terms.transfers} times, and {len(what.past)} receipts came with it: an old share "
            "may be left that spends it. It was not taken."
        )


def _statement(coin: int, to: Address) -> bytes:
    """What an owner signs with his share when he hands a coin on."""
    return request("hand over", coin, to.share + to.owner)

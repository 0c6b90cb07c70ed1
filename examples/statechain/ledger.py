"""The signer's coins: who may ask for signatures, how many there were, which slot has the share.

They are keys of a `perdure.kv.store`, one for each coin: its number, u32. Integers are big-endian.

    slot u32 | signatures u64 | transfers u64 | owner 32

No secret stands here: what must be erased with a receipt is in the key store. A change says which version of the coin
it was decided on, so a coin that was changed in between is left alone, and the number of its signatures never goes
down. What is read is proved to be the latest, and what is written is durable before the signer acts on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from struct import Struct

from perdure.errors import Corrupt, Misuse
from perdure.kv.database import on_array
from perdure.kv.store import Store
from perdure.volume.file import Bytes
from perdure.volume.part import Part

_COIN = Struct(">IQQ32s")


@dataclass(frozen=True, slots=True)
class Coin:
    """A coin as the signer knows it: blindly, without its public key."""

    number: int
    owner: bytes
    """32 bytes, x-only: the key that authenticates whoever asks."""
    slot: int
    """Of the key store: where its share stands."""
    signatures: int = 0
    """How many partial signatures were ever given out."""
    transfers: int = 0
    version: int = 0
    """How often it was written when it was read: 0 for a coin that was never there."""

    @property
    def other_slot(self) -> int:
        """Where its next share will stand."""
        return self.slot ^ 1


class Ledger:
    """`count` coins in a store that holds nothing else. Everything raises what the store raises."""

    def __init__(self, store: Store, count: int) -> None:
        self._store = store
        self.count = count

    def find(self, number: int) -> Coin | None:
        """The coin, if there is one. Raises Corrupt, and Misuse for a number that is none."""
        item = self._store.get(self._key(number))
        if item is None:
            return None
        if len(item.value) == _COIN.size:
            slot, signatures, transfers, owner = _COIN.unpack(item.value)
            if slot // 2 == number:
                return Coin(number, owner, slot, signatures, transfers, item.version)
        raise Corrupt(f"What stands in the place of coin {number} is no coin; nothing was changed.")

    def get(self, number: int) -> Coin:
        """The coin. Raises Misuse when there is none."""
        coin = self.find(number)
        if coin is None:
            raise Misuse(f"There is no coin {number}.")
        return coin

    def write(self, coin: Coin) -> None:
        """Return when the coin is durably as it is given. Raises Conflict if it was written since it was read."""
        key = self._key(coin.number)
        value = _COIN.pack(coin.slot, coin.signatures, coin.transfers, coin.owner)
        self._store.put(key, value, expected=coin.version)

    def count_signature(self, coin: Coin) -> None:
        """Note durably that one more partial signature is about to be given out. Raises as `write` does."""
        self.write(replace(coin, signatures=coin.signatures + 1))

    def _key(self, number: int) -> bytes:
        if not 0 <= number < self.count:
            raise Misuse(f"There is no coin {number}: this signer has room for coins 0 to {self.count - 1}.")
        return number.to_bytes(4, "big")


@contextmanager
def ledger_on(array: Bytes, offset: int, count: int) -> Iterator[Ledger]:
    """The ledger of `count` coins in all that an array has from byte `offset` on, which is zeros when it is new.

    Raises Misuse if that is no place for a database (`perdure.kv.database.on_array`), and what the array raises.
    """
    with on_array(Part(array, offset, array.size - offset), "ledger.db") as database:
        yield Ledger(Store(database), count)

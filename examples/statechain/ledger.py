"""The signer's coins, one sector each: who may ask for signatures, how many there were, which slot has the share.

    magic 4 "PSCO" | coin u32 | slot u32 | signatures u64 | transfers u64 | owner 32 | zeros

No secret stands here. A record is durable before the signer acts on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct

from perdure.api import SyncArray
from perdure.array.geometry import SECTOR_BYTES
from perdure.errors import Corrupt, Misuse

_MAGIC = b"PSCO"
_COIN = Struct(">4sIIQQ32s")


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

    @property
    def other_slot(self) -> int:
        """Where its next share will stand."""
        return self.slot ^ 1


class Ledger:
    """`count` coins in the sectors from byte `offset` of an array."""

    def __init__(self, array: SyncArray, offset: int, count: int) -> None:
        self._array = array
        self._offset = offset
        self.count = count

    def find(self, number: int) -> Coin | None:
        """The coin, if there is one. Raises Corrupt, and Misuse for a number that is none."""
        data = self._array.pread(self._start(number), SECTOR_BYTES)
        if not any(data):
            return None
        magic, found, slot, signatures, transfers, owner = _COIN.unpack_from(data)
        if (magic, found, slot // 2) != (_MAGIC, number, number) or any(data[_COIN.size :]):
            raise Corrupt(f"What stands in the place of coin {number} is no coin; nothing was changed.")
        return Coin(number, owner, slot, signatures, transfers)

    def get(self, number: int) -> Coin:
        """The coin. Raises Misuse when there is none."""
        coin = self.find(number)
        if coin is None:
            raise Misuse(f"There is no coin {number}.")
        return coin

    def write(self, coin: Coin) -> None:
        """Return when the coin is durably as it is given."""
        fields = (_MAGIC, coin.number, coin.slot, coin.signatures, coin.transfers, coin.owner)
        self._array.pwrite(self._start(coin.number), _COIN.pack(*fields).ljust(SECTOR_BYTES, b"\0"), fua=True)

    def count_signature(self, coin: Coin) -> None:
        """Note durably that one more partial signature is about to be given out."""
        self.write(replace(coin, signatures=coin.signatures + 1))

    def _start(self, number: int) -> int:
        if not 0 <= number < self.count:
            raise Misuse(f"There is no coin {number}: this signer has room for coins 0 to {self.count - 1}.")
        return self._offset + number * SECTOR_BYTES

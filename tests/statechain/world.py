"""A signer and owners on a small simulated array."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from examples.statechain.ledger import Ledger
from examples.statechain.owner import Owner
from examples.statechain.signer import Signer
from perdure.api import SyncArray
from perdure.array.commands import Authority
from perdure.array.geometry import SECTOR_BYTES
from perdure.array.sealing import Keys
from perdure.errors import WrongCommitment
from perdure.keystore.receipt import KeyReceipt, judge
from perdure.keystore.slots import Place
from perdure.keystore.threads import SyncKeyStore
from tests.array.world import KEY, SimArray
from tests.keystore import operator
from tests.keystore.operator import Memory, memories
from tests.keystore.world import attest

_T = TypeVar("_T")
COINS = 2
LEDGER_START = 4 * COINS * SECTOR_BYTES


class SimSync(SyncArray):
    """The face for threads over virtual time."""

    def __init__(self, sim: SimArray) -> None:
        assert sim.array is not None
        self._array = sim.array
        self._sim = sim

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._sim.run(work)


class Chain:
    """A signer, its array, and all shares that it ever drew, which nobody has in truth."""

    def __init__(self, k: int = 2, n: int = 3, seed: int = 0) -> None:
        self.sim = SimArray(k=k, n=n, sectors=64, seed=seed, dead_after_ms=200)
        self.sim.create()
        self.signer = self.open()

    def open(self) -> Signer:
        array = SimSync(self.sim)
        keys = SyncKeyStore(array, Authority(KEY), 0, 2 * COINS)
        return Signer(keys, Ledger(array, LEDGER_START, COINS), self.sim.loop.random)

    def restart(self) -> Signer:
        """The machine that the signer was on dies, and it is started on another."""
        self.sim.crash()
        self.sim.mount()
        self.signer = self.open()
        return self.signer

    def owner(self) -> Owner:
        return Owner(self.sim.loop.random)

    def deposited(self, number: int = 0) -> Owner:
        owner = self.owner()
        owner.deposit(self.signer, number)
        return owner

    def check(self, value: object, public_key: bytes) -> KeyReceipt:
        """What `examples.statechain.proof` does, with simulated evidence."""
        receipt = KeyReceipt.from_json(value)
        if (receipt.public_key, receipt.erasure.array_id) != (public_key, self.sim.array_id):
            raise WrongCommitment("another key or array")
        judge(receipt, attest)
        return receipt

    def memories(self) -> list[Memory]:
        return memories(self.sim)

    def secrets(self, slot: int, kept: dict[int, Memory], live: list[Memory]) -> set[bytes]:
        """All secrets of a slot that somebody with the private key finds in these memories."""
        index, keys = Place(0, slot).secret_start // SECTOR_BYTES, Keys.derive(KEY, self.sim.array_id)
        sectors = operator.opened(self.sim.geometry, keys, index, kept, live)
        return {sector[57:89] for sector in sectors if sector[:4] == b"PKSS"}

"""A signer and owners on a small simulated array."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

import apsw

from examples.statechain.ledger import ledger_on
from examples.statechain.owner import Owner
from examples.statechain.signer import Signer
from perdure.api import SyncArray
from perdure.array.commands import Authority
from perdure.array.geometry import SECTOR_BYTES
from perdure.array.sealing import Keys
from perdure.errors import PerdureError, Unavailable, WrongCommitment
from perdure.keystore.receipt import KeyReceipt, judge
from perdure.keystore.slots import Place
from perdure.keystore.threads import SyncKeyStore
from perdure.sim.loop import Task
from tests.array.world import KEY, SimArray
from tests.keystore import operator
from tests.keystore.operator import Memory, memories
from tests.keystore.test_crashes import Crash
from tests.keystore.world import attest

_T = TypeVar("_T")
COINS = 2
LEDGER_START = 4 * COINS * SECTOR_BYTES
SECTORS = 4 * COINS + 680  # no smaller one has room for a database


class DiedError(Exception):
    """The machine that the signer was on has died."""


class SimSync(SyncArray):
    """The face for threads over virtual time, as long as `has_died` is false."""

    def __init__(self, sim: SimArray) -> None:
        assert sim.array is not None
        self._array = sim.array
        self._sim = sim
        self.has_died: Callable[[], bool] = lambda: False

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self.has_died():
            work.close()
            raise DiedError
        task = self._sim.spawn(work)
        while not task.done:
            if self.has_died():
                raise DiedError
            self._sim.loop.run_for(0.1)
        return self._sim.run(_result_of(task))


async def _result_of(task: Task[_T]) -> _T:
    return await task


class Chain:
    """A signer, its array, and all shares that it ever drew, which nobody has in truth. It dies with the block."""

    def __init__(self, k: int = 2, n: int = 3, seed: int = 0) -> None:
        self.sim = SimArray(k=k, n=n, sectors=SECTORS, seed=seed, dead_after_ms=200)
        self.sim.create()
        self.open()

    def open(self) -> None:
        self.array = SimSync(self.sim)
        self._block = ExitStack()
        ledger = self._block.enter_context(ledger_on(self.array, LEDGER_START, COINS))
        keys = SyncKeyStore(self.array, Authority(KEY), 0, 2 * COINS)
        self.signer = Signer(keys, ledger, self.sim.loop.random)

    def lives(self, count: int, work: Callable[[], object]) -> bool:
        """Whether `work` returned before the signer died, after `count` commands had left for disks."""
        crash = Crash(self.sim, count)
        self.array.has_died = lambda: crash.has_come
        try:
            work()
        except (DiedError, Unavailable):  # where it dies within SQLite, the ledger's database has ended
            assert crash.has_come
            return False
        return True

    def die(self) -> None:
        """The machine that the signer was on dies; what SQLite still tries reaches nothing."""
        self.sim.crash()
        self.array.has_died = lambda: True
        with suppress(DiedError, PerdureError, apsw.Error):
            self._block.close()

    def restart(self) -> Signer:
        """The machine that the signer was on dies, and it is started on another."""
        self.die()
        self.sim.mount()
        self.open()
        return self.signer

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_error: object) -> None:
        self.die()

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

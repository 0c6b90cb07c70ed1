"""The key store for threads: every method may be called from any thread, and blocks it.

with perdure.api.open_array(settings, array_id) as array:
    keys = SyncKeyStore(array, authority, offset=0, count=16)
    keys.use(3, sign)
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from perdure.api import SyncArray
from perdure.array.commands import Authority
from perdure.array.engine import Array
from perdure.array.ports import Buffer
from perdure.keystore.receipt import ErasedKey
from perdure.keystore.slots import Slot
from perdure.keystore.store import KeyStore, wipe

_T = TypeVar("_T")


class SyncKeyStore:
    """A `KeyStore` on an array of `perdure.api.open_array`. Raises what `KeyStore` raises."""

    def __init__(self, array: SyncArray, authority: Authority, offset: int, count: int) -> None:
        async def made(on: Array) -> KeyStore:
            return KeyStore(on, authority, offset, count)

        self._array = array
        self._store = array.call(made)
        self._lock = threading.Lock()

    def get(self, slot: int) -> Slot:
        """See `KeyStore.get`."""
        with self._lock:
            return self._array.call(lambda _: self._store.get(slot))

    def put(self, slot: int, secret: Buffer, public_key: bytes) -> int:
        """See `KeyStore.put`."""
        with self._lock:
            return self._array.call(lambda _: self._store.put(slot, secret, public_key))

    def use(self, slot: int, function: Callable[[bytearray], _T]) -> _T:
        """See `KeyStore.use`. `function` runs in the caller's thread, one at a time; it must not call this store."""
        lent: list[bytearray] = []

        async def lend(_: Array) -> None:
            lent.append(await self._store.lend(slot))

        with self._lock:
            try:
                self._array.call(lend)
                return function(lent[0])
            finally:  # also of an interrupt, which comes through when the secret is there already
                for secret in lent:
                    wipe(secret)

    def erase(self, slot: int) -> ErasedKey:
        """See `KeyStore.erase`. Waits for a `use` to end: no thread has the secret when this returns."""
        with self._lock:
            return self._array.call(lambda _: self._store.erase(slot))

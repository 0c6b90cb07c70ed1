"""A key store on a small simulated array, for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from coincurve import PrivateKey

from perdure.array.commands import Authority
from perdure.array.ports import Attested
from perdure.keystore.store import KeyStore
from perdure.sim.disks import FastEvidence
from tests.array.world import KEY, SimArray

_T = TypeVar("_T")
SLOTS = 4
OFFSET = 8 * 4096


def key(number: int) -> tuple[bytes, bytes]:
    """A private key that is known by its number, and its public key."""
    secret = hashlib.sha256(b"key %d" % number).digest()
    return secret, PrivateKey(secret).public_key.format()


class SimStore:
    """A store in the middle of a simulated array; `mount` takes both over by a new main program."""

    def __init__(self, k: int = 3, n: int = 5, seed: int = 0) -> None:
        self.sim = SimArray(k=k, n=n, sectors=64, seed=seed, dead_after_ms=200)
        self.sim.create()
        self.store = self.open()

    def open(self, offset: int = OFFSET, count: int = SLOTS) -> KeyStore:
        assert self.sim.array is not None
        return KeyStore(self.sim.array, Authority(KEY), offset, count)

    def mount(self) -> KeyStore:
        """Whoever owned it before is left running."""
        self.sim.mount()
        self.store = self.open()
        return self.store

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.sim.run(work)

    def put(self, slot: int, number: int) -> int:
        return self.run(self.store.put(slot, *key(number)))

    def secret(self, slot: int) -> bytes:
        return self.run(self.store.use(slot, bytes))


def attest(document: bytes, commitment: bytes) -> Attested:
    """As a third party does it: with nothing that the array's run left behind."""
    try:
        FastEvidence().verify(document, commitment).send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it never waits")

"""The key store: secrets in fixed slots of a region of the array, used, and erased with a receipt (spec 20).

    store = KeyStore(array, authority, offset=0, count=16)
    await store.put(3, secret, public_key)
    await store.use(3, sign)
    receipt = (await store.erase(3)).receipt

What it trusts: the array it stands on, and whoever calls. What it refuses: arrays in the clear, since a single disk
would keep a part that can be read; a put over a secret, since what is overwritten has no receipt; a key that is not
that of its secret, or that the slot names already; a step while another is under way, so that no receipt comes while
the secret is in use.

`perdure.keystore.threads` is the same for threads, which wait for each other there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from perdure.array.commands import Authority
from perdure.array.engine import Array
from perdure.array.geometry import SECTOR_BYTES
from perdure.array.ports import Buffer
from perdure.errors import Misuse
from perdure.keystore.receipt import ErasedKey, KeyReceipt
from perdure.keystore.slots import (
    SLOT_BYTES,
    SLOTS_MAX,
    Place,
    Slot,
    State,
    check_pair,
    decode,
    encode_label,
    encode_secret,
    is_known,
    secret_of,
)

_T = TypeVar("_T")


def wipe(secret: bytearray) -> None:
    """Overwrite `secret`. Copies that Python made of it are overwritten when freed: `perdure.service.wiping`."""
    secret[:] = bytes(len(secret))


class KeyStore:
    """The store of `count` slots that begins at byte `offset` of `array`: `count` * 8,192 bytes, zeros when new.

    `authority` is the key pair that the array was mounted with; it signs receipts. Raises Misuse for a region that is
    not whole sectors within the array, an array in the clear, and another authority than the array's.
    """

    def __init__(self, array: Array, authority: Authority, offset: int, count: int) -> None:
        genesis = array.opened.genesis
        if not genesis.is_sealed:
            raise Misuse(
                "This array is in the clear: a disk that a host kept running would still hold a part of an erased key "
                "that can be read, so there can be no receipts. Nothing was changed; keep keys on a sealed array."
            )
        if authority.public_key != genesis.authority:
            raise Misuse("This is not the private key of the array's authority, so no receipt could be signed with it.")
        room = min(SLOTS_MAX, (array.size_bytes - offset) // SLOT_BYTES)
        if offset % SECTOR_BYTES or offset < 0 or not 0 < count <= room:
            raise Misuse(
                f"{count} slots of {SLOT_BYTES} bytes from byte {offset} are not whole sectors within the array's "
                f"{array.size_bytes} bytes, or more than {SLOTS_MAX}; nothing was changed."
            )
        self._array = array
        self._authority = authority
        self._offset = offset
        self._count = count
        self._is_busy = False

    @property
    def count(self) -> int:
        """How many slots there are."""
        return self._count

    async def get(self, slot: int) -> Slot:
        """What a slot holds or held, without the secret. Raises Misuse, Corrupt, and what reading raises."""
        with self._turn():
            return decode(self._place(slot), await self._sectors(slot))

    async def put(self, slot: int, secret: Buffer, public_key: bytes) -> int:
        """Store a key in a slot that holds none, and return its version when that is durable.

        `secret`: 32 bytes, the caller's to wipe; `public_key`: its own, compressed. Versions of a slot rise with every
        put. If this raises, or never returns, the slot holds either what it held or the new key; draw another key
        then, since disks that leave before a second put would hold this one and no receipt would name them. Raises
        Misuse (also for a slot that holds a key, or that names this one), Corrupt, and what writing raises.
        """
        check_pair(secret, public_key)
        with self._turn():
            place = self._place(slot)
            sectors = await self._sectors(slot)
            found = decode(place, sectors)
            if found.state is State.HELD:
                raise Misuse(
                    f"Slot {slot} holds version {found.version}, which was left as it is: what is overwritten has no "
                    "receipt. Erase it first, or use another slot."
                )
            if is_known(found, sectors, public_key):
                raise Misuse(
                    f"Slot {slot} held this very key before, or a put of it was cut off; nothing was stored, since a "
                    "receipt would not speak of what disks may have of that. Draw another key."
                )
            version = found.last_version + 1
            await self._write(place, version, secret, public_key)
            return version

    async def _write(self, place: Place, version: int, secret: Buffer, public_key: bytes) -> None:
        """The secret first: what a crash leaves is a prefix (P3), and a label without its secret would say "erased"."""
        label = encode_label(place, version, version, self._array.committer.last + 1, public_key)
        sector = encode_secret(place, version, public_key, secret)
        try:
            await self._array.pwrite(place.secret_start, sector)
            await self._array.pwrite(place.label_start, label)
            await self._array.flush()
        finally:
            wipe(sector)

    async def use(self, slot: int, function: Callable[[bytearray], _T]) -> _T:
        """What `function` makes of the slot's secret, 32 bytes that are wiped when it returns.

        Before it is called, every live disk has proved that this main program still owns the array: else one that was
        overtaken could be shown fragments that a host has recorded, and would use a key that its successor has erased.
        Raises as `lend` does.
        """
        with self._turn():
            secret = await self._lend(slot)
            try:
                return function(secret)
            finally:
                wipe(secret)

    async def lend(self, slot: int) -> bytearray:
        """The secret, as `use` hands it out: the caller's to wipe, and to keep from `erase` until it has.

        Raises Misuse when the slot holds none, saying what it held; Corrupt, Fenced, and what reading raises.
        """
        with self._turn():
            return await self._lend(slot)

    async def _lend(self, slot: int) -> bytearray:
        sectors = await self._sectors(slot)
        found = decode(self._place(slot), sectors)
        if found.state is not State.HELD:
            held = f"version {found.version}, of the public key {found.public_key.hex()}, was erased"
            what = held if found.version else "it never held one"
            raise Misuse(f"Slot {slot} holds no key: {what}. Nothing was used.")
        secret = secret_of(sectors)
        try:
            await self._array.flush()
        except BaseException:
            wipe(secret)
            raise
        return secret

    async def erase(self, slot: int) -> ErasedKey:
        """Erase the slot's secret, and return when every live disk has proved that it holds nothing of it.

        Of a slot that was erased before, another receipt for the same version: the first may have been lost in a
        crash. Raises Misuse for a slot that never held a key, Corrupt, and what `Array.erase` raises.
        """
        with self._turn():
            place = self._place(slot)
            found = decode(place, await self._sectors(slot))
            if not found.version:
                raise Misuse(f"Slot {slot} never held a key, so there is nothing to erase and no receipt.")
            if found.is_torn:  # remember its number before it goes: no version comes twice
                label = encode_label(place, found.version, found.last_version, found.since, found.public_key)
                await self._array.pwrite(place.label_start, label)
            erased = await self._array.erase(place.secret_start, SECTOR_BYTES)
            return ErasedKey(KeyReceipt.signed(self._authority, found, erased.receipt), erased)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._is_busy:
            raise Misuse("The key store is at work for another caller; nothing was done. Let callers take turns.")
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def _place(self, slot: int) -> Place:
        if not 0 <= slot < self._count:
            raise Misuse(f"There is no slot {slot}: the store has slots 0 to {self._count - 1}. Nothing was changed.")
        return Place(self._offset, slot)

    async def _sectors(self, slot: int) -> Buffer:
        return await self._array.pread(self._place(slot).label_start, SLOT_BYTES)

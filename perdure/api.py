"""The Python API: an array as a context manager, for asyncio and for threads.

    with perdure.api.open_array(settings) as array:
        array.pwrite(0, b"state")
        array.flush()

What one must bring is what the loader hands to the main program: the private key, the array's id and the evidence
policy. Addresses are hints. A policy other than the one that the array was created with is refused.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from perdure.array.commands import Authority
from perdure.array.create import create as create_on
from perdure.array.engine import Array, Erased
from perdure.array.geometry import Geometry
from perdure.array.mount import mount
from perdure.array.ports import Buffer
from perdure.array.world import Opened, World
from perdure.evidence.policy import Policy
from perdure.shell.channel import SocketChannel
from perdure.shell.runtime import AsyncioRuntime
from perdure.shell.verify import PolicyVerifier

_T = TypeVar("_T")
ANSWER_MS_MAX = 5_000
DEAD_AFTER_MS = 10_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What a main program is given. `addresses` are hints from the host; everything else is trusted.

    `dead_after_ms`: how long a disk may be silent before it is voted off; until then writes wait for it.
    `attest_every_read`: ask for evidence with every fragment read, not only with tags (slow).
    """

    addresses: tuple[str, ...]
    private_key: bytes
    policy: Policy
    dead_after_ms: int = DEAD_AFTER_MS
    answer_ms_max: int = ANSWER_MS_MAX
    attest_every_read: bool = False

    def __repr__(self) -> str:
        return f"Settings({len(self.addresses)} addresses, private key withheld)"


class Host:
    """The shell of one main program: channels, clock and verifier threads, to be closed together."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runtime = AsyncioRuntime()
        self.verifier = PolicyVerifier(settings.policy)
        self.channels = [SocketChannel(address, settings.answer_ms_max) for address in settings.addresses]
        self.world = World(Authority(settings.private_key), self.verifier, self.runtime, settings.dead_after_ms)

    def start(self, opened: Opened) -> Array:
        """The engine over what a mount or a creation opened."""
        array = Array(self.world, opened, attest_every_read=self.settings.attest_every_read)
        array.start()
        return array

    async def create(self, geometry: Geometry) -> Array:
        """Make an array of the blank disks at the addresses."""
        return self.start(await create_on(self.world, self.channels, geometry, self.settings.policy.digest()))

    async def mount(self, array_id: bytes) -> Array:
        """Take over an array."""
        return self.start(await mount(self.world, self.channels, array_id, self.settings.policy.digest()))

    async def close(self) -> None:
        """Drop the connections and end the threads."""
        for channel in self.channels:
            channel.close()
        await self.runtime.stop()
        self.verifier.close()


@asynccontextmanager
async def _opened(host: Host, opening: Coroutine[Any, Any, Array]) -> AsyncIterator[Array]:
    try:
        array = await opening
        try:
            yield array
        except BaseException:
            array.abandon()  # the block failed: what it did not flush, it did not want acknowledged
            raise
        await array.close()
    finally:
        await host.close()


@asynccontextmanager
async def create_array_async(settings: Settings, *, k: int, n: int, size_bytes: int) -> AsyncIterator[Array]:
    """Make an array of n blank disks and own it until the block ends; keep `array.array_id`.

    Raises Misuse (shape, size, disks that are not blank), BadEvidence, Unavailable; then there is no array.
    """
    geometry = Geometry.for_size(k, n, size_bytes)
    host = Host(settings)
    async with _opened(host, host.create(geometry)) as array:
        yield array


@asynccontextmanager
async def open_array_async(settings: Settings, array_id: bytes) -> AsyncIterator[Array]:
    """Take over array `array_id` and own it until the block ends, which flushes. See `perdure.array.mount`."""
    host = Host(settings)
    async with _opened(host, host.mount(array_id)) as array:
        yield array


class SyncArray:
    """The same array for threads; every method may be called from any thread, and blocks it."""

    def __init__(self, array: Array, loop: asyncio.AbstractEventLoop) -> None:
        self._array = array
        self._loop = loop

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def size(self) -> int:
        """Bytes."""
        return self._array.size_bytes

    @property
    def array_id(self) -> bytes:
        """32 bytes."""
        return self._array.array_id

    def pread(self, offset: int, length: int) -> bytes:
        """See `Array.pread`."""
        return bytes(self._do(self._array.pread(offset, length)))

    def pwrite(self, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """See `Array.pwrite`."""
        self._do(self._array.pwrite(offset, data, fua=fua))

    def flush(self) -> None:
        """See `Array.flush`."""
        self._do(self._array.flush())

    def trim(self, offset: int, length: int) -> None:
        """See `Array.trim`."""
        self._do(self._array.trim(offset, length))

    def erase(self, offset: int, length: int) -> Erased:
        """See `Array.erase`."""
        return self._do(self._array.erase(offset, length))


@contextmanager
def _in_thread(opening: AbstractAsyncContextManager[Array]) -> Iterator[SyncArray]:
    """Run an async context manager of an array on a loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="perdure", daemon=True)
    thread.start()

    def do(work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    try:
        array = do(opening.__aenter__())
        try:
            yield SyncArray(array, loop)
        finally:
            do(opening.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def create_array(settings: Settings, *, k: int, n: int, size_bytes: int) -> AbstractContextManager[SyncArray]:
    """`create_array_async` for threads: a context manager that gives a `SyncArray`."""
    return _in_thread(create_array_async(settings, k=k, n=n, size_bytes=size_bytes))


def open_array(settings: Settings, array_id: bytes) -> AbstractContextManager[SyncArray]:
    """`open_array_async` for threads: a context manager that gives a `SyncArray`."""
    return _in_thread(open_array_async(settings, array_id))

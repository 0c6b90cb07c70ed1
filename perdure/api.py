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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from perdure.array.commands import Authority
from perdure.array.create import create as create_on
from perdure.array.engine import Array
from perdure.array.genesis import Genesis
from perdure.array.geometry import ROSTER_AREA, Geometry, Run
from perdure.array.join import Progress
from perdure.array.mount import mount
from perdure.array.places import Spread
from perdure.array.ports import Buffer
from perdure.array.receipt import Erased
from perdure.array.roster import NO_PROGRAM, Program, Roster
from perdure.array.session import Greeting, Health, Session
from perdure.array.world import Opened, World, persistently
from perdure.disk.wire import NO_EPOCH
from perdure.errors import Misuse
from perdure.evidence.collateral import NONE, Collateral
from perdure.evidence.policy import Policy
from perdure.shell.call import Call
from perdure.shell.channel import SocketChannel
from perdure.shell.runtime import AsyncioRuntime
from perdure.shell.verify import PolicyVerifier

_T = TypeVar("_T")
ANSWER_MS_MAX = 5_000
DEAD_AFTER_MS = 10_000
PROGRESS_S = 0.5
"""How often `on_progress` is called."""
OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a main program is given. `addresses` are hints from the host; everything else is trusted.

    `dead_after_ms`: how long a disk may be silent before it is voted off; until then writes wait for it.
    `attest_every_read`: ask for evidence with every fragment read, not only with tags (slow).
    `acknowledgement_chains`: let FLUSHes rest on links of the disks' chains, with evidence now and then. Faster, and
    weaker: see docs/threat-model.md, section 4. Raises Misuse when the policy does not allow that.
    `program`: which signed main program this is; the array refuses an older one, and another of the same version.
    `freezes`: when silence would leave fewer than k disks, wait for them as long as it takes instead of failing.
    """

    addresses: tuple[str, ...]
    private_key: bytes
    policy: Policy
    dead_after_ms: int = DEAD_AFTER_MS
    answer_ms_max: int = ANSWER_MS_MAX
    attest_every_read: bool = False
    acknowledgement_chains: bool = False
    freezes: bool = False
    program: Program = NO_PROGRAM
    zones: Mapping[str, str] = field(default_factory=dict)
    """What the operator calls the place of an address: no zone may hold more seats than the policy allows."""
    collateral: Callable[[], Collateral] = lambda: NONE
    """Gives what verifiers may need beside evidence; asked for each document."""

    def __post_init__(self) -> None:
        if self.acknowledgement_chains and not self.policy.acknowledgement_chains:
            raise Misuse(
                "Acknowledgement chains are asked for, but the evidence policy does not say `acknowledgement_chains`: "
                "nothing was started. Ask for acknowledgements by evidence; an array's policy cannot be changed."
            )

    def __repr__(self) -> str:
        return f"Settings({len(self.addresses)} addresses, private key withheld)"


_Require = Callable[[Array, int, Session, Greeting], Awaitable[None]]


class Host:
    """The shell of one main program: channels, clock and verifier, to be closed together."""

    def __init__(self, settings: Settings, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change` is called when a disk's health has changed."""
        self.require_trusted: Callable[[bytes, int], None] = lambda _instance, _seat: None
        """Raises Misuse for an instance that is not to be taken back into its seat, whatever it holds."""
        self.settings = settings
        self.runtime = AsyncioRuntime()
        self.verifier = PolicyVerifier(settings.policy, settings.collateral)
        self.channels = [SocketChannel(address, settings.answer_ms_max) for address in settings.addresses]
        policy = settings.policy
        spread = Spread(policy.seats_per_root_max, policy.seats_per_domain_max, settings.zones)
        self.world = World(
            Authority(settings.private_key),
            self.verifier,
            self.runtime,
            settings.dead_after_ms,
            spread,
            has_chains=settings.acknowledgement_chains,
            on_change=on_change,
            freezes=settings.freezes,
            program=settings.program,
        )

    def start(self, opened: Opened) -> Array:
        """The engine over what a mount or a creation opened."""
        array = Array(self.world, opened, attest_every_read=self.settings.attest_every_read)
        array.start()
        return array

    async def create(self, geometry: Geometry, *, is_sealed: bool = True) -> Array:
        """Make an array of the blank disks at the addresses; `is_sealed` is false for one in the clear."""
        digest = self.settings.policy.digest()
        return self.start(await create_on(self.world, self.channels, geometry, digest, is_sealed=is_sealed))

    async def mount(self, array_id: bytes, require: Callable[[Genesis], None] = lambda _: None) -> Array:
        """Take over an array. `require` may refuse it by its genesis record, before anything is changed."""
        digest = self.settings.policy.digest()
        return self.start(await mount(self.world, self.channels, array_id, digest, require))

    # Repair -----------------------------------------------------------------------------------------------

    def channel(self, address: str) -> SocketChannel:
        """A way to one more disk, which `close` closes too. Raises Misuse."""
        channel = SocketChannel(address, self.settings.answer_ms_max)
        self.channels.append(channel)
        return channel

    def require_empty(self, array: Array, seat: int) -> None:
        """Raise Misuse, saying what is there, unless `seat` is an empty one of `array`."""
        count = array.geometry.n
        if not 0 <= seat < count:
            raise Misuse(f"There is no seat {seat}: the array has seats 0 to {count - 1}; nothing was changed.")
        for taken, session in array.members:
            if taken == seat:
                what = "is silent but still a member" if session.health is not Health.ONLINE else "is a live member"
                raise Misuse(
                    f"The disk in seat {seat}, at {session.channel.address}, {what}; nothing was changed. A disk is "
                    f"voted off once it was silent for {self.settings.dead_after_ms / 1000:g} s; only then can its "
                    "seat be rebuilt."
                )

    async def replace(
        self, array: Array, seat: int, address: str, progress: Progress, *, sectors_per_s: int = 0
    ) -> None:
        """Rebuild an empty seat on the fresh disk at `address`; see `Array.join`.

        A disk that was only partly rebuilt counts as fresh. Raises Misuse for one that was a member: it may rejoin.
        """
        await self._join(array, seat, address, progress, sectors_per_s, self._require_fresh)

    async def rejoin(
        self, array: Array, seat: int, address: str, progress: Progress, *, sectors_per_s: int = 0
    ) -> None:
        """Take the disk at `address` back into the seat that it was voted off; it gets what it missed.

        Raises Misuse for a disk that holds nothing of this seat.
        """
        await self._join(array, seat, address, progress, sectors_per_s, self._require_back)

    async def _join(
        self, array: Array, seat: int, address: str, progress: Progress, sectors_per_s: int, require: _Require
    ) -> None:
        self.require_empty(array, seat)
        channel = self.channel(address)
        try:
            session = self.world.session(channel)
            await require(array, seat, session, await persistently(self.world, session.hello))
            await array.join(channel, seat, progress, sectors_per_s=sectors_per_s)
        except BaseException:
            channel.close()
            self.channels.remove(channel)
            raise

    async def _require_fresh(self, array: Array, seat: int, session: Session, greeting: Greeting) -> None:
        if greeting.epoch == NO_EPOCH or not _is_of_seat(array, seat, greeting):
            return  # blank, or the engine says whose it is
        place = Run(array.geometry.current_start, ROSTER_AREA)
        label = await persistently(self.world, lambda: session.peek(greeting, [place]))
        roster = Roster.decode(bytes(label))
        if roster is not None and greeting.instance in roster.members:
            raise Misuse(
                f"The disk at {session.channel.address} is not fresh: it was in seat {seat} before and holds most of "
                f"what it must; nothing was changed. `perdure rejoin {seat}` takes it back."
            )

    async def _require_back(self, array: Array, seat: int, session: Session, greeting: Greeting) -> None:
        roster, address = array.members.roster, session.channel.address
        if greeting.epoch == NO_EPOCH:
            raise Misuse(
                f"The disk at {address} is fresh and holds nothing; nothing was changed. `perdure replace {seat}` "
                f"rebuilds seat {seat} on it."
            )
        self.require_trusted(greeting.instance, seat)
        known = roster.members | {gone.instance for gone in roster.departed}
        if greeting.instance not in known:  # of a member and of another seat's disk the engine says so
            raise Misuse(
                f"The disk at {address} was never in seat {seat} of this array; it was left alone. A fresh disk can "
                f"take the seat with `perdure replace {seat}`."
            )

    # The end ----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Drop the connections and end what runs beside them."""
        for channel in self.channels:
            channel.close()
        await self.runtime.stop()


def _is_of_seat(array: Array, seat: int, greeting: Greeting) -> bool:
    """Whether the roster says that the disk holds, or held, fragments of `seat`."""
    return any(gone.instance == greeting.instance and gone.seat == seat for gone in array.members.roster.departed)


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
async def create_array_async(
    settings: Settings, *, k: int, n: int, size_bytes: int, history_sectors: int = 0, is_sealed: bool = True
) -> AsyncIterator[Array]:
    """Make an array of n blank disks and own it until the block ends; keep `array.array_id`.

    `history_sectors` are kept beside `size_bytes` for `perdure.array.history`; a main program as a service wants
    `perdure.array.geometry.HISTORY_SECTORS`. `is_sealed` is false for an array in the clear, which what runs on it must
    encrypt (docs/design.md, "In the clear").

    Raises Misuse (shape, size, disks that are not blank), BadEvidence, Unavailable; then there is no array.
    """
    geometry = Geometry.for_size(k, n, size_bytes, history_sectors)
    host = Host(settings)
    async with _opened(host, host.create(geometry, is_sealed=is_sealed)) as array:
        yield array


@asynccontextmanager
async def open_array_async(
    settings: Settings, array_id: bytes, require: Callable[[Genesis], None] = lambda _: None
) -> AsyncIterator[Array]:
    """Take over array `array_id` and own it until the block ends, which flushes. See `perdure.array.mount`.

    `require` may refuse it by its genesis record, before anything is changed: for instance one in the clear.
    """
    host = Host(settings)
    async with _opened(host, host.mount(array_id, require)) as array:
        yield array


class SyncArray:
    """The same array for threads; every method may be called from any thread, and blocks it.

    An interrupt (Ctrl-C) while something is under way comes through once that has ended; a second one at once, and then
    it may still be done. `replace`, `rejoin` and `scrub` are long: they go on after an interrupt, until the array is
    closed.
    """

    def __init__(self, host: Host, array: Array, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._array = array
        self._loop = loop

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        call = Call(self._loop, work)
        try:
            call.start()
            return call.result()
        except BaseException:
            # Interrupted: whoever goes on would wipe the buffer, or change its mind, while the array still works.
            call.end()
            raise

    def call(self, work: Callable[[Array], Coroutine[Any, Any, _T]]) -> _T:
        """Run `work` on the array's own loop and return its result: for what stands on an `Array`."""
        return self._do(work(self._array))

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

    # Repair; `on_progress` is called now and then meanwhile.

    def replace(
        self, seat: int, address: str, *, sectors_per_s: int = 0, on_progress: OnProgress | None = None
    ) -> Progress:
        """Rebuild an empty seat on the fresh disk at `address`; see `Host.replace`."""
        progress = Progress(self._array.geometry.sectors)
        work = self._host.replace(self._array, seat, address, progress, sectors_per_s=sectors_per_s)
        return self._follow(work, progress, on_progress)

    def rejoin(
        self, seat: int, address: str, *, sectors_per_s: int = 0, on_progress: OnProgress | None = None
    ) -> Progress:
        """Take back the disk at `address`, which was voted off this seat; see `Host.rejoin`."""
        progress = Progress(self._array.geometry.sectors)
        work = self._host.rejoin(self._array, seat, address, progress, sectors_per_s=sectors_per_s)
        return self._follow(work, progress, on_progress)

    def scrub(self, *, sectors_per_s: int = 0, on_progress: OnProgress | None = None) -> Progress:
        """Read everything from every disk and mend what is wrong; see `Array.scrub`."""
        progress = Progress(self._array.geometry.sectors)
        return self._follow(self._array.scrub(progress, sectors_per_s=sectors_per_s), progress, on_progress)

    def _follow(self, work: Coroutine[Any, Any, None], progress: Progress, on_progress: OnProgress | None) -> Progress:
        call = Call(self._loop, work)
        call.start()
        while not call.wait(PROGRESS_S):
            if on_progress is not None:
                on_progress(progress)
        call.result()
        return progress


@contextmanager
def _in_thread(host: Host, opening: Coroutine[Any, Any, Array]) -> Iterator[SyncArray]:
    """Run an array on a loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="perdure", daemon=True)
    thread.start()

    def do(work: Coroutine[Any, Any, _T]) -> _T:
        call = Call(loop, work)
        call.start()
        return call.result()

    block = _opened(host, opening)
    try:
        array = do(block.__aenter__())
        try:
            yield SyncArray(host, array, loop)
        finally:
            do(block.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def create_array(
    settings: Settings, *, k: int, n: int, size_bytes: int, history_sectors: int = 0, is_sealed: bool = True
) -> Iterator[SyncArray]:
    """`create_array_async` for threads: gives a `SyncArray`. What a block that failed had written is flushed too."""
    geometry = Geometry.for_size(k, n, size_bytes, history_sectors)
    host = Host(settings)
    with _in_thread(host, host.create(geometry, is_sealed=is_sealed)) as array:
        yield array


@contextmanager
def open_array(
    settings: Settings, array_id: bytes, require: Callable[[Genesis], None] = lambda _: None
) -> Iterator[SyncArray]:
    """`open_array_async` for threads: gives a `SyncArray`. What a block that failed had written is flushed too."""
    host = Host(settings)
    with _in_thread(host, host.mount(array_id, require)) as array:
        yield array

"""One seed, one story: an array on hosts that cheat, main programs that come and go, and a history that must hold.

The cores are the real ones. Journal entries are made small (`small_entries`), so that a few writes fill many of them:
then most are sent without evidence and many are in flight, which is where trouble lives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from perdure.array import cache as cache_module
from perdure.array import geometry as geometry_module
from perdure.array.commands import Authority
from perdure.array.create import create
from perdure.array.engine import Array
from perdure.array.geometry import SECTOR_BYTES, Geometry, Run
from perdure.array.join import Progress
from perdure.array.mount import mount
from perdure.array.roster import AREA_BYTES, Label, Roster, choose_base
from perdure.array.world import Opened, World
from perdure.disk import wire
from perdure.errors import Corrupt, PerdureError, Unavailable
from perdure.sim.disks import FastEvidence, SimAttested, SimChannel, SimDisk
from perdure.sim.history import History, Owner, Value, Violation
from perdure.sim.loop import Loop, Stuck, Task

GEOMETRIES = ((2, 3), (3, 5), (4, 6), (4, 7), (5, 9))
DEAD_AFTER_MS = 150
PATIENCE_MS = 20_000
BUSY_OPERATIONS = 300
"""After so many the clients of one story slow down: another seed shows more than more of the same."""
_KEY = bytes(range(1, 33))
_POLICY = b"p" * 32


class LateEvidence(FastEvidence):
    """Checking takes time, some documents longer than others, so answers are not believed in their order."""

    def __init__(self, loop: Loop, latency_ms: float) -> None:
        self._loop = loop
        self._latency_ms = latency_ms

    async def verify(self, document: bytes, commitment: bytes) -> SimAttested:
        """As FastEvidence, later."""
        if self._latency_ms:
            await self._loop.sleep(self._loop.rng.uniform(0, self._latency_ms))
        return await super().verify(document, commitment)


class Main:
    """One main program's process."""

    def __init__(self, number: int, channels: list[SimChannel]) -> None:
        self.number = number
        self.channels = channels
        self.array: Array | None = None
        self.owner: Owner | None = None
        self.is_dead = False
        self.is_stopping = False
        self.tasks: list[Task[None]] = []

    @property
    def is_serving(self) -> bool:
        """Whether it believes that it owns the array."""
        return not self.is_dead and self.array is not None and self.array.committer.failure is None


class Simulation:
    """One seeded run; `run` raises Violation, or Stuck, or whatever defect escapes."""

    def __init__(self, seed: int, k: int, n: int) -> None:
        self.loop = Loop(seed)
        self.rng = self.loop.rng
        self.geometry = Geometry(k, n, self.rng.randint(4, 12))
        self.history = History(self.geometry.sectors)
        self.trace: list[str] = []
        self.seen: Counter[str] = Counter()
        self.authority = Authority(_KEY)
        self.evidence = LateEvidence(self.loop, self.rng.choice((0.0, 0.0, 0.5, 3.0)))
        self.standing: list[SimDisk | None] = [self.new_disk() for _ in range(n)]
        self.shelf: list[tuple[int, SimDisk]] = []
        """Disks that a host withholds and may show again, with their seats."""
        self.mains: list[Main] = []
        self.violation: Exception | None = None
        self.array_id = b""
        self.numbers = 0
        self.is_healed = False
        self.was_hidden: set[int] = set()
        self.latency_ms = self.rng.choice(((0.05, 0.2), (0.05, 2.0), (1.0, 5.0)))
        self.think_ms = self.rng.choice((0.05, 0.5, 5.0))
        self.crash_on_flush = self.rng.choice((0.0, 0.0, 0.02, 0.1))
        self.every_read = self.rng.random() < 0.2

    # Building blocks --------------------------------------------------------------------------------------

    def note(self, what: str) -> None:
        """One line of the trace."""
        self.trace.append(f"{self.loop.time_ms:10.3f} {what}")

    def did(self, kind: str, detail: str = "") -> None:
        """A fault happened: count it and note it."""
        self.seen[kind] += 1
        self.note(f"host: {kind} {detail}".rstrip())

    def new_disk(self) -> SimDisk:
        """A fresh launch of the disk program."""
        return SimDisk(self.loop, self.authority.public_key, self.geometry.disk_bytes)

    def world(self) -> World:
        """What a main program acts in."""
        return World(self.authority, self.evidence, self.loop, DEAD_AFTER_MS)

    def channel(self, seat: int) -> SimChannel:
        """A way to whatever stands at a seat's address."""
        channel = SimChannel(self.loop, f"disk-{seat}", lambda: self.standing[seat])
        channel.latency_ms = self.latency_ms
        channel.answer_ms_max = 40.0
        return channel

    def start(self, main: Main, work: Coroutine[Any, Any, None]) -> Task[None]:
        """Run `work` in a main program's process; an error of ours ends it, anything else the run."""

        async def guarded() -> None:
            try:
                await work
            except PerdureError as error:
                self.note(f"main {main.number}: {type(error).__name__}: {str(error)[:100]}")
            except Exception as error:  # a violation or a defect: the end of the run
                self.violation = self.violation or error

        task = Task(self.loop, guarded(), main)
        main.tasks.append(task)
        return task

    def new_main(self) -> Main:
        """A main program with its own connections."""
        main = Main(len(self.mains), [self.channel(seat) for seat in range(self.geometry.n)])
        self.mains.append(main)
        return main

    def kill_main(self, main: Main) -> None:
        """Its process dies where it stands."""
        if not main.is_dead:
            main.is_dead = True
            self.note(f"main {main.number}: killed")
            self.loop.kill(main)

    # A main program's life --------------------------------------------------------------------------------

    async def live(self, main: Main, opening: Coroutine[Any, Any, Opened]) -> None:
        """Mount or create, look at everything, then serve clients until the end."""
        opened = await opening
        main.owner = self.history.opened(opened.epoch)
        self.array_id = opened.genesis.array_id
        self.note(f"main {main.number}: serves with {len(opened.sessions)} disks from entry {opened.last}")
        self.seen["mounts"] += 1
        main.array = Array(self.world(), opened, attest_every_read=self.every_read)
        self.observe(main.array, main.owner)
        main.array.start()
        await self.read(main, 0, self.geometry.sectors)
        for _ in range(self.rng.randint(1, 4)):
            self.start(main, self.client(main))

    def observe(self, array: Array, owner: Owner) -> None:
        """Tell the history of everything that enters the cache, at the moment at which it does."""
        write, trim = array.cache.write, array.cache.trim

        def on_write(index: int, data: bytes) -> None:
            self.history.entered(owner, index, _value(data))
            write(index, data)

        def on_trim(run: Run) -> None:
            for index in range(run.start, run.end):
                self.history.trimmed(owner, index)
            trim(run)

        vars(array.cache).update(write=on_write, trim=on_trim)

    async def client(self, main: Main) -> None:
        """Reads and writes until something goes wrong for good."""
        actions = (self.write, self.write, self.write_part, self.trim, self.flush, self.read_some, self.burst)
        while main.is_serving and not main.is_stopping:
            think_ms = self.think_ms if self.seen["operations"] < BUSY_OPERATIONS else 10.0
            await self.loop.sleep(self.rng.expovariate(1 / think_ms))
            try:
                await self.rng.choice(actions)(main)
                self.seen["operations"] += 1
            except PerdureError as error:
                self.note(f"main {main.number}: {type(error).__name__}: {str(error)[:100]}")

    def parts(self, main: Main) -> tuple[Array, Owner]:
        """Its array and its place in the history."""
        assert main.array is not None
        assert main.owner is not None
        return main.array, main.owner

    def number(self, owner: Owner) -> int:
        """One that was never written."""
        self.numbers += 1
        owner.issued.add(self.numbers)
        return self.numbers

    async def write(self, main: Main) -> None:
        """One sector, durable at once or not."""
        array, owner = self.parts(main)
        index, number, fua = self.rng.randrange(self.geometry.sectors), self.number(owner), self.rng.random() < 0.2
        call = self.history.called(owner)
        self.note(f"main {main.number}: writes {number} to {index}{' durably' if fua else ''}")
        await array.pwrite(index * SECTOR_BYTES, number.to_bytes(8, "big") * (SECTOR_BYTES // 8), fua=fua)
        self.history.wrote(call, index, number)
        if fua:
            covers = next(at for at, (_, value) in enumerate(owner.log) if number in value) + 1
            self.history.flushed(call, covers)
            self.flushed(main, covers)

    async def write_part(self, main: Main) -> None:
        """Half a sector, which is merged with the other half."""
        array, owner = self.parts(main)
        index, number, half = self.rng.randrange(self.geometry.sectors), self.number(owner), self.rng.randrange(2)
        call = self.history.called(owner)
        self.note(f"main {main.number}: writes {number} to half {half} of {index}")
        data = number.to_bytes(8, "big") * (SECTOR_BYTES // 16)
        await array.pwrite(index * SECTOR_BYTES + half * SECTOR_BYTES // 2, data)
        self.history.wrote(call, index, number)

    async def burst(self, main: Main) -> None:
        """Many sectors in one call: several entries in flight."""
        array, owner = self.parts(main)
        count = self.rng.randint(2, self.geometry.sectors)
        first = self.rng.randint(0, self.geometry.sectors - count)
        numbers = [self.number(owner) for _ in range(count)]
        call = self.history.called(owner)
        self.note(f"main {main.number}: writes {numbers[0]} to {numbers[-1]} from {first}")
        data = b"".join(number.to_bytes(8, "big") * (SECTOR_BYTES // 8) for number in numbers)
        await array.pwrite(first * SECTOR_BYTES, data)
        for at, number in enumerate(numbers):
            self.history.wrote(call, first + at, number)

    async def trim(self, main: Main) -> None:
        """A run of sectors."""
        array, _ = self.parts(main)
        first = self.rng.randrange(self.geometry.sectors)
        count = self.rng.randint(1, self.geometry.sectors - first)
        self.note(f"main {main.number}: trims {count} from {first}")
        await array.trim(first * SECTOR_BYTES, count * SECTOR_BYTES)

    async def flush(self, main: Main) -> None:
        """A FLUSH, or once in a while an erasure, which ends with one."""
        array, owner = self.parts(main)
        call = self.history.called(owner)
        if self.rng.random() < 0.1:
            await array.committer.settle()
        else:
            await array.flush()
        self.history.flushed(call, call.start)
        self.flushed(main, call.start)

    def flushed(self, main: Main, covers: int) -> None:
        """Note it; a crash just now is the most interesting one."""
        self.note(f"main {main.number}: has flushed {covers} writes")
        self.seen["flushes"] += 1
        if not self.is_healed and self.rng.random() < self.crash_on_flush:
            self.did("crash after FLUSH")
            self.loop.call_later(self.rng.uniform(0, 0.5), lambda: self.kill_main(main))

    async def read_some(self, main: Main) -> None:
        """A run of sectors."""
        first = self.rng.randrange(self.geometry.sectors)
        await self.read(main, first, self.rng.randint(1, self.geometry.sectors - first))

    async def read(self, main: Main, first: int, count: int) -> None:
        """Read and check."""
        array, owner = self.parts(main)
        call = self.history.called(owner)
        data = bytes(await array.pread(first * SECTOR_BYTES, count * SECTOR_BYTES))
        values = [_value(data[at * SECTOR_BYTES : (at + 1) * SECTOR_BYTES]) for at in range(count)]
        self.note(f"main {main.number}: reads {values} from {first}")
        for at, value in enumerate(values):
            self.history.read(call, first + at, value)

    async def join(self, main: Main, seat: int) -> None:
        """Fill an empty seat with what stands at its address."""
        array, _ = self.parts(main)
        channel = self.channel(seat)
        main.channels.append(channel)
        self.did("join", f"seat {seat}")
        await array.join(channel, seat, Progress(self.geometry.sectors))
        self.did("joined", f"seat {seat}")

    # The whole story --------------------------------------------------------------------------------------

    def run(self, trouble: Coroutine[Any, Any, None]) -> None:
        """Create, let trouble happen, then heal everything and see what is left."""
        first = self.new_main()
        self.start(first, self.live(first, create(self.world(), first.channels, self.geometry, _POLICY)))
        self.go(Task(self.loop, trouble, None))
        self.finish()

    def go(self, task: Task[None]) -> None:
        """Step until `task` is done or a promise is broken."""
        while not task.done and self.violation is None:
            self.loop.step()
        self.loop.check()
        if self.violation is not None:
            raise self.violation
        if task.error is not None:
            raise task.error

    def mount(self, main: Main) -> Task[None]:
        """Begin a mount in the process of `main`."""
        return self.start(main, self.live(main, mount(self.world(), main.channels, self.array_id, _POLICY)))

    def finish(self) -> None:
        """All hosts behave from now on: whoever waits must go on, and an array with k members here must be served."""
        self.heal()
        for main in self.mains:
            main.is_stopping = True
            self.loop.resume(main)
        self.wait("an operation", [task for main in self.mains if not main.is_dead for task in main.tasks])
        for main in self.mains:
            self.kill_main(main)
        if not self.array_id:
            return
        can_serve = self.can_serve()
        last = self.new_main()
        self.note("the last mount")
        self.wait("the last mount", [self.mount(last)])
        if last.array is None:
            self.seen["ended unavailable"] += 1
            if can_serve:
                raise Violation("enough members are here, all hosts behave, and the array cannot be mounted")
            return
        last.is_stopping = True
        self.wait("the last reads", last.tasks)
        self.wait("the last writes", [self.start(last, work(last)) for work in (self.burst, self.flush, self.write)])
        if last.array.committer.failure is not None:
            raise Violation(f"all hosts behave, and the array stops: {last.array.committer.failure}")
        self.wait("the last look", [self.start(last, self.read(last, 0, self.geometry.sectors))])

    def wait(self, what: str, tasks: list[Task[None]]) -> None:
        """Let time pass until all are done, but not for ever."""
        end_ms = self.loop.time_ms + PATIENCE_MS

        async def watch() -> None:
            while not all(task.done for task in tasks):
                if self.loop.time_ms > end_ms:
                    raise Stuck(f"{what} does not end")
                await self.loop.sleep(20)

        self.go(Task(self.loop, watch(), None))

    def heal(self) -> None:
        """The genuine disks stand at their addresses, and every connection works."""
        self.note("all hosts behave from here on")
        self.is_healed = True
        for seat, disk in self.shelf:
            stands = self.standing[seat]
            if disk.is_alive and (stands is None or not stands.is_alive or stands.instance not in self.members()):
                self.standing[seat] = disk
        for main in self.mains:
            for channel in main.channels:
                channel.is_silent, channel.tamper, channel.intercept = False, None, None

    def members(self) -> frozenset[bytes]:
        """Who counts, as one who sees into every disk would say; nobody when that cannot be said."""
        try:
            return choose_base(self.labels(everywhere=True)).members
        except Unavailable:
            return frozenset()

    def can_serve(self) -> bool:
        """Whether k members of the roster that counts stand at their addresses."""
        here = [disk.instance for disk in self.standing if disk is not None and disk.is_alive]
        return len(self.members() & set(here)) >= self.geometry.k

    def labels(self, *, everywhere: bool) -> dict[bytes, Label]:
        """The rosters in the memories of all living disks."""
        disks = [disk for disk in self.standing if disk is not None]
        disks += [disk for _, disk in self.shelf] if everywhere else []
        found = {}
        for disk in disks:
            if disk.is_alive and disk.core.epoch != wire.NO_EPOCH:
                try:
                    places = (self.geometry.current_start * 64, self.geometry.next_start * 64)
                    areas = [Roster.decode(bytes(disk.memory[at : at + AREA_BYTES])) for at in places]
                except Corrupt:
                    continue
                found[disk.instance] = Label(*areas)
        return found

    @property
    def digest(self) -> str:
        """Of the whole trace: equal for equal seeds."""
        return sha256("\n".join(self.trace).encode()).hexdigest()


@contextmanager
def small_entries() -> Iterator[None]:
    """Entries of at most 3 sectors and 2 trims, and slots to fit."""
    names = ("ENTRY_SECTORS_MAX", "ENTRY_TRIMS_MAX")
    kept = [(module, name, vars(module)[name]) for module in (cache_module, geometry_module) for name in names]
    for module, name, _ in kept:
        vars(module)[name] = 3 if name == "ENTRY_SECTORS_MAX" else 2
    try:
        yield
    finally:
        for module, name, value in kept:
            vars(module)[name] = value


def _value(data: bytes) -> Value:
    """The two halves of a sector. Raises Violation when one of them is not of one piece."""
    halves = bytes(data[: SECTOR_BYTES // 2]), bytes(data[SECTOR_BYTES // 2 :])
    numbers = int.from_bytes(halves[0][:8], "big"), int.from_bytes(halves[1][:8], "big")
    for half, number in zip(halves, numbers, strict=True):
        if half != number.to_bytes(8, "big") * (SECTOR_BYTES // 16):
            raise Violation("half a sector is neither old nor new")
    return numbers

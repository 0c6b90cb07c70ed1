"""One seed's story: an array on hosts that cheat, main programs that come and go, and promises that must hold.

A story is told from a *plan* (`perdure.sim.plan`): what the world is like (`Setup`) and a list of timed steps, each a
fault or an operation. Steps are values: they can be printed, left out, and told again. The cores are the real ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any

from perdure.array import cache as cache_module
from perdure.array import geometry as geometry_module
from perdure.array import history as history_module
from perdure.array import join as join_module
from perdure.array import scrub as scrub_module
from perdure.array import tags as tags_module
from perdure.array.commands import Authority
from perdure.array.create import create
from perdure.array.geometry import SECTOR_BYTES, Geometry
from perdure.array.roster import AREA_BYTES, Label, Roster, choose_base
from perdure.array.world import World
from perdure.disk import wire
from perdure.disk.core import DiskCore
from perdure.errors import Corrupt, Unavailable
from perdure.service.site.config import RepairSection
from perdure.sim.checks import ProofsOnce, Wiretap
from perdure.sim.disks import Evidence, FastEvidence, SimChannel, SimDisk
from perdure.sim.hardware import Hardware
from perdure.sim.history import History, Violation
from perdure.sim.loop import Loop, Stuck, Task
from perdure.sim.mains import Main
from perdure.sim.mending import LOOK_MS, Site
from perdure.sim.records import Records
from perdure.sim.signatures import CheapAuthority, CheapDisk

DEAD_AFTER_MS = 150
ANSWER_MS_MAX = 40.0
PATIENCE_MS = 20_000
DRAIN_MS = 100
"""More than any message takes."""
POLICY = b"p" * 32
RECORD_BYTES_MAX = 8160
"""Of the history: three sectors."""
_KEY = bytes(range(1, 33))


@dataclass(frozen=True, slots=True)
class Setup:
    """What one story's world is like; everything that happens in it is in the steps."""

    seed: int
    k: int
    n: int
    sectors: int
    starts_ms: float = 100
    """When the first step happens; zero troubles the creation as well."""
    latency_ms: tuple[float, float] = (0.05, 0.2)
    evidence_ms: float = 0
    """How long checking a document may take; some take longer than others."""
    attests_every_read: bool = False
    speaks_nbd: bool = False
    real_signatures: bool = False
    real_evidence: bool = False
    has_chains: bool = False
    has_leaks: bool = False
    """Whether hosts learn secrets of chains; then a FLUSH counts only once evidence has come after it."""
    ring: int = 0
    """How many sectors the array's history has, beside `sectors`; 0: the array keeps none."""
    spares: int = 0
    replace_rate: int | None = None
    """Of spares that are rebuilt, in bytes a second."""
    freezes: bool = False


class Step:
    """One thing that happens in a story. Frozen dataclasses; `str` is the line that people read."""

    __slots__ = ()
    kind = ""
    """What coverage calls it; operations have none."""

    def happen(self, story: Story) -> bool:
        """Do it; whether it made a difference (a disk that is dead already cannot die)."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Timed:
    """A step and when it happens, counted from `Setup.starts_ms`."""

    at_ms: float
    step: Step

    def __str__(self) -> str:
        return f"t={self.at_ms:.4g}ms {self.step}"


class Story:
    """One telling of a plan. `run` raises Violation, or Stuck, or whatever defect escapes."""

    def __init__(self, setup: Setup, steps: Sequence[Timed]) -> None:
        self.setup = setup
        self.steps = steps
        self.loop = Loop(setup.seed)
        self.geometry = Geometry(setup.k, setup.n, setup.sectors + setup.ring, setup.ring)
        self.history = History(self.geometry.sectors)
        self.records = Records(setup.ring)
        self.trace: list[str] = []
        self.seen: Counter[str] = Counter()
        """How often each kind of fault happened; `told` counts the rest."""
        self.told: Counter[str] = Counter()
        self.disks: list[SimDisk] = []
        """Every launch there was."""
        if setup.evidence_ms:
            self.seen["late evidence"] += 1
        if setup.has_chains:
            self.seen["acknowledgement chains"] += 1
        self.authority = Authority(_KEY)
        self._cheap_authority = self.authority if setup.real_signatures else CheapAuthority(_KEY)
        self._core: type[DiskCore] = DiskCore if setup.real_signatures else CheapDisk
        self.wiretap = Wiretap(self.geometry, _KEY)
        self._evidence: Evidence = Hardware(self.loop) if setup.real_evidence else FastEvidence()
        self.proofs = ProofsOnce(self.loop, setup.evidence_ms, self._evidence)
        self.standing: list[SimDisk | None] = [self.new_disk(place) for place in range(setup.n + setup.spares)]
        """What answers at each address: those of the first disks, by seat, then those of spares."""
        addresses = [_address(place) for place in range(setup.n + setup.spares)]
        self.site = Site(addresses[: setup.n], addresses[setup.n :], RepairSection(replace_rate=setup.replace_rate))
        self.shelf: list[tuple[int, SimDisk]] = []
        """Disks that a host withholds and may show again, with their seats."""
        self.mains: list[Main] = []
        self.array_id = b""
        self.is_healed = False
        self.reached = 0
        """How many steps have been told."""
        self.was_hidden: set[int] = set()
        """Seats of disks that some main program did without for a while: the interesting ones to show the next."""
        self._numbers = 0
        self._violation: Exception | None = None

    # What steps use ---------------------------------------------------------------------------------------

    def note(self, what: str) -> None:
        """One line of the trace."""
        self.trace.append(f"{self.loop.time_ms:10.3f} {what}")

    def later(self, ms: float, call: Callable[[], object]) -> None:
        """Call it then, unless all hosts behave by then."""

        def unless_healed() -> None:
            if not self.is_healed:
                call()

        self.loop.call_later(ms, unless_healed)

    def fail(self, error: Exception) -> None:
        """A promise is broken, or something that must not happen has."""
        self._violation = self._violation or error

    def new_disk(self, seat: int) -> SimDisk:
        """A fresh launch of the disk program, for the address of a seat."""
        disk = SimDisk(self.loop, self.authority.public_key, self.geometry.disk_bytes, self._core, self._evidence)
        self.disks.append(disk)
        self.wiretap.seats[disk.instance] = seat
        return disk

    def world(self, main: Main, *, signs_receipts: bool = False) -> World:
        """What a main program acts in; one that signs receipts signs in earnest."""
        authority = self.authority if signs_receipts else self._cheap_authority
        setup = self.setup
        return World(
            authority,
            self.proofs,
            self.loop,
            DEAD_AFTER_MS,
            has_chains=setup.has_chains,
            freezes=setup.freezes,
            on_change=main.health_has_changed,
        )

    def place(self, address: str) -> int:
        """Where in `standing` that is."""
        return int(address.removeprefix(_address("")))

    def channel(self, main: Main, place: int) -> SimChannel:
        """A main program's way to whatever stands at an address."""
        rng = Random(self.setup.seed << 16 | main.number << 8 | place)  # noqa: S311 (a simulation must repeat)
        channel = SimChannel(self.loop, _address(place), lambda: self.standing[place], rng)
        channel.latency_ms = self.setup.latency_ms
        channel.answer_ms_max = ANSWER_MS_MAX
        channel.may_leave = lambda command: main.may_send(command) and self.wiretap.heard(command)
        return channel

    def new_main(self) -> Main:
        """A main program with its own connections."""
        main = Main(self, len(self.mains))
        self.mains.append(main)
        return main

    def main(self, back: int) -> Main:
        """The newest living main program, or one `back` before it."""
        alive = [main for main in self.mains if not main.is_dead] or self.mains
        return alive[max(0, len(alive) - 1 - back)]

    def serving(self, back: int) -> Main | None:
        """The same of those that believe that they own the array."""
        serving = [main for main in self.mains if main.is_serving]
        return serving[max(0, len(serving) - 1 - back)] if serving else None

    def number(self) -> int:
        """One that was never written."""
        self._numbers += 1
        return self._numbers

    def alive(self, seat: int) -> SimDisk | None:
        """The disk that stands at an address, if it is alive."""
        disk = self.standing[seat]
        return disk if disk is not None and disk.is_alive else None

    # The whole story --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Create, tell the steps, then let all hosts behave and see what is left."""
        self._go(Task(self.loop, self._tell(), None))
        self._finish()
        if self.setup.has_chains:
            self.told["links shown"] += sum(disk.link_count for disk in self.disks)
        self.wiretap.require_fresh_keys()

    async def _tell(self) -> None:
        first = self.new_main()
        first.live(create(self.world(first), first.channels, self.geometry, POLICY))
        for timed in self.steps:
            await self.loop.sleep(self.setup.starts_ms + timed.at_ms - self.loop.time_ms)
            self.reached += 1
            if timed.step.happen(self) and timed.step.kind:
                self.seen[timed.step.kind] += 1
                self.note(f"* {timed.step}")

    def _go(self, task: Task[None]) -> None:
        """Step until `task` is done or a promise is broken."""
        step = self.loop.step
        while not task.done and self._violation is None:
            step()
        self.loop.check()
        if self._violation is not None:
            raise self._violation
        if task.error is not None:
            raise task.error

    def _finish(self) -> None:
        """All hosts behave from now on: whoever waits must go on, and an array with k members here must be served."""
        self._heal()
        for main in self.mains:
            main.is_stopping, main.doom = True, None
            self.loop.resume(main)
        self._wait("an operation", [task for main in self.mains if not main.is_dead for task in main.tasks])
        for main in self.mains:
            main.die()
        self.loop.run_for(DRAIN_MS)  # an OPEN still on its way would fence the last mount: that is allowed, and no use
        if not self.array_id:
            self.told["never created"] += 1
            return
        last = self._last_mount("the last mount")
        if last is None:
            self.told["ended unavailable"] += 1
            return
        self._require(last, "the last writes", last.last_writes())
        if last.mending is not None:
            self._require(last, "the use of the last spares", self._spares_are_used(last))
        self._lose_all_that_may_be_lost(last)
        survivor = self._last_mount("the mount of the survivors")
        if survivor is not None:
            self._require(survivor, "the last look", survivor.read(0, self.setup.sectors))

    def _last_mount(self, what: str) -> Main | None:
        """A mount while all hosts behave, and all there is to read; None when too few members are here."""
        can_serve = self._can_serve()
        main = self.new_main()
        self.note(what)
        self._wait(what, [main.mount()])
        if main.array is None:
            if can_serve:
                raise Violation(f"enough members are here, all hosts behave, and {what} fails: {main.last_error}")
            return None
        if main.last_error is not None:
            raise Violation(f"all hosts behave, and what {what} found cannot be read: {main.last_error}")
        return main

    def _require(self, main: Main, what: str, work: Coroutine[Any, Any, None]) -> None:
        """Do it; hosts behave, so nothing may fail."""
        self._wait(what, [main.start(work)])
        if main.last_error is not None:
            raise Violation(f"all hosts behave, and {what} fail: {main.last_error}")

    async def _spares_are_used(self, main: Main) -> None:
        """Raises Violation when a seat stays empty for long though a spare could take it."""
        assert main.array is not None
        end_ms = self.loop.time_ms + PATIENCE_MS / 2
        while (spare := self._usable_spare(main.array.members.roster)) is not None:
            if self.loop.time_ms > end_ms:
                raise Violation(f"a seat is empty, all hosts behave, and the spare at {spare} does not take it")
            await self.loop.sleep(LOOK_MS)

    def _usable_spare(self, roster: Roster) -> str | None:
        """Where a disk is that is free, or was only partly rebuilt for a seat that is empty.

        One that is named for a seat is good for no other, even if it was never opened (`Join._meet`).
        """
        if None not in roster.seats:
            return None
        named = {gone.instance: roster.seats[gone.seat] for gone in roster.departed}
        for address in self.site.spares:
            disk = self.alive(self.place(address))
            if disk is None or disk.instance in roster.members:
                continue
            label = self._label(disk)
            was_member = label is not None and label.current is not None and disk.instance in label.current.members
            is_free = disk.core.epoch == wire.NO_EPOCH and disk.instance not in named
            if is_free or (named.get(disk.instance, disk.instance) is None and not was_member):
                return address
        return None

    def _lose_all_that_may_be_lost(self, main: Main) -> None:
        """P2: what is flushed survives the loss of any n - k disks, those voted off counted among them."""
        assert main.array is not None
        main.die()
        members = main.array.members.roster.members
        here = [at for at, disk in enumerate(self.standing) if disk is not None and disk.instance in members]
        for seat in self.loop.rng.sample(here, len(members) - self.geometry.k):
            self.note(f"disk {seat} is lost")
            self.standing[seat] = None

    def _wait(self, what: str, tasks: list[Task[None]]) -> None:
        """Let time pass until all are done, but not for ever."""
        end_ms = self.loop.time_ms + PATIENCE_MS

        async def watch() -> None:
            while not all(task.done for task in tasks):
                if self.loop.time_ms > end_ms:
                    raise Stuck(f"{what} does not end")
                await self.loop.sleep(5)

        self._go(Task(self.loop, watch(), None))

    def _heal(self) -> None:
        """The genuine disks stand at their addresses, and every connection works."""
        self.note("all hosts behave from here on")
        self.is_healed = True
        members = self.members()
        for seat, disk in self.shelf:
            stands = self.standing[seat]
            if disk.is_alive and (stands is None or not stands.is_alive or stands.instance not in members):
                self.standing[seat] = disk
        for main in self.mains:
            for channel in main.channels:
                channel.is_silent, channel.tamper, channel.intercept = False, None, None
                channel.lane_delay_ms = [0.0, 0.0]

    # What one knows who sees into every disk --------------------------------------------------------------

    def members(self) -> frozenset[bytes]:
        """Who counts; nobody when that cannot be said."""
        try:
            return choose_base(self._labels()).members
        except Unavailable:
            return frozenset()

    def _can_serve(self) -> bool:
        """Whether k members of the roster that counts stand at their addresses."""
        here = [disk.instance for disk in self.standing if disk is not None and disk.is_alive]
        return len(self.members() & set(here)) >= self.geometry.k

    def _labels(self) -> dict[bytes, Label]:
        """The rosters in the memories of all living disks, shown or not."""
        disks = [disk for disk in (*self.standing, *(disk for _, disk in self.shelf)) if disk is not None]
        found = {disk.instance: self._label(disk) for disk in disks if disk.is_alive}
        return {instance: label for instance, label in found.items() if label is not None}

    def _label(self, disk: SimDisk) -> Label | None:
        """What one disk says of the array; None when it was never opened."""
        if disk.core.epoch == wire.NO_EPOCH:
            return None
        places = (self.geometry.current_start * 64, self.geometry.next_start * 64)
        try:
            return Label(*(Roster.decode(bytes(disk.memory[at : at + AREA_BYTES])) for at in places))
        except Corrupt:
            return None

    @property
    def digest(self) -> str:
        """Of the whole trace: equal for equal plans."""
        return sha256("\n".join(self.trace).encode()).hexdigest()


_SMALL = (
    (cache_module, "ENTRY_SECTORS_MAX", 3),
    (geometry_module, "ENTRY_SECTORS_MAX", 3),
    (cache_module, "ENTRY_TRIMS_MAX", 2),
    (geometry_module, "ENTRY_TRIMS_MAX", 2),
    (join_module, "CHUNK_SECTORS", 3),
    (scrub_module, "SCRUB_SECTORS", 3),
    (tags_module, "GROUP_TAGS", 4),
    (history_module, "BODY_BYTES_MAX", RECORD_BYTES_MAX),
    (history_module, "_CHUNK", 3),
)


@contextmanager
def small_everything() -> Iterator[None]:
    """Make journal entries, and what is read and rebuilt at once, small, so that a few writes fill many of them.

    Then most entries are sent without evidence and many are in flight, which is where trouble lives.
    """
    kept = [(module, name, vars(module)[name]) for module, name, _ in _SMALL]
    for module, name, value in _SMALL:
        vars(module)[name] = value
    try:
        yield
    finally:
        for module, name, value in kept:
            vars(module)[name] = value


def _address(place: int | str) -> str:
    return f"disk-{place}"


def sector_of(number: int) -> bytes:
    """What a write of `number` puts into a sector."""
    return number.to_bytes(8, "big") * (SECTOR_BYTES // 8)

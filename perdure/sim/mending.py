"""What mends an array in a story: an operator who takes disks offline and back, spares that take seats by themselves.

`perdure.service.upkeep.automatic` decides, and `perdure.api.Host` carries out, both as they are. What stands here in
the place of `perdure.service.upkeep.repair` is the order of its works, over virtual time, and the configuration that
outlives main programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from perdure.api import Host
from perdure.array.engine import Array
from perdure.array.geometry import SECTOR_BYTES
from perdure.array.join import Progress
from perdure.array.session import Session
from perdure.array.world import World
from perdure.errors import Misuse, PerdureError
from perdure.service.control import Request
from perdure.service.observe import observe
from perdure.service.site.config import Config, RepairSection
from perdure.service.status import Repair, RepairState, Verb
from perdure.service.telling.events import EventLog, Kind, Level
from perdure.service.upkeep.automatic import Automatic
from perdure.service.upkeep.repair import Repairs
from perdure.shell.channel import SocketChannel
from perdure.sim.history import Violation
from perdure.sim.loop import Lock, Task

if TYPE_CHECKING:
    from perdure.sim.mains import Main
    from perdure.sim.story import Story

LOOK_MS = 50
"""How often a main program looks whether something is to be mended; a disk may be silent for thrice as long."""


@dataclass(slots=True)
class Site:
    """The configuration's addresses, which outlive main programs."""

    addresses: list[str]
    """By seat."""
    spares: list[str]
    repair: RepairSection = field(default_factory=RepairSection)


class _SimHost(Host):
    """What joins disks, over simulated channels."""

    def __init__(self, story: Story, main: Main, world: World) -> None:
        self._story = story
        self._main = main
        self.world = world
        self.channels = cast(list[SocketChannel], main.channels)

    def channel(self, address: str) -> SocketChannel:
        """A way to whatever stands at an address."""
        channel = self._story.channel(self._main, self._story.place(address))
        self._main.channels.append(channel)
        return cast(SocketChannel, channel)

    def require_empty(self, array: Array, seat: int) -> None:
        """Raises Misuse; the real one says much more."""
        if array.members.roster.seats[seat] is not None:
            raise Misuse(f"seat {seat} is not empty; nothing was changed")


@dataclass(slots=True, eq=False)
class _Work:
    verb: Verb
    seat: int
    address: str
    progress: Progress
    sectors_per_s: int
    state: RepairState = RepairState.WAITING


class Mending:
    """All that is mended in one main program's array. To `Automatic` it is the service's `Repairs` and `EventLog`."""

    began_unix_ms: int | None = None
    is_loaded = True

    def __init__(self, story: Story, main: Main, array: Array, world: World) -> None:
        self._story = story
        self._main = main
        self._array = array
        self._host = _SimHost(story, main, world)
        self._works: dict[int, _Work] = {}
        self._one_at_a_time = Lock(story.loop)
        self._offline: dict[int, bytes] = {}
        """Who was taken offline, by seat, until that seat is filled again."""
        self._observe_adoptions()
        self._automatic = Automatic(cast(Config, story.site), cast(Repairs, self), cast(EventLog, self))
        for seat, session in array.members:
            self._keep_address(seat, session.channel.address)
        Task(story.loop, self._watch(), main)

    def _observe_adoptions(self) -> None:
        adopt = self._array.committer.adopt

        async def on_adopt(seat: int, joiner: Session) -> None:
            self._offline.pop(seat, None)
            await adopt(seat, joiner)

        vars(self._array.committer)["adopt"] = on_adopt

    # The operator -----------------------------------------------------------------------------------------

    async def take_offline(self, seat: int) -> None:
        """Raises what `Array.take_offline` does."""
        instance = self._array.members.roster.seats[seat]
        await self._array.take_offline(seat)
        assert instance is not None
        self._offline[seat] = instance
        self._story.seen["taken offline"] += 1

    def is_offline(self, seat: int) -> bool:
        """Whether the disk that was taken offline is the last that had this seat, or was to have it."""
        roster = self._array.members.roster
        held = [gone.instance for gone in roster.departed if gone.seat == seat]
        return roster.seats[seat] is None and bool(held) and held[-1] == self._offline.get(seat)

    # What `Automatic` asks --------------------------------------------------------------------------------

    def is_empty(self, seat: int) -> bool:
        """As `Repairs.is_empty`."""
        return self._array.members.roster.seats[seat] is None

    def start(self, request: Request) -> Mapping[str, Any]:
        """As `Repairs.start`. Raises Misuse. Raises Violation for a spare in the seat of a disk that is offline."""
        self._array.committer.require_working()
        seat, verb = request.seat, Verb(request.do)
        assert seat is not None
        running = self._works.get(seat)
        if running is not None and not running.state.is_over:
            raise Misuse(f"seat {seat} is being rebuilt already; nothing was changed")
        self._host.require_empty(self._array, seat)
        if verb is Verb.REPLACE:
            if self.is_offline(seat):
                raise Violation(f"a spare takes seat {seat}, whose disk an operator took offline")
            self._story.seen["spare"] += 1
        address = request.address or self._story.site.addresses[seat]
        sectors_per_s = (request.bytes_per_s_max or 0) // SECTOR_BYTES
        work = _Work(verb, seat, address, Progress(self._array.geometry.sectors), sectors_per_s)
        self._works[seat] = work
        self._main.start(self._run(work))
        return {}

    def note(self, _kind: Kind, _level: Level, message: str, *, seat: int | None = None) -> None:
        """As `EventLog.note`: it goes into the array's history."""
        del seat
        self._main.note(f"event: {message}")
        if self._main.recorder is not None:
            self._main.start(self._main.recorder.append(self._story.number(), len(message)))

    def latest(self, _state: str) -> None:
        """As `EventLog.latest`: nothing is known of scrubs, and none is due."""
        return

    # Work -------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look, for as long as this main program has the array."""
        try:
            while self._array.committer.failure is None:
                await self._story.loop.sleep(LOOK_MS)
                if not self._main.is_stopping and None in self._array.members.roster.seats:
                    self._look()
        except Exception as error:  # a violation or a defect: the end of the story
            self._story.fail(error)

    def _look(self) -> None:
        loop, addresses = self._story.loop, self._story.site.addresses
        status = observe(self._array, addresses, loop.now_ms(), "", [_seen(work) for work in self._works.values()])
        self._automatic.look(status, loop.unix_ms())

    async def _run(self, work: _Work) -> None:
        join = self._host.replace if work.verb is Verb.REPLACE else self._host.rejoin
        async with self._one_at_a_time:
            work.state = RepairState.RUNNING
            self._main.note(f"{work.verb} of seat {work.seat} ({work.address}) begins")
            try:
                await join(self._array, work.seat, work.address, work.progress, sectors_per_s=work.sectors_per_s)
            except PerdureError as error:
                work.state = RepairState.FAILED
                self._main.note(f"{work.verb} of seat {work.seat} has failed: {error}")
                self._main.judge(error)
                return
        work.state = RepairState.DONE
        self._main.note(f"{work.verb} of seat {work.seat} is done, {work.progress.mended} sectors were sent")
        self._story.told[f"{work.verb} done"] += 1
        self._keep_address(work.seat, work.address)

    def _keep_address(self, seat: int, address: str) -> None:
        """Into the configuration, unless another machine's main program has the array by now."""
        site = self._story.site
        if self._main.owner is self._story.history.owners[-1]:
            site.addresses[seat] = address
            site.spares = [spare for spare in site.spares if spare != address]


def _seen(work: _Work) -> Repair:
    done = work.progress.done * SECTOR_BYTES
    return Repair(
        "", work.verb, work.seat, work.address, work.state, 0, done, work.progress.mended, None, None, None, 0, 0
    )

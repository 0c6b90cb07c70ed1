"""One main program's process in a story: how it mounts, what it tells the history, when and how it dies.

A process can die between any two of its effects, that is: before any command that it sends. Its `doom` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perdure.array.committer import LINKED_MAX, Committer, Execution
from perdure.array.engine import Array
from perdure.array.geometry import SECTOR_BYTES, Run
from perdure.array.mount import mount
from perdure.array.session import Health
from perdure.array.world import Opened
from perdure.disk import wire
from perdure.errors import Corrupt, DiskLost, Fenced, PerdureError, Rollback
from perdure.sim.disks import SimChannel
from perdure.sim.history import Call, Owner, Value, Violation
from perdure.sim.loop import Task
from perdure.sim.mending import Mending
from perdure.sim.nbd import NbdClient
from perdure.sim.recorder import Recorder, hidden_value

if TYPE_CHECKING:
    from perdure.sim.story import Story

LAST_RECORD_BYTES = 5000
_BODY = wire.SIGNATURE_BYTES + wire.COMMAND_HEADER.size


@dataclass(slots=True)
class Doom:
    """Die after `commands` more commands, or when a FLUSH returns; counted from now, or from the next roster change.

    What is then on its way to the disks of the seats in `lost` never arrives.
    """

    commands: int
    at_flush: bool
    in_roster_change: bool
    lost: tuple[int, ...]


class Main:
    """One main program. What it has under way dies with it."""

    def __init__(self, story: Story, number: int) -> None:
        self._story = story
        self.number = number
        self.channels: list[SimChannel] = [
            story.channel(self, story.place(address)) for address in story.site.addresses
        ]
        self.array: Array | None = None
        self.owner: Owner | None = None
        self.face: Array | NbdClient | None = None
        """What its clients speak to."""
        self.recorder: Recorder | None = None
        """Once the array's history is loaded, if it has one."""
        self.mending: Mending | None = None
        """In stories with spares and an operator."""
        self.is_frozen = False
        """Whether too few disks answer, and all waits for them."""
        self.freeze_count = 0
        self.has_given_in = False
        self._given_up: set[bytes] = set()
        self.is_dead = False
        self.is_stopping = False
        self.tasks: list[Task[None]] = []
        self.last_error: PerdureError | None = None
        self.doom: Doom | None = None
        self.ambushes: list[Callable[[], None]] = []
        """What happens as soon as its next roster change begins."""
        self._on_links: list[Callable[[], None]] = []
        """What returned FLUSHes promise, on links perhaps, with no evidence since; kept where secrets leak."""

    def __str__(self) -> str:
        return f"main {self.number}"

    @property
    def is_serving(self) -> bool:
        """Whether it believes that it owns the array."""
        return not self.is_dead and self.array is not None and self.array.committer.failure is None

    @property
    def is_busy(self) -> bool:
        """Whether it serves or tries to."""
        return self.is_serving or (not self.is_dead and self.array is None and not all(t.done for t in self.tasks))

    def note(self, what: str) -> None:
        """A line of the trace."""
        self._story.note(f"{self}: {what}")

    def channels_to(self, seat: int) -> list[SimChannel]:
        """Its ways to one address; a disk that joined there has one of its own."""
        return [channel for channel in self.channels if channel.address == f"disk-{seat}"]

    # Life -------------------------------------------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, None]) -> Task[None]:
        """Run `work` in this process; an error of ours ends it, anything else the story."""

        async def guarded() -> None:
            try:
                await work
            except PerdureError as error:
                self.last_error = error
                if self.is_frozen and isinstance(error, Fenced):
                    self._story.told["fenced while frozen"] += 1
                self.note(f"{type(error).__name__}: {str(error)[:200]}")
                self.judge(error)
            except Exception as error:  # a violation or a defect: the end of the story
                self._story.fail(error)

        task = Task(self._story.loop, guarded(), self)
        self.tasks.append(task)
        return task

    def judge(self, error: PerdureError) -> None:
        """Whatever hosts do, some errors cannot be: the disks run our program, and nobody else has our key."""
        if "did not write" in str(error):
            self._story.fail(Violation(f"a history that no main program wrote: {error}"))
        if "lacks entries" in str(error):
            self._story.fail(Violation(f"a disk lacks what was acknowledged in its name: {error}"))
        if isinstance(error, Corrupt) and "no genesis record" not in str(error):  # a joiner that got no further
            self._story.fail(Violation(f"what was written cannot be read: {error}"))

    def mount(self) -> Task[None]:
        """Begin a mount: as the service does, from spares too."""
        self.channels += [self._story.channel(self, self._story.place(spare)) for spare in self._story.site.spares]
        return self.live(mount(self._story.world(self), self.channels, self._story.array_id, b"p" * 32))

    def live(self, opening: Coroutine[Any, Any, Opened]) -> Task[None]:
        """Mount or create, look at everything, then serve whoever asks."""
        return self.start(self._live(opening))

    async def _live(self, opening: Coroutine[Any, Any, Opened]) -> None:
        story = self._story
        opened = await opening
        self.owner = story.history.opened(opened.epoch)
        story.array_id = story.wiretap.array_id = opened.genesis.array_id
        story.told["mounts"] += 1
        self.note(f"serves with {len(opened.sessions)} disks from entry {opened.last}")
        for stray in opened.strays:
            if isinstance(stray.why, Rollback | Corrupt):
                self.judge(stray.why)
        world = story.world(self, signs_receipts=True)
        self.array = Array(world, opened, attest_every_read=story.setup.attests_every_read)
        self._observe(self.array, self.owner)
        self.array.start()
        self.face = self.array
        if story.setup.speaks_nbd:
            self.face = NbdClient(story.loop, self.array, self)
            await self.face.connect()
        await self.read(0, story.setup.sectors)
        if story.setup.ring:
            recorder = Recorder(self._story, self.array, self.owner, self)
            await recorder.load()
            self.recorder = recorder
        if story.setup.spares:
            self.mending = Mending(story, self, self.array, world)

    def _observe(self, array: Array, owner: Owner) -> None:
        """Tell the history of everything that enters the cache, at the moment at which it does."""
        write, trim = array.cache.write, array.cache.trim
        presented = self._story.setup.sectors

        def on_write(index: int, data: bytes) -> None:
            value = value_of(data) if index < presented else hidden_value(data)
            self._story.history.entered(owner, index, value)
            write(index, data)

        def on_trim(run: Run) -> None:
            for index in range(run.start, run.end):
                self._story.history.trimmed(owner, index)
            trim(run)

        announce = array.committer.announce

        async def on_announce(seat: int, instance: bytes) -> None:
            self._story.wiretap.seats[instance] = seat
            await announce(seat, instance)

        vars(array.cache).update(write=on_write, trim=on_trim)
        vars(array.committer)["announce"] = on_announce
        self._observe_evidence(array.committer)

    def _observe_evidence(self, committer: Committer) -> None:
        """What leaked secrets can cost is bounded: links stand for few entries, and evidence for the rest."""
        finish = committer._finish

        def on_finish(execution: Execution) -> None:
            finish(execution)
            if execution.last - committer._proved > LINKED_MAX:
                self._story.fail(Violation(f"{execution.last - committer._proved} entries rest on links"))
            if execution.evidence:
                on_links, self._on_links = self._on_links, []
                for promised in on_links:
                    promised()

        vars(committer)["_finish"] = on_finish

    # Disks that fall silent -------------------------------------------------------------------------------

    def health_has_changed(self) -> None:
        """What the service is told as well; an array that freezes must not lose by silence what it cannot spare."""
        array = self.array
        if array is None or not self._story.setup.freezes:
            return
        was_frozen, self.is_frozen = self.is_frozen, array.is_suspended
        if self.is_frozen and not was_frozen:
            self.freeze_count += 1
            self._story.seen["freeze"] += 1
            self.note("waits for its disks")
        sessions = [session for _, session in array.members]
        online = sum(session.health is Health.ONLINE for session in sessions)
        for session in sessions:
            if session.lost is None or session.instance in self._given_up:
                continue
            self._given_up.add(session.instance)
            may = online >= array.geometry.k or self.has_given_in or array.committer.failure is not None
            if type(session.lost) is DiskLost and not may:
                self._story.fail(Violation(f"with {online} disks left, another was given up for being silent"))

    # Death ------------------------------------------------------------------------------------------------

    def die(self, lost: tuple[int, ...] = ()) -> None:
        """The process ends where it stands; what is on its way to the disks of the seats in `lost` never arrives."""
        if not self.is_dead:
            self._end(lost)
            self._story.loop.kill(self)

    def _end(self, lost: tuple[int, ...]) -> None:
        self.is_dead = True
        self.note(f"killed{f'; what is on its way to {lost} is lost' if lost else ''}")
        for seat in lost:
            for channel in self.channels_to(seat):
                channel.cut()

    def may_send(self, command: bytes) -> bool:
        """Whether it lives to send this command; what it would do later in the same step is never seen either."""
        if self.is_dead:
            return False
        doom = self.doom
        waits = doom is not None and doom.in_roster_change
        if (waits or self.ambushes) and self._changes_roster(command):
            waits = False
            ambushes, self.ambushes = self.ambushes, []
            for ambush in ambushes:
                ambush()
        if doom is None or waits:
            return True
        doom.in_roster_change = False
        if doom.at_flush or doom.commands > 0:
            doom.commands -= 1
            return True
        self._die_soon(doom)
        return False

    def has_flushed(self) -> None:
        """A FLUSH has returned: the most interesting moment to die."""
        doom = self.doom
        if doom is not None and doom.at_flush and not doom.in_roster_change:
            self._die_soon(doom)

    def _die_soon(self, doom: Doom) -> None:
        """As soon as the step under way has ended; nothing that it still does leaves the process."""
        self._end(doom.lost)
        self._story.loop.pause(self)
        self._story.loop.call_soon(lambda: self._story.loop.kill(self))

    def _changes_roster(self, command: bytes) -> bool:
        if command[wire.SIGNATURE_BYTES + 1] != wire.Opcode.EXECUTE:
            return False
        (count,) = wire.COUNT.unpack_from(command, _BODY)
        ops = command[_BODY + wire.COUNT.size : _BODY + wire.COUNT.size + count * wire.OP.size]
        return any(op[1] == self._story.geometry.current_start for op in wire.OP.iter_unpack(ops))

    # What its clients do ----------------------------------------------------------------------------------

    @property
    def parts(self) -> tuple[Array | NbdClient, Owner]:
        """What its clients speak to, and its place in the history."""
        assert self.face is not None
        assert self.owner is not None
        return self.face, self.owner

    async def read(self, first: int, count: int) -> None:
        """Read sectors and check what came."""
        face, owner = self.parts
        call = self._story.history.called(owner)
        data = bytes(await face.pread(first * SECTOR_BYTES, count * SECTOR_BYTES))
        values = [value_of(data[at * SECTOR_BYTES : (at + 1) * SECTOR_BYTES]) for at in range(count)]
        self.note(f"reads {values} from {first}")
        for at, value in enumerate(values):
            self._story.history.read(call, first + at, value)

    async def write(self, first: int, numbers: list[int], *, fua: bool = False) -> None:
        """Write whole sectors, durable at once or not."""
        face, owner = self.parts
        history = self._story.history
        owner.under_way.update(numbers)
        call = history.called(owner)
        data = b"".join(number.to_bytes(8, "big") * (SECTOR_BYTES // 8) for number in numbers)
        await face.pwrite(first * SECTOR_BYTES, data, fua=fua)
        for at, number in enumerate(numbers):
            history.wrote(call, first + at, number)
        if fua:
            self.flushed(call, max(owner.when_entered(number) for number in numbers))

    async def flush(self) -> None:
        """A FLUSH; then all that had been written is durable."""
        face, owner = self.parts
        call = self._story.history.called(owner)
        await face.flush()
        self.flushed(call, call.start)

    def flushed(self, call: Call, covers: int, *, by_evidence: bool = False) -> None:
        """Whoever asked has been told."""
        self.promised(lambda: self._story.history.flushed(call, covers), by_evidence=by_evidence)
        self.note(f"has flushed {covers} writes")
        self._story.told["flushes"] += 1
        self.has_flushed()

    def promised(self, tell: Callable[[], None], *, by_evidence: bool = False) -> None:
        """Tell the history of something durable: at once or, where links may be forged, when evidence has come."""
        if by_evidence or not self._story.setup.has_leaks:
            tell()
        else:
            self._on_links.append(tell)

    async def last_writes(self) -> None:
        """When all is well again, writing and reading work."""
        sectors = self._story.setup.sectors
        await self.write(0, [self._story.number() for _ in range(sectors)])
        await self.flush()
        await self.write(sectors - 1, [self._story.number()], fua=True)
        await self.read(0, sectors)
        if self.recorder is not None:
            await self.recorder.append(self._story.number(), LAST_RECORD_BYTES)
            await self.recorder.look_back()


def value_of(data: bytes) -> Value:
    """The two halves of a sector. Raises Violation when one of them is not of one piece."""
    half = SECTOR_BYTES // 2
    for part in (data[:half], data[half:]):
        if part != part[:8] * (half // 8):
            raise Violation("half a sector is neither old nor new")
    return int.from_bytes(data[:8], "big"), int.from_bytes(data[half : half + 8], "big")

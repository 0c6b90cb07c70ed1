"""What clients of the array do in a story. Operations are steps: whoever serves at their moment carries them out."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.array.engine import Array
from perdure.array.geometry import SECTOR_BYTES, SLOTS, Geometry
from perdure.array.join import Progress
from perdure.array.journal import EntryHeader
from perdure.errors import Corrupt, PerdureError
from perdure.service.control import Request
from perdure.service.status import Verb
from perdure.sim.disks import SimDisk
from perdure.sim.history import Violation
from perdure.sim.mains import Main
from perdure.sim.network import named
from perdure.sim.story import Step, Story


@dataclass(frozen=True, slots=True)
class Operation(Step):
    """Done by the newest main program that serves, or by one `back` before it, while other things go on."""

    back: int

    def happen(self, story: Story) -> bool:
        """Begin it."""
        main = story.serving(self.back)
        if main is None or main.face is None:
            return False
        main.start(self._counted(story, main))
        return True

    async def _counted(self, story: Story, main: Main) -> None:
        frozen_before = main.freeze_count - main.is_frozen
        await self.on(story, main)
        story.told["operations"] += 1
        if main.freeze_count > frozen_before and not main.is_frozen:
            story.told["operations that outlasted a freeze"] += 1

    async def on(self, story: Story, main: Main) -> None:
        """Do it to its end."""
        raise NotImplementedError

    def who(self) -> str:
        """For `str`."""
        return "a client" if not self.back else "a client of an earlier main program"


@dataclass(frozen=True, slots=True)
class WriteSectors(Operation):
    """Whole sectors; many in one call make several entries in flight."""

    first: int
    count: int
    fua: bool

    def __str__(self) -> str:
        return f"{self.who()} writes {self.count} sectors from {self.first}{', durably' if self.fua else ''}"

    async def on(self, story: Story, main: Main) -> None:
        """Write numbers never written before."""
        numbers = [story.number() for _ in range(self.count)]
        main.note(f"writes {numbers[0]} to {numbers[-1]} from {self.first}")
        await main.write(self.first, numbers, fua=self.fua)


@dataclass(frozen=True, slots=True)
class WriteHalf(Operation):
    """Half a sector, which is merged with the other half."""

    index: int
    half: int

    def __str__(self) -> str:
        return f"{self.who()} writes half {self.half} of sector {self.index}"

    async def on(self, story: Story, main: Main) -> None:
        """Write a number never written before."""
        face, owner = main.parts
        number = story.number()
        owner.under_way.add(number)
        call = story.history.called(owner)
        main.note(f"writes {number} to half {self.half} of {self.index}")
        data = number.to_bytes(8, "big") * (SECTOR_BYTES // 16)
        await face.pwrite(self.index * SECTOR_BYTES + self.half * SECTOR_BYTES // 2, data)
        story.history.wrote(call, self.index, number)


@dataclass(frozen=True, slots=True)
class TrimSectors(Operation):
    """Zeros."""

    first: int
    count: int

    def __str__(self) -> str:
        return f"{self.who()} trims {self.count} sectors from {self.first}"

    async def on(self, story: Story, main: Main) -> None:
        """Trim."""
        del story
        main.note(f"trims {self.count} from {self.first}")
        await main.parts[0].trim(self.first * SECTOR_BYTES, self.count * SECTOR_BYTES)


@dataclass(frozen=True, slots=True)
class ReadSectors(Operation):
    """Read and compare with the history."""

    first: int
    count: int

    def __str__(self) -> str:
        return f"{self.who()} reads {self.count} sectors from {self.first}"

    async def on(self, story: Story, main: Main) -> None:
        """Read."""
        del story
        await main.read(self.first, self.count)


@dataclass(frozen=True, slots=True)
class FlushAll(Operation):
    """A FLUSH."""

    def __str__(self) -> str:
        return f"{self.who()} flushes"

    async def on(self, story: Story, main: Main) -> None:
        """Flush."""
        del story
        await main.flush()


@dataclass(frozen=True, slots=True)
class OfHistory(Operation):
    """Something that a main program does with the array's own history, once that is loaded."""

    def happen(self, story: Story) -> bool:
        """Begin it."""
        main = story.serving(self.back)
        return main is not None and main.recorder is not None and Operation.happen(self, story)


@dataclass(frozen=True, slots=True)
class AppendRecord(OfHistory):
    """An event is noted."""

    length: int

    def __str__(self) -> str:
        return f"{named(self.back)} appends a record of {self.length} bytes to the history"

    async def on(self, story: Story, main: Main) -> None:
        """Append what was never appended before."""
        assert main.recorder is not None
        await main.recorder.append(story.number(), self.length)


@dataclass(frozen=True, slots=True)
class LookBack(OfHistory):
    """Every record of the history is read."""

    def __str__(self) -> str:
        return f"{named(self.back)} reads its history"

    async def on(self, story: Story, main: Main) -> None:
        """Read and compare."""
        del story
        assert main.recorder is not None
        await main.recorder.look_back()


@dataclass(frozen=True, slots=True)
class Erase(Operation):
    """P6: when `erase` returns, no member holds anything of these sectors."""

    kind = "erase"
    first: int
    count: int

    def __str__(self) -> str:
        return f"{self.who()} erases {self.count} sectors from {self.first}"

    async def on(self, story: Story, main: Main) -> None:
        """Erase, and look into every member's memory."""
        _, owner = main.parts
        array = main.array
        assert array is not None
        call = story.history.called(owner)
        main.note(f"erases {self.count} from {self.first}")
        receipt = await array.erase(self.first * SECTOR_BYTES, self.count * SECTOR_BYTES)
        main.flushed(call, call.start, by_evidence=True)
        untouched = [
            index
            for index in range(self.first, self.first + self.count)
            if owner.since(call.start, index) == [(0, 0)]  # the trim, and nothing that was written beside it
        ]
        for disk in (*story.standing, *(disk for _, disk in story.shelf)):
            if disk is not None and disk.instance in receipt.members and untouched:
                _require_nothing_left(disk, story.geometry, untouched)
        story.told["erasures"] += 1


def _require_nothing_left(disk: SimDisk, shape: Geometry, indices: list[int]) -> None:
    """Neither home nor ring of this member holds anything of the sectors."""

    def area(start: int, count: int) -> bytes:
        return bytes(disk.memory[start * 64 : (start + count) * 64])

    for index in indices:
        if any(area(shape.tag_start(index), 1)) or any(area(shape.fragment_start(index), shape.fragment_sectors)):
            raise Violation(f"sector {index} was erased, and a member still holds it")
    for slot in range(SLOTS):
        start = shape.slot_start(slot)
        try:
            writes = EntryHeader.decode(area(start, 1)).writes
        except Corrupt:
            continue
        named = area(start + 1, shape.slot_sectors)
        if {int.from_bytes(named[4 * at : 4 * at + 4], "big") for at in range(writes)} & set(indices):
            raise Violation(f"sectors {indices} were erased, and a member's ring still holds some")


@dataclass(frozen=True, slots=True)
class TakeOffline(Operation):
    """An operator takes a disk out of use, although nothing is wrong with it."""

    seat: int

    def __str__(self) -> str:
        return f"an operator takes the disk of seat {self.seat} offline"

    async def on(self, story: Story, main: Main) -> None:
        """Take it offline, if the array can go without it."""
        del story
        if main.mending is not None:
            await main.mending.take_offline(self.seat)


@dataclass(frozen=True, slots=True)
class BringOnline(Step):
    """An operator takes such a disk back."""

    kind = "brought online"
    back: int

    def __str__(self) -> str:
        return "an operator takes a disk that is offline back"

    def happen(self, story: Story) -> bool:
        """Ask for it, if there is one."""
        main = story.serving(self.back)
        if main is None or main.mending is None:
            return False
        seat = next((at for at in range(story.geometry.n) if main.mending.is_offline(at)), None)
        if seat is None:
            return False
        try:
            main.mending.start(Request(Verb.REJOIN, seat=seat))
        except PerdureError as error:
            main.note(f"seat {seat} stays empty: {error}")
            return False
        return True


@dataclass(frozen=True, slots=True)
class ScrubAll(Operation):
    """Read everything from everyone, and mend what differs."""

    kind = "scrub"
    sectors_per_s: int

    def __str__(self) -> str:
        return f"{self.who()} scrubs{f', {self.sectors_per_s} sectors a second' if self.sectors_per_s else ''}"

    async def on(self, story: Story, main: Main) -> None:
        """Scrub."""
        assert main.array is not None
        await main.array.scrub(Progress(story.geometry.sectors), sectors_per_s=self.sectors_per_s)
        story.told["scrubs"] += 1


@dataclass(frozen=True, slots=True)
class WriteInRosterChange(Operation):
    """A durable write that comes when a roster is half changed."""

    index: int
    later_ms: float

    def __str__(self) -> str:
        return (
            f"{self.who()} will write sector {self.index}, durably, {self.later_ms:.1f} ms into the next roster change"
        )

    def happen(self, story: Story) -> bool:
        """Wait for it."""
        main = story.serving(self.back)
        if main is None or main.face is None:
            return False
        write = WriteSectors(self.back, self.index, 1, fua=True)
        begin = lambda: None if main.is_dead else main.start(write.on(story, main))  # noqa: E731
        main.ambushes.append(lambda: story.later(self.later_ms, begin))
        return True


@dataclass(frozen=True, slots=True)
class Join(Operation):
    """An empty seat gets a fresh disk, or whatever stands at its address: often the one that was voted off."""

    kind = "join"
    seat: int
    fresh: bool
    reseal: bool
    sectors_per_s: int

    def __str__(self) -> str:
        which = "a fresh disk" if self.fresh else "the disk at its address"
        how = "" if self.reseal else ", as a copy"
        slowly = f", {self.sectors_per_s} sectors a second" if self.sectors_per_s else ""
        return f"{which} joins on seat {self.seat} if it is empty, else on another that is{how}{slowly}"

    def happen(self, story: Story) -> bool:
        """Begin it, if there is an empty seat."""
        main = story.serving(self.back)
        if main is None or main.array is None or _free_seat(main.array, self.seat) is None:
            return False
        return Operation.happen(self, story)

    async def on(self, story: Story, main: Main) -> None:
        """Let whoever stands there join."""
        array = main.array
        assert array is not None
        seat = _free_seat(array, self.seat)
        assert seat is not None
        place = story.place(story.site.addresses[seat])
        stands = story.standing[place]
        if self.fresh or stands is None or not stands.is_alive:
            if stands is not None:
                story.shelf.append((place, stands))
            story.standing[place] = story.new_disk(place)
        channel = story.channel(main, place)
        main.channels.append(channel)
        progress = Progress(story.geometry.sectors)
        main.note(f"a disk joins on seat {seat}")
        await array.join(channel, seat, progress, sectors_per_s=self.sectors_per_s, reseal=self.reseal)
        main.note(f"seat {seat} is filled, {progress.mended} sectors were sent")
        story.told["joined"] += 1


def _free_seat(array: Array, wanted: int) -> int | None:
    seats = array.members.roster.seats
    empty = [at for at, instance in enumerate(seats) if instance is None]
    return wanted if wanted in empty else next(iter(empty), None)

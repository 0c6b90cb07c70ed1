"""A main program's history of events in a story: the real `History`, with all that it reads and writes checked.

Its sectors are the array's last, which no client sees. What it reads and writes is judged as clients' work is,
with a digest in the place of the number that a client's sector holds.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from perdure.array.engine import Array
from perdure.array.geometry import SECTOR_BYTES, Run
from perdure.array.history import History
from perdure.array.ports import Buffer
from perdure.errors import Misuse
from perdure.sim.history import ZERO, Owner, Value, Violation
from perdure.sim.loop import Lock

if TYPE_CHECKING:
    from perdure.sim.mains import Main
    from perdure.sim.story import Story


def hidden_value(data: Buffer) -> Value:
    """What stands for the content of a hidden sector."""
    if not any(memoryview(data)):
        return ZERO
    number = int.from_bytes(sha256(data).digest()[:8], "big")
    return number, number


class Recorder:
    """Appends records one after another, as a main program does, and finds them again."""

    def __init__(self, story: Story, array: Array, owner: Owner, main: Main) -> None:
        self.geometry = array.geometry
        self._story = story
        self._array = array
        self._owner = owner
        self._main = main
        self._history = History(self)
        self._bodies: dict[int, bytes] = {}
        """What it has found and appended, by number."""
        self._one_at_a_time = Lock(story.loop)

    async def load(self) -> None:
        """Find what is there."""
        await self._history.load()
        self._bodies = {number: await self._history.read(number) for number in self._history.numbers}
        self._main.note(f"finds records {list(self._bodies)}")
        self._story.records.found(self._bodies, self._owner.epoch)
        if self._bodies:
            self._story.told["records found"] += len(self._bodies)
        if next(iter(self._bodies), 1) > 1:
            self._story.told["histories that went round"] += 1

    async def append(self, content: int, length: int) -> None:
        """Append `length` bytes that nobody appended before, when it is this one's turn."""
        async with self._one_at_a_time:
            await self._append((content.to_bytes(8, "big") * (length // 8 + 1))[:length])

    async def _append(self, body: bytes) -> None:
        number = next(reversed(self._bodies), 0) + 1
        self._story.records.begins(number, body, self._bodies)
        self._main.note(f"appends record {number}")
        got, epoch = await self._history.append(body), self._owner.epoch
        self._bodies[number] = body
        self._main.note(f"has kept record {got}")
        self._main.promised(lambda: self._story.records.keeps(got, body, epoch))
        self._story.told["records kept"] += 1

    async def look_back(self) -> None:
        """Read every record that is there, but for those that make room meanwhile. Raises Violation."""
        for number in self._history.numbers:
            try:
                body = await self._history.read(number)
            except Misuse as error:
                if self._story.records.stands(number):
                    raise Violation(f"a record that was not overwritten cannot be read: {error}") from None
                continue
            if body != self._bodies[number]:
                raise Violation(f"record {number} is read as another than it was")

    # What `History` asks of the array ---------------------------------------------------------------------

    async def read_sectors(self, run: Run) -> Buffer:
        """Read hidden sectors and check what came."""
        call = self._story.history.called(self._owner)
        data = bytes(await self._array.read_sectors(run))
        for at in range(run.count):
            value = hidden_value(data[at * SECTOR_BYTES : (at + 1) * SECTOR_BYTES])
            self._story.history.read(call, run.start + at, value)
        return data

    async def write_sectors(self, start: int, data: Buffer) -> None:
        """Write hidden sectors."""
        view = memoryview(data)
        sectors = (view[at : at + SECTOR_BYTES] for at in range(0, len(view), SECTOR_BYTES))
        self._owner.under_way.update(hidden_value(sector)[0] for sector in sectors)
        await self._array.write_sectors(start, data)

    async def flush(self) -> None:
        """A FLUSH like any client's."""
        call = self._story.history.called(self._owner)
        await self._array.flush()
        self._main.flushed(call, call.start)

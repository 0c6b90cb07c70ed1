"""What networks do in a story, without any lie: they lose, delay, break and cut off.

Messages between a main program and different disks, and on the two connections to one disk, overtake each other all
the time; on one connection nothing overtakes, as on any stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from perdure.array.ports import Lane
from perdure.sim.story import Step, Story


def named(back: int) -> str:
    """Which main program, for `str`."""
    return "the newest main program" if not back else "an earlier main program"


@dataclass(frozen=True, slots=True)
class Silence(Step):
    """Disks cannot be reached by one main program, for long enough to be voted off or not."""

    kind = "silence"
    back: int
    seats: tuple[int, ...]
    for_ms: int

    def __str__(self) -> str:
        seats = ", ".join(map(str, self.seats))
        return f"the hosts of disks {seats} do not answer {named(self.back)} for {self.for_ms} ms"

    def happen(self, story: Story) -> bool:
        """Let nothing through, and then again."""
        for seat in self.seats:
            story.was_hidden.add(seat)
            for channel in story.main(self.back).channels_to(seat):
                channel.is_silent = True
                story.later(self.for_ms, partial(setattr, channel, "is_silent", False))
        return True


@dataclass(frozen=True, slots=True)
class Partition(Step):
    """Every main program that runs now sees the disks on its own side only: even ones here, odd ones there."""

    kind = "partition"
    seats: tuple[int, ...]
    for_ms: int

    def __str__(self) -> str:
        seats = ", ".join(map(str, self.seats))
        return f"for {self.for_ms} ms every other main program sees disks {seats} only, the rest see the others only"

    def happen(self, story: Story) -> bool:
        """Cut the network in two."""
        for main in story.mains:
            for seat in range(len(story.standing)):
                if (seat in self.seats) == bool(main.number % 2):
                    for channel in main.channels_to(seat):
                        channel.is_silent = True
                        story.later(self.for_ms, partial(setattr, channel, "is_silent", False))
        return True


@dataclass(frozen=True, slots=True)
class BreakConnections(Step):
    """What was sent and not yet answered may have landed or not."""

    kind = "broken connection"
    back: int
    seats: tuple[int, ...]

    def __str__(self) -> str:
        return f"the connections of {named(self.back)} to disks {', '.join(map(str, self.seats))} break"

    def happen(self, story: Story) -> bool:
        """Break both lanes."""
        for seat in self.seats:
            for channel in story.main(self.back).channels_to(seat):
                channel.close()
        return True


@dataclass(frozen=True, slots=True)
class Delay(Step):
    """One disk answers later from now on."""

    kind = "delay"
    back: int
    seat: int
    latency_ms: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.latency_ms
        return f"messages between {named(self.back)} and disk {self.seat} take {low} to {high} ms from now on"

    def happen(self, story: Story) -> bool:
        """Change the latency."""
        for channel in story.main(self.back).channels_to(self.seat):
            channel.latency_ms = self.latency_ms
        return True


@dataclass(frozen=True, slots=True)
class Reorder(Step):
    """One of the two connections to a disk is slow, so that the other overtakes it by far."""

    kind = "reorder"
    back: int
    seat: int
    lane: Lane
    by_ms: float

    def __str__(self) -> str:
        slow = "writes" if self.lane is Lane.WRITE else "reads"
        return f"{slow} of {named(self.back)} reach disk {self.seat} {self.by_ms:g} ms later from now on"

    def happen(self, story: Story) -> bool:
        """Slow one lane down."""
        for channel in story.main(self.back).channels_to(self.seat):
            channel.lane_delay_ms[self.lane] = self.by_ms
        return True


@dataclass(frozen=True, slots=True)
class LoseReplies(Step):
    """Some commands are carried out and not answered."""

    kind = "lost replies"
    back: int
    seat: int
    for_ms: int

    def __str__(self) -> str:
        return f"replies of disk {self.seat} to {named(self.back)} get lost for {self.for_ms} ms"

    def happen(self, story: Story) -> bool:
        """Lose three of ten."""
        rng = story.loop.rng
        for channel in story.main(self.back).channels_to(self.seat):
            channel.tamper = lambda _lane, _command, reply: None if rng.random() < 0.3 else reply
            story.later(self.for_ms, partial(setattr, channel, "tamper", None))
        return True

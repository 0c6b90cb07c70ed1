"""What hosts do to the disks that they run: end them, restart them blank, copy them, hide them, show them again."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.disk import wire
from perdure.sim.story import Step, Story


def _may_lose(story: Story, seat: int, *, beyond: bool) -> bool:
    """Whether a disk is here to be lost, and (as a rule) the array can bear it."""
    disk = story.alive(seat)
    if disk is None:
        return False
    members = story.members()
    if disk.instance not in members:
        return True
    shown = [*story.standing, *(disk for _, disk in story.shelf)]
    alive = [other for other in shown if other is not None and other.is_alive and other.instance in members]
    return len(alive) > story.geometry.k or beyond


@dataclass(frozen=True, slots=True)
class Death(Step):
    """A disk is gone for good."""

    kind = "death"
    seat: int
    beyond: bool
    """Whether more may be lost than the array can bear."""

    def __str__(self) -> str:
        return f"disk {self.seat} dies"

    def happen(self, story: Story) -> bool:
        """End it."""
        disk = story.alive(self.seat)
        if disk is None or not _may_lose(story, self.seat, beyond=self.beyond):
            return False
        disk.is_alive = False
        return True


@dataclass(frozen=True, slots=True)
class BlankRestart(Step):
    """A disk is gone, and another launch stands at its address (A20)."""

    kind = "blank restart"
    seat: int
    beyond: bool

    def __str__(self) -> str:
        return f"disk {self.seat} is restarted, blank"

    def happen(self, story: Story) -> bool:
        """End it and launch another."""
        disk = story.alive(self.seat)
        if disk is None or not _may_lose(story, self.seat, beyond=self.beyond):
            return False
        disk.is_alive = False
        story.standing[self.seat] = story.new_disk(self.seat)
        return True


@dataclass(frozen=True, slots=True)
class Clones(Step):
    """A2: other launches are fed the record of these disks up to some point, and stand in their places."""

    kind = "clone"
    seats: tuple[int, ...]
    less: int
    """How many of the last commands they are not fed."""
    for_ms: int
    """After which the genuine ones stand there again; 0: not before the end."""

    def __str__(self) -> str:
        back = f", for {self.for_ms} ms" if self.for_ms else ""
        return f"clones of disks {self.seats}, without the last {self.less} commands, stand in their places{back}"

    def happen(self, story: Story) -> bool:
        """Launch, feed, swap."""
        for seat in self.seats:
            disk = story.alive(seat)
            if disk is None:
                continue
            clone = story.new_disk(seat)
            for command in disk.commands[: max(0, len(disk.commands) - self.less)]:
                clone.reply(command)
            story.shelf.append((seat, disk))
            story.standing[seat] = clone
        if self.for_ms:
            story.later(self.for_ms, lambda: show_again(story, self.seats))
        return True


@dataclass(frozen=True, slots=True)
class Withhold(Step):
    """Genuine disks disappear for all, and are shown again later (A4, A21)."""

    kind = "withheld disk"
    seats: tuple[int, ...]
    for_ms: int

    def __str__(self) -> str:
        return f"disks {self.seats} are withheld for {self.for_ms} ms"

    def happen(self, story: Story) -> bool:
        """Put them on the shelf."""
        taken = False
        for seat in self.seats:
            disk = story.alive(seat)
            if disk is not None:
                story.shelf.append((seat, disk))
                story.standing[seat] = None
                story.was_hidden.add(seat)
                taken = True
        story.later(self.for_ms, lambda: show_again(story, self.seats))
        return taken


@dataclass(frozen=True, slots=True)
class ShowAgain(Step):
    """What was withheld at these addresses stands there again; what stood there is withheld instead."""

    kind = "old disk shown again"
    seats: tuple[int, ...]

    def __str__(self) -> str:
        return f"disks that were withheld at seats {self.seats} are shown again"

    def happen(self, story: Story) -> bool:
        """Swap."""
        return show_again(story, self.seats)


def show_again(story: Story, seats: tuple[int, ...]) -> bool:
    """Swap what stands at these addresses with what was withheld there first; whether there was any."""
    swapped = False
    for seat in seats:
        at = next((at for at, (place, disk) in enumerate(story.shelf) if place == seat and disk.is_alive), None)
        if at is not None:
            stands, story.standing[seat] = story.standing[seat], story.shelf.pop(at)[1]
            if stands is not None:
                story.shelf.append((seat, stands))
            story.note(f"another disk stands at seat {seat}")
            swapped = True
    return swapped


@dataclass(frozen=True, slots=True)
class ReplayCommands(Step):
    """A1: recorded commands go to the disks that they were for, once more."""

    kind = "replayed commands"
    seats: tuple[int, ...]
    fitting: bool
    """Only those whose number comes next, whatever epoch they are from; else a run of the record as it was."""
    skipped: int
    count: int

    def __str__(self) -> str:
        which = "recorded commands whose number fits" if self.fitting else f"commands from the {self.skipped}th on"
        return f"disks {self.seats} are given again {which}, up to {self.count}"

    def happen(self, story: Story) -> bool:
        """Give them again."""
        told = False
        for seat in self.seats:
            disk = story.alive(seat)
            if disk is None or not disk.commands:
                continue
            start = self.skipped % len(disk.commands)
            log = disk.commands[start:] + disk.commands[:start]
            left = self.count
            for command in log:
                if self.fitting:
                    _, opcode, _, _, _, seq, _ = wire.COMMAND_HEADER.unpack_from(command, wire.SIGNATURE_BYTES)
                    if opcode != wire.Opcode.EXECUTE or seq != disk.core.seq + 1:
                        continue
                disk.core_reply(command)
                told = True
                left -= 1
                if not left:
                    break
        return told


@dataclass(frozen=True, slots=True)
class Rewind(Step):
    """A1 with OPEN: every disk is given again, from its last OPEN on, all but the last few commands."""

    kind = "rewind by replay"
    less: int

    def __str__(self) -> str:
        return f"every disk is given all commands again from its last OPEN on, but the last {self.less}"

    def happen(self, story: Story) -> bool:
        """Try to take all of them back."""
        for disk in story.standing:
            if disk is not None and disk.is_alive:
                log = [command for command in disk.commands if _opcode(command) != wire.Opcode.READ]
                opens = [at for at, command in enumerate(log) if _opcode(command) == wire.Opcode.OPEN]
                for command in log[opens[-1] : len(log) - self.less] if opens else []:
                    disk.core_reply(command)
        return True


def _opcode(command: bytes) -> int:
    return command[wire.SIGNATURE_BYTES + 1]

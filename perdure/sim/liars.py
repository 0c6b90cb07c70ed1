"""What hosts say in a story in the name of the disks that they run. They can say anything but prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from perdure.array.ports import Lane
from perdure.disk import wire
from perdure.disk.wire import LINK_BYTES, Wants
from perdure.sim.disks import SimDisk
from perdure.sim.network import named
from perdure.sim.story import Step, Story


@dataclass(frozen=True, slots=True)
class Lie(Step):
    """The hosts of some disks lie to one main program for a while."""

    back: int
    seats: tuple[int, ...]
    for_ms: int
    dice: int

    def __str__(self) -> str:
        seats = ", ".join(map(str, self.seats))
        return f"for {self.for_ms} ms the hosts of disks {seats} {self.said()} to {named(self.back)}"

    def said(self) -> str:
        """For `str`: what they do."""
        raise NotImplementedError

    def _intercept(self, story: Story, forge: Callable[[SimDisk, bytes], bytes | None]) -> None:
        """See every command before the disk does, and answer it in its place or not."""
        for seat in self.seats:

            def intercept(_lane: Lane, command: bytes, seat: int = seat) -> bytes | None:
                disk = story.standing[seat]
                return None if disk is None else forge(disk, command)

            for channel in story.main(self.back).channels_to(seat):
                channel.intercept = intercept
                story.later(self.for_ms, partial(setattr, channel, "intercept", None))

    def _tamper(self, story: Story, tamper: Callable[[bytes, bytes], bytes | None]) -> None:
        """See every reply after the disk has made it, and deliver another or none."""
        for seat in self.seats:
            for channel in story.main(self.back).channels_to(seat):
                channel.tamper = lambda _lane, command, reply: tamper(command, reply)
                story.later(self.for_ms, partial(setattr, channel, "tamper", None))


@dataclass(frozen=True, slots=True)
class ForgePlainAnswers(Lie):
    """A3: commands that ask for no evidence are dropped, and answered as if they had been carried out.

    One that asks for a link gets one that was shown before, or any.
    """

    kind = "forged acknowledgements"

    def said(self) -> str:
        """For `str`."""
        return "drop what asks for no evidence and acknowledge it"

    def happen(self, story: Story) -> bool:
        """Begin."""
        rng = Random(self.dice)  # noqa: S311 (a simulation must repeat)
        self._intercept(story, lambda disk, command: _plain_answer(disk, command, rng))
        return True


def _plain_answer(disk: SimDisk, command: bytes, rng: Random) -> bytes | None:
    _, opcode, wants, _, epoch, seq, _ = wire.COMMAND_HEADER.unpack_from(command, wire.SIGNATURE_BYTES)
    if opcode != wire.Opcode.EXECUTE or wants in (Wants.EVIDENCE, Wants.CHAIN):
        return None
    result = wire.RESULT.pack(disk.instance, epoch, seq, disk.core.size)
    if wants == Wants.LINK:
        shown = rng.choice(disk.shown[-3:] or [bytes(LINK_BYTES)])
        result += rng.choice((shown, shown, wire.hashed_link(shown), rng.randbytes(LINK_BYTES)))
    return wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result


@dataclass(frozen=True, slots=True)
class LeakedSecret(Lie):
    """What no host can do, and a broken TEE lets it: read the links that a disk has yet to show.

    Commands are dropped and acknowledged with the right link. Evidence cannot be forged all the same.
    """

    kind = "leaked secret"

    def said(self) -> str:
        """For `str`."""
        return "drop what asks for no evidence and acknowledge it, knowing the chains' secrets,"

    def happen(self, story: Story) -> bool:
        """Begin."""
        rng = Random(self.dice)  # noqa: S311 (a simulation must repeat)
        begins = rng.choice((1.0, 0.2))  # some drop what comes from the first on, some from the middle of a chain
        dropped: set[bytes] = set()

        def forge(disk: SimDisk, command: bytes) -> bytes | None:
            _, opcode, wants, _, epoch, seq, _ = wire.COMMAND_HEADER.unpack_from(command, wire.SIGNATURE_BYTES)
            may_forge = opcode == wire.Opcode.EXECUTE and wants in (Wants.NOTHING, Wants.LINK)
            if not may_forge or (disk.instance not in dropped and rng.random() >= begins):
                return None
            link = disk.secret_link(seq) if wants == Wants.LINK else b""
            if link is None or epoch != disk.core.epoch:
                return None
            dropped.add(disk.instance)
            story.told["forged with a leaked secret"] += bool(link)
            result = wire.RESULT.pack(disk.instance, epoch, seq, disk.core.size) + link
            return wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result

        self._intercept(story, forge)
        return True


@dataclass(frozen=True, slots=True)
class ForgeRefusals(Lie):
    """Refusals are unsigned."""

    kind = "forged refusals"

    def said(self) -> str:
        """For `str`."""
        return "refuse now and then"

    def happen(self, story: Story) -> bool:
        """Begin."""
        rng = Random(self.dice)  # noqa: S311 (a simulation must repeat)

        def refuse(_disk: SimDisk, _command: bytes) -> bytes | None:
            reason = rng.choice(list(wire.Reason))
            return wire.REPLY_HEADER.pack(wire.REFUSAL, reason) if rng.random() < 0.3 else None

        self._intercept(story, refuse)
        return True


@dataclass(frozen=True, slots=True)
class Duplicate(Lie):
    """Every command reaches the disk twice; the main program hears the first answer or the second."""

    kind = "duplicates"

    def said(self) -> str:
        """For `str`."""
        return "give every command to the disk twice"

    def happen(self, story: Story) -> bool:
        """Begin."""
        rng = Random(self.dice)  # noqa: S311 (a simulation must repeat)

        def twice(disk: SimDisk, command: bytes) -> bytes | None:
            return rng.choice((disk.reply(command), disk.core_reply(command)))

        self._intercept(story, twice)
        return True


@dataclass(frozen=True, slots=True)
class FlipBits(Lie):
    """Some bit of a reply is another."""

    kind = "flipped bits"

    def said(self) -> str:
        """For `str`."""
        return "flip bits in replies"

    def happen(self, story: Story) -> bool:
        """Begin."""
        rng = Random(self.dice)  # noqa: S311 (a simulation must repeat)
        chance = rng.choice((0.05, 1.0))

        def flip(_command: bytes, reply: bytes) -> bytes:
            if rng.random() >= chance:
                return reply
            at = rng.randrange(len(reply))
            return reply[:at] + bytes([reply[at] ^ 1 << rng.randrange(8)]) + reply[at + 1 :]

        self._tamper(story, flip)
        return True


@dataclass(frozen=True, slots=True)
class ReplayReplies(Lie):
    """An earlier reply of the same disk in the place of this one: best of all, one to the very same words."""

    kind = "replayed replies"

    def said(self) -> str:
        """For `str`."""
        return "answer with what the disks once answered"

    def happen(self, story: Story) -> bool:
        """Begin."""
        rng = Random(self.dice)  # noqa: S311 (a simulation must repeat)
        others = rng.random() < 0.5

        def replay(disk: SimDisk, command: bytes) -> bytes | None:
            same = disk.proofs.get(command)
            if same is not None or not others or not disk.proofs:
                return same
            alike = [reply for asked, reply in disk.proofs.items() if asked[65:67] == command[65:67]]
            return rng.choice(alike) if alike else None

        self._intercept(story, replay)
        return True

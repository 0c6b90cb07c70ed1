"""How main programs come and go in a story: mounts, takeovers, pauses, and deaths between any two effects."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial

from perdure.array.session import Session
from perdure.sim.history import Violation
from perdure.sim.mains import Doom, Main
from perdure.sim.network import named
from perdure.sim.story import DEAD_AFTER_MS, Step, Story

HIDDEN_MS = 400
GIVEN_IN_MS = 4 * DEAD_AFTER_MS
"""More than it takes to give up a silent disk."""


class When(Enum):
    """The moment of a death, and what coverage calls it."""

    NOW = "crash"
    COMMANDS = "crash between effects"
    FLUSH = "crash after FLUSH"
    ROSTER_CHANGE = "crash in a roster change"
    FLUSH_IN_ROSTER_CHANGE = "crash after FLUSH in a roster change"


@dataclass(frozen=True, slots=True)
class Crash(Step):
    """A main program dies: now, after so many more commands, or at the worst moment."""

    back: int
    when: When
    commands: int = 0
    lost: tuple[int, ...] = ()
    """Seats of the disks that what it had sent last does not reach."""

    @property
    def kind(self) -> str:  # type: ignore[override]
        """By its moment."""
        return self.when.value

    def __str__(self) -> str:
        moments = {
            When.NOW: "now",
            When.COMMANDS: f"after {self.commands} more commands",
            When.FLUSH: "as soon as a FLUSH returns",
            When.ROSTER_CHANGE: f"{self.commands} commands after its next roster change begins",
            When.FLUSH_IN_ROSTER_CHANGE: "as soon as a FLUSH returns after its next roster change has begun",
        }
        lost = f"; what is on its way to disks {', '.join(map(str, self.lost))} is lost" if self.lost else ""
        return f"{named(self.back)} dies {moments[self.when]}{lost}"

    def happen(self, story: Story) -> bool:
        """Kill it, or doom it."""
        main = story.main(self.back)
        if main.is_dead:
            return False
        if self.when is When.NOW:
            main.die(self.lost)
        else:
            at_flush = self.when in (When.FLUSH, When.FLUSH_IN_ROSTER_CHANGE)
            in_change = self.when in (When.ROSTER_CHANGE, When.FLUSH_IN_ROSTER_CHANGE)
            main.doom = Doom(self.commands, at_flush, in_change, self.lost)
        return True


@dataclass(frozen=True, slots=True)
class Pause(Step):
    """A main program stands still for a while; time and the network go on."""

    kind = "pause"
    back: int
    for_ms: int

    def __str__(self) -> str:
        return f"{named(self.back)} stands still for {self.for_ms} ms"

    def happen(self, story: Story) -> bool:
        """Pause it."""
        main = story.main(self.back)
        if main.is_dead:
            return False
        story.loop.pause(main)
        story.later(self.for_ms, lambda: None if main.is_dead else story.loop.resume(main))
        return True


@dataclass(frozen=True, slots=True)
class GiveIn(Step):
    """A main program that waits for its disks is told to stop: it waits no longer than a disk may be silent."""

    kind = "stop while frozen"
    back: int

    def __str__(self) -> str:
        return f"{named(self.back)} is told to stop, if it waits for disks"

    def happen(self, story: Story) -> bool:
        """Tell it, and see that it does not wait for ever."""
        main = story.serving(self.back)
        if main is None or main.array is None or not main.is_frozen or main.has_given_in:
            return False
        main.has_given_in = True
        main.array.give_in()
        main.start(self._require_an_end(story, main))
        return True

    async def _require_an_end(self, story: Story, main: Main) -> None:
        """Disks that were silent all the time are given up. Looked at twice: it may have stood still meanwhile."""
        array = main.array
        assert array is not None
        await story.loop.sleep(GIVEN_IN_MS)
        silent = [session for _, session in array.members if _is_silent(session, story)]
        await story.loop.sleep(GIVEN_IN_MS)
        waits = any(session.lost is None and _is_silent(session, story) for session in silent)
        if waits and array.committer.failure is None:
            raise Violation("told to stop, a main program still waits for its disks")


def _is_silent(session: Session, story: Story) -> bool:
    return story.loop.now_ms() - session.silent_since_ms > GIVEN_IN_MS


@dataclass(frozen=True, slots=True)
class Mount(Step):
    """A main program mounts, if none is busy or it is a takeover; hosts hide some disks from it."""

    hidden: int
    """How many disks; those above all that nobody did without before, so that it sees the ones that missed most."""
    is_takeover: bool = False
    hides_at_random: bool = False

    @property
    def kind(self) -> str:  # type: ignore[override]
        """A mount by itself is no fault."""
        return "two mains" if self.is_takeover else ""

    def __str__(self) -> str:
        how = "takes over" if self.is_takeover else "mounts, if none serves"
        which = "" if self.hides_at_random else ", of those that were seen all the time"
        return f"a new main program {how}" + (f"; {self.hidden} disks are hidden from it{which}" if self.hidden else "")

    def happen(self, story: Story) -> bool:
        """Begin the mount."""
        if not story.array_id or (not self.is_takeover and any(main.is_busy for main in story.mains)):
            return False
        main = story.new_main()
        if self.hidden:
            self._hide(story, main)
        main.note("mounts")
        main.mount()
        return True

    def _hide(self, story: Story, main: Main) -> None:
        order = list(range(story.geometry.n))
        story.loop.rng.shuffle(order)
        if not self.hides_at_random:
            order.sort(key=lambda at: story.place(main.channels[at].address) in story.was_hidden)
        hidden = order[: self.hidden]
        story.seen["hidden disks"] += 1
        main.note(f"disks {sorted(hidden)} are hidden from it")
        for seat in hidden:
            main.channels[seat].is_silent = True
            story.later(HIDDEN_MS, partial(setattr, main.channels[seat], "is_silent", False))

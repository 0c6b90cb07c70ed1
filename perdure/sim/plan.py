"""From a seed to a plan: what the world is like, and everything that will happen, as a list that people can read.

A plan is a row of scenes, each a few faults that belong together, with operations in between. Scenes are biased to the
worst: a crash comes when a FLUSH has just returned or a roster is half changed, and whoever mounts next is shown the
disks that missed most. Each seed allows itself about half the scenes, so that every fault is seen in many companies.
Nothing is drawn while a story is told but what time and networks do; so any step can be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from perdure.array.geometry import SECTOR_BYTES
from perdure.array.ports import Lane
from perdure.array.session import RETRY_MS
from perdure.sim.clients import (
    AppendRecord,
    BringOnline,
    Erase,
    FlushAll,
    Join,
    LookBack,
    Operation,
    ReadSectors,
    ScrubAll,
    TakeOffline,
    TrimSectors,
    WriteHalf,
    WriteInRosterChange,
)
from perdure.sim.clients import WriteSectors as Write
from perdure.sim.hosts import BlankRestart, Clones, Death, ReplayCommands, Rewind, ShowAgain, Withhold
from perdure.sim.liars import Duplicate, FlipBits, ForgePlainAnswers, ForgeRefusals, LeakedSecret, Lie, ReplayReplies
from perdure.sim.lives import Crash, GiveIn, Mount, Pause, When
from perdure.sim.network import BreakConnections, Delay, LoseReplies, Partition, Reorder, Silence
from perdure.sim.story import ANSWER_MS_MAX, RECORD_BYTES_MAX, Setup, Step, Timed

REAL_EVIDENCE_EVERY = 49
"""Stories with documents in the real format; no multiple of the number of geometries, so that all get some."""
CHAINS_EVERY = 3
"""Stories whose FLUSHes may rest on acknowledgement chains; they are not drawn, so the others stay as they were."""
LEAKS_EVERY = 3 * CHAINS_EVERY
"""Stories of these in which hosts know secrets of chains."""
SERVED_EVERY = 2
"""Stories of an array as a service has it, with a history of events, spares and an operator; not drawn either."""
FREEZES_EVERY = 2 * SERVED_EVERY
"""Stories of these in which it waits when too few disks answer."""
RING_MIN = 8
"""The shortest that takes records of three sectors."""
RECORD_BYTES = (8, 3000, 4012, 4013, 8000, RECORD_BYTES_MAX)
"""Records of one, two and three sectors, some of them full."""
GEOMETRIES = ((2, 3), (3, 5), (4, 6), (4, 7), (5, 9))
VOTED_OFF_MS = (200, 450)
"""When a disk that went silent is voted off, give or take."""
GIVEN_UP_MS = 3 * ANSWER_MS_MAX + 2 * RETRY_MS
"""From the first command that a silent disk gets to the vote that removes it: three waits, and pauses between them."""

FAULTS = (
    *(when.value for when in When),
    *(kind.kind for kind in (Pause, Silence, Partition, BreakConnections, Delay, Reorder, LoseReplies)),
    *(kind.kind for kind in (Death, BlankRestart, Clones, Withhold, ShowAgain, ReplayCommands, Rewind)),
    *(kind.kind for kind in (ForgePlainAnswers, LeakedSecret, ForgeRefusals, Duplicate, FlipBits, ReplayReplies)),
    *(kind.kind for kind in (Join, Erase, ScrubAll, BringOnline, GiveIn)),
    "taken offline",
    "spare",
    "freeze",
    "two mains",
    "hidden disks",
    "late evidence",
    "acknowledgement chains",
)
"""Everything whose company coverage counts."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One seed's story before it is told."""

    setup: Setup
    steps: tuple[Timed, ...]

    def only(self, numbers: list[int]) -> Plan:
        """The same story with these steps alone."""
        return Plan(self.setup, tuple(self.steps[at] for at in numbers))


def draw(seed: int) -> Plan:
    """The plan of a seed; the geometry follows from it too."""
    rng = Random(seed)  # noqa: S311 (a simulation must repeat)
    k, n = GEOMETRIES[seed % len(GEOMETRIES)]
    setup = Setup(
        seed,
        k,
        n,
        sectors=rng.randint(4, 12),
        starts_ms=100 if rng.random() < 0.95 else 0,
        latency_ms=rng.choice(((0.05, 0.2), (0.05, 2.0), (1.0, 5.0))),
        evidence_ms=rng.choice((0.0, 0.0, 0.5, 3.0)),
        attests_every_read=rng.random() < 0.2,
        speaks_nbd=rng.random() < 0.2,
        real_signatures=rng.random() < 0.05,
        real_evidence=seed % REAL_EVIDENCE_EVERY == REAL_EVIDENCE_EVERY - 1,
        has_chains=seed % CHAINS_EVERY == CHAINS_EVERY - 1,
        has_leaks=seed % LEAKS_EVERY == LEAKS_EVERY - 1,
        freezes=seed % FREEZES_EVERY == FREEZES_EVERY - 1,
    )
    if seed % SERVED_EVERY == SERVED_EVERY - 1:
        rate = rng.choice((None, None, 100 * SECTOR_BYTES))
        setup = replace(setup, ring=rng.randint(RING_MIN, 12), spares=rng.randint(1, 3), replace_rate=rate)
    return Plan(setup, tuple(sorted(_Author(rng, setup).write(), key=lambda timed: timed.at_ms)))


class _Author:
    """Draws the steps of one plan."""

    def __init__(self, rng: Random, setup: Setup) -> None:
        self.rng = rng
        self.setup = setup
        self.steps: list[Timed] = []
        self.now_ms = 0.0
        self.is_quiet = False
        """Whether this scene wants no other operations than its own."""

    def write(self) -> list[Timed]:
        """All steps, in no order."""
        scenes = [scene for scene in self.scenes() if self.rng.random() < 0.5] or self.scenes()
        gap_ms = self.rng.choice((1.0, 10.0, 40.0))
        for _ in range(self.rng.randint(4, 12)):
            self.at(0, Mount(self.hidden()))
            self.now_ms += self.rng.expovariate(1 / gap_ms)
            began_ms = self.now_ms
            self.rng.choice(scenes)()
            if not self.is_quiet:
                self.operations(began_ms, self.now_ms)
            self.is_quiet = False
        return self.steps

    def scenes(self) -> list[Callable[[], None]]:
        """All kinds of them; some twice, since more can come of them."""
        return [
            self.network_trouble,
            self.lies,
            self.losses,
            self.deaths_of_mains,
            self.deaths_of_mains,
            self.takeover,
            self.replacement,
            self.replacement,
            *([self.leak] * 6 if self.setup.has_leaks else [self.forgery]),
            self.vote,
            self.replays,
            self.maintenance,
            *([self.spares, self.spares, self.offline, self.offline, self.maintenance] if self.setup.spares else []),
            *([self.freeze] * 5 if self.setup.freezes else []),
        ]

    # Scenes -----------------------------------------------------------------------------------------------

    def network_trouble(self) -> None:
        """Loss, delay, reordering, partitions."""
        for _ in range(self.rng.randint(1, 3)):
            self.at(self.short_ms(), self.network_fault())
        self.now_ms += self.rng.choice((5, 60))

    def lies(self) -> None:
        """Hosts answer what they like, about two things at once sometimes."""
        for _ in range(self.rng.randint(1, 2)):
            self.at(self.short_ms(), self.lie())
        self.now_ms += self.rng.choice((10, 100))

    def losses(self) -> None:
        """Disks go, for good or for a while, or others stand in their places."""
        for _ in range(self.rng.randint(1, 2)):
            self.at(self.short_ms(), self.loss())
        self.now_ms += self.rng.choice((10, 100, 400))

    def deaths_of_mains(self) -> None:
        """A main program dies; hosts do something to disks that nobody watches; another mounts."""
        when = self.rng.choice((When.NOW, When.COMMANDS, When.COMMANDS, When.FLUSH))
        self.at(0, Crash(self.back(), when, self.rng.randint(0, 60), self.lost()))
        if self.rng.random() < 0.3:
            self.at(0, Crash(1, When.NOW))
        self.now_ms += self.rng.choice((1, 20, 60))
        if self.rng.random() < 0.6:
            self.at(0, self.between())
        self.at(0.1, Mount(self.hidden(), hides_at_random=self.rng.random() < 0.3))
        if self.rng.random() < 0.5:  # the new one does not get far either
            self.at(0.2, Crash(0, When.COMMANDS, self.rng.randint(0, 12 * self.setup.n), self.lost()))
            self.at(30, Mount(self.hidden()))
        self.now_ms += self.rng.choice((5, 40))

    def takeover(self) -> None:
        """Another main program mounts while one serves; often the first stands still meanwhile."""
        if self.rng.random() < 0.6:
            self.at(0, Pause(self.back(), self.rng.choice((5, 60, 600))))
        for _ in range(self.rng.choice((1, 1, 2))):
            self.at(self.short_ms(), Mount(self.hidden(), is_takeover=True))
        if self.rng.random() < 0.3:
            self.at(self.short_ms(), self.network_fault())
        self.now_ms += self.rng.choice((10, 60))

    def replacement(self) -> None:
        """A disk goes, its seat is filled by a fresh one or by itself; more trouble comes in the middle of it."""
        seat = self.rng.randrange(self.setup.n)
        going = self.rng.choice((BlankRestart(seat, False), Death(seat, False), Withhold((seat,), 700), None))
        self.at(0, going or Silence(0, (seat,), 500))
        for _ in range(3):
            self.now_ms += self.rng.choice((20, *VOTED_OFF_MS))
            self.at(0, Mount(0))
            self.at(0.1, self.join(seat))
            if self.rng.random() < 0.3:
                trouble = (self.loss, self.lie, self.network_fault, self.death_of_a_main)
                self.at(self.short_ms(), self.rng.choice(trouble)())

    def spares(self) -> None:
        """Disks go while clients write, spares take their seats by themselves; the main program dies in the middle."""
        for seat in self.some_seats(self.rng.choice((1, 1, 2))):
            self.at(self.short_ms(), self.rng.choice((BlankRestart(seat, False), Death(seat, False))))
        self.at(1, self.operation())
        self.now_ms += self.rng.choice((0, *VOTED_OFF_MS))
        if self.rng.random() < 0.6:
            when = self.rng.choice((When.COMMANDS, When.ROSTER_CHANGE, When.FLUSH_IN_ROSTER_CHANGE))
            self.at(0, Crash(0, when, self.rng.randint(0, 8 * self.setup.n), self.lost()))
        if self.rng.random() < 0.3:
            self.at(self.short_ms(), self.rng.choice((self.loss, self.lie, self.network_fault))())
        for _ in range(3):
            self.now_ms += self.rng.choice((50, 150, 300))
            self.at(0, Mount(0))
            self.at(self.short_ms(), self.operation())

    def offline(self) -> None:
        """An operator takes a disk offline while clients write, and back; something goes wrong in between."""
        for _ in range(2):
            self.at(self.short_ms(), TakeOffline(0, self.rng.randrange(self.setup.n)))
        for _ in range(self.rng.randint(1, 4)):
            self.at(self.short_ms(), self.operation())
        self.now_ms += self.rng.choice((5, 60, 200))
        if self.rng.random() < 0.4:
            trouble = (self.loss, self.lie, self.network_fault, self.death_of_a_main)
            self.at(self.short_ms(), self.rng.choice(trouble)())
        for _ in range(2):
            self.at(self.short_ms(), BringOnline(0))
            self.now_ms += self.rng.choice((5, 60, 200))

    def freeze(self) -> None:
        """Too few disks answer, and all waits; until they do, another main program takes over, or a stop gives in."""
        n, ms = self.setup.n, self.rng.choice((300, 900, 1500))
        self.now_ms += 40  # who mounts serves by then
        for seat in self.some_seats(self.rng.randint(n - self.setup.k + 1, n)):
            self.at(0, Silence(0, (seat,), ms + self.rng.choice((0, 0, 60, 250))))
        for _ in range(self.rng.randint(2, 6)):
            self.at(self.short_ms(), self.rng.choice((self.big_write(), FlushAll(0), self.operation())))
        ends = (Mount(0, is_takeover=True), GiveIn(0), GiveIn(0), Crash(0, When.FLUSH), Crash(0, When.NOW), None)
        end = self.rng.choice(ends)
        if end is not None:
            self.at(ms * self.rng.choice((0.4, 0.7, 1.0)), end)
        self.now_ms += ms + self.rng.choice((5, 100, 400))

    def forgery(self) -> None:
        """A3 in full: acknowledgements are forged, somebody flushes, the main program dies and another mounts."""
        self.forged(ForgePlainAnswers)

    def leak(self) -> None:
        """The same by hosts that can read the secrets of their disks."""
        self.forged(LeakedSecret)
        if self.rng.random() < 0.5:  # by now it is found out, and who noticed goes on without those disks
            self.now_ms += self.rng.choice((30, 300))

    def forged(self, lie: type[Lie]) -> None:
        """A lie, and what makes it matter."""
        seats = self.some_seats(self.rng.randint(1, self.setup.n))
        self.at(0, lie(0, seats, self.rng.choice((5, 30, 100)), self.dice()))
        for _ in range(self.rng.randint(1, 4)):
            self.at(self.short_ms(), self.big_write())
        self.at(5, FlushAll(0))
        when = self.rng.choice((When.NOW, When.COMMANDS, When.FLUSH, When.FLUSH))
        self.at(0.2, Crash(0, when, self.rng.randint(0, 40), self.lost()))
        self.now_ms += self.rng.choice((2, 10, 40))
        self.at(0, Crash(0, When.NOW))
        self.at(0.1, Mount(self.hidden()))
        self.now_ms += 20

    def vote(self) -> None:
        """Disks go silent and are voted off; clients write while the roster changes; whoever mounts next sees them."""
        seats = self.some_seats(self.rng.randint(1, self.setup.n - self.setup.k))
        self.at(0, Silence(0, seats, 600))
        if self.rng.random() < 0.5:
            self.at(1, Delay(0, self.seat(), (0.1, 15.0)))
        when = self.rng.choice((When.ROSTER_CHANGE, When.FLUSH_IN_ROSTER_CHANGE, When.FLUSH_IN_ROSTER_CHANGE))
        lost = self.lost()
        if self.rng.random() < 0.6:  # one FLUSH waits for the silent; one more is under way when they are given up
            self.is_quiet, when, lost = True, When.FLUSH_IN_ROSTER_CHANGE, tuple(range(self.setup.n))
            began_ms = 0.5 + self.rng.random()
            round_ms = 2 * self.setup.latency_ms[1] + self.setup.evidence_ms
            self.at(began_ms, Write(0, self.rng.randrange(self.setup.sectors), 1, True))
            late_ms = GIVEN_UP_MS - round_ms * self.rng.random()
            self.at(began_ms + late_ms, Write(0, self.rng.randrange(self.setup.sectors), 1, True))
        for _ in range(self.rng.choice((0, 0, 1, 3, 30))):
            write = Write(0, self.rng.randrange(self.setup.sectors), 1, self.rng.random() < 0.7)
            self.at(self.rng.choice((10, 500)) * self.rng.random(), write)
        for _ in range(self.rng.randint(0, 3)):
            later_ms = self.rng.choice((1, 8)) * self.rng.random()
            self.at(0, WriteInRosterChange(0, self.rng.randrange(self.setup.sectors), later_ms))
        self.at(100, Crash(0, when, self.rng.randint(0, 3 * self.setup.n), lost))
        for _ in range(3):
            self.now_ms += self.rng.choice((200, 300))
            self.at(0, Mount(self.setup.n - self.setup.k))
        self.now_ms += 450
        self.at(0, Mount(0))
        self.now_ms += 30

    def replays(self) -> None:
        """What was recorded is given again, to one disk or to all."""
        for _ in range(self.rng.randint(1, 3)):
            self.at(self.short_ms(), self.rng.choice((self.replay, self.replay, self.rewind))())
        self.now_ms += self.rng.choice((5, 40))

    def maintenance(self) -> None:
        """Erasing and scrubbing, with a fault in the middle of it."""
        first = self.rng.randrange(self.setup.sectors)
        if self.rng.random() < 0.6:
            self.at(0, Erase(0, first, self.rng.randint(1, self.setup.sectors - first)))
        if self.rng.random() < 0.6:
            self.at(self.short_ms(), ScrubAll(0, self.rng.choice((0, 0, 100))))
        faults = (self.network_fault, self.lie, self.loss, self.death_of_a_main)
        self.at(self.short_ms(), self.rng.choice(faults)())
        self.now_ms += self.rng.choice((10, 80))

    # Faults -----------------------------------------------------------------------------------------------

    def network_fault(self) -> Step:
        """One."""
        setup, back, seat = self.setup, self.back(), self.seat()
        few = self.some_seats(self.rng.choice((1, 1, 1, 2, setup.n)))
        faults: tuple[Step, ...] = (
            Silence(back, few, self.rng.choice((5, 60, 400, 2000))),
            Silence(back, few, self.rng.choice((5, 60, 400, 2000))),
            Partition(self.some_seats(self.rng.randint(1, setup.n)), self.rng.choice((20, 100, 500))),
            BreakConnections(back, few),
            Delay(back, seat, self.rng.choice(((0.05, 0.1), (0.1, 15.0), (5.0, 10.0)))),
            Reorder(back, seat, self.rng.choice(tuple(Lane)), self.rng.choice((1.0, 5.0, 20.0))),
            LoseReplies(back, seat, self.rng.choice((5, 50, 200))),
        )
        return self.rng.choice(faults)

    def lie(self) -> Lie:
        """One."""
        forge = LeakedSecret if self.setup.has_leaks else ForgePlainAnswers
        lies = (forge, ForgeRefusals, Duplicate, FlipBits, ReplayReplies)
        seats = self.some_seats(self.rng.choice((1, 1, 2, self.setup.n)))
        return self.rng.choice(lies)(self.back(), seats, self.rng.choice((5, 50, 200)), self.dice())

    def loss(self) -> Step:
        """One."""
        seat, beyond = self.seat(), self.rng.random() < 0.03
        seats = self.some_seats(self.rng.choice((1, 1, 2)))
        losses: tuple[Step, ...] = (
            Death(seat, beyond),
            BlankRestart(seat, beyond),
            Clones(seats, self.rng.randint(0, 8), self.rng.choice((0, 5, 60, 500))),
            Withhold(seats, self.rng.choice((20, 300, 1500))),
            ShowAgain(seats),
        )
        return self.rng.choice(losses)

    def between(self) -> Step:
        """What hosts can do while no main program looks."""
        everyone = tuple(range(self.setup.n))
        steps: tuple[Step, ...] = (
            Rewind(self.rng.randint(1, 6)),
            Clones(everyone, self.rng.randint(0, 6), self.rng.choice((0, 300))),
            ShowAgain(everyone),
            self.replay(),
        )
        return self.rng.choice(steps)

    def death_of_a_main(self) -> Step:
        """At any effect."""
        return Crash(self.back(), self.rng.choice(tuple(When)), self.rng.randint(0, 40), self.lost())

    def replay(self) -> Step:
        """Recorded commands again."""
        everyone = tuple(range(self.setup.n))
        seats = everyone if self.rng.random() < 0.5 else self.some_seats(1)
        return ReplayCommands(seats, self.rng.random() < 0.6, self.rng.randrange(300), self.rng.randint(1, 12))

    def rewind(self) -> Step:
        """All commands again."""
        return Rewind(self.rng.randint(1, 6))

    def join(self, seat: int) -> Step:
        """Into this seat, or whichever is empty."""
        fresh, reseal = self.rng.random() < 0.6, self.rng.random() < 0.8
        return Join(0, seat, fresh, reseal, self.rng.choice((0, 0, 100)))

    # Operations -------------------------------------------------------------------------------------------

    def operations(self, began_ms: float, end_ms: float) -> None:
        """Clients at work during a scene, most of them where it begins."""
        count = self.rng.choice((3, 10, 25))
        for _ in range(count):
            span_ms = min(end_ms - began_ms, 15) if self.rng.random() < 0.7 else end_ms - began_ms
            self.steps.append(Timed(began_ms + self.rng.uniform(0, span_ms + 1), self.operation()))

    def operation(self) -> Operation:
        """One of a client."""
        back = self.back()
        first = self.rng.randrange(self.setup.sectors)
        count = self.rng.randint(1, self.setup.sectors - first)
        operations: tuple[Operation, ...] = (
            Write(back, first, 1, False),
            Write(back, first, 1, False),
            Write(back, first, 1, True),
            WriteHalf(back, first, self.rng.randrange(2)),
            WriteHalf(back, first, self.rng.randrange(2)),
            Write(back, first, count, False),
            TrimSectors(back, first, count),
            FlushAll(back),
            FlushAll(back),
            ReadSectors(back, first, count),
            ReadSectors(back, first, count),
        )
        if self.setup.ring:
            operations += (self.record(back), self.record(back), LookBack(back))
        return self.rng.choice(operations)

    def record(self, back: int) -> Operation:
        """An event to be kept."""
        return AppendRecord(back, self.rng.choice(RECORD_BYTES))

    def big_write(self) -> Operation:
        """Several entries."""
        first = self.rng.randrange(self.setup.sectors)
        return Write(0, first, self.setup.sectors - first, False)

    # Small draws ------------------------------------------------------------------------------------------

    def at(self, later_ms: float, step: Step) -> None:
        """Add a step."""
        self.steps.append(Timed(round(self.now_ms + later_ms, 3), step))

    def short_ms(self) -> float:
        return self.rng.choice((0, 1, 5, 20)) * self.rng.random()

    def back(self) -> int:
        return self.rng.choice((0, 0, 0, 1))

    def seat(self) -> int:
        """An address: as a rule a seat's; those of spares come after them."""
        return self.rng.randrange(self.setup.n + self.setup.spares)

    def some_seats(self, count: int) -> tuple[int, ...]:
        """Some of the same."""
        places = self.setup.n + self.setup.spares
        return tuple(sorted(self.rng.sample(range(places), min(count, places))))

    def lost(self) -> tuple[int, ...]:
        """The disks that do not get what a dying main program sent last: as a rule all get it, or none."""
        n = self.setup.n
        return self.some_seats(self.rng.choice((0, 0, n, self.rng.randint(0, n))))

    def hidden(self) -> int:
        """How many disks a mount is not shown: as a rule none, or as many as it can do without."""
        most = self.setup.n - self.setup.k
        return self.rng.choice((0, 0, 0, self.rng.randint(0, most), most, most))

    def dice(self) -> int:
        return self.rng.randrange(1 << 30)

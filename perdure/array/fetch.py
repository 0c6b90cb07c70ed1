"""Fragments from whichever k members answer first; reads that come together travel together.

One signed READ for each of k disks serves all reads that wait when it leaves, so signatures, answers and decoding are
shared. At most BATCHES_MAX such rounds are under way; what is asked for meanwhile waits for the next. Nothing here
is believed: whoever asked holds what comes against a tag.

A member that does not answer when others usually have is not waited for: another is asked beside it (a hedge, compare
Dean and Barroso, "The Tail at Scale", 2013), and the first k answers are taken. The slow one comes last for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from perdure.array.erasure import Code
from perdure.array.geometry import SECTOR_BYTES, Geometry, Run
from perdure.array.members import Members
from perdure.array.ports import Buffer, Event, Runtime
from perdure.array.session import Session, Trouble
from perdure.errors import Fork, PerdureError, Rollback, Unavailable

READ_TRIES = 10
READ_RETRY_MS = 100
"""Too few answered: a short break of several links ends no read, as it ends no write."""
AVOID_MS = 10_000
"""How long a disk whose read went wrong, or took too long, is asked last."""
BATCHES_MAX = 2
CHUNK_SECTORS = 256
HEDGE_TICK_MS = 5
HEDGE_MS_MIN = 20
"""Longer than a busy machine lets a healthy disk wait, shorter than anybody notices."""
HEDGE_MS_MAX, HEDGE_EVIDENCE_MS_MAX = 100, 1000
"""However long rounds have taken lately: a host that is a little slower each time must not teach us patience."""
HEDGE_FACTOR = 4
"""A round is slow when it has lasted so many times as long as rounds of its kind do on average."""


@dataclass(slots=True, eq=False)
class Fetched:
    """What one read got: `rows`, the ciphertexts of its sectors by position, and the fragments they were made of."""

    rows: list[memoryview]
    columns: Mapping[int, Buffer]
    """By seat, the fragments of all sectors of the round."""
    first: int
    """Where this read's begin among them, in sectors."""

    def fragments(self, at: int, size: int) -> dict[int, memoryview]:
        """The fragments, `size` bytes each, of the sector at position `at` of this read, by seat."""
        start = (self.first + at) * size
        return {seat: memoryview(column)[start : start + size] for seat, column in self.columns.items()}


@dataclass(slots=True, eq=False)
class _Want:
    run: Run
    event: Event
    fetched: Fetched | None = None
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class _Race:
    """One round of READs: who may still be asked, and what has come."""

    places: Sequence[Run]
    wanted: int
    evidence: bool
    left: deque[tuple[int, Session]]
    started_ms: int
    over: Event
    columns: dict[int, Buffer] = field(default_factory=dict)
    running: dict[int, tuple[Session, int]] = field(default_factory=dict)
    """By seat: who is being asked, and since when."""
    is_hedged: bool = False
    verdict: PerdureError | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more needs to be waited for, or can be."""
        return self.verdict is not None or len(self.columns) >= self.wanted or (not self.running and not self.left)


class Fetcher:
    """Reads fragments of sectors that are home from the members of the roster in force."""

    def __init__(self, geometry: Geometry, code: Code, members: Members, runtime: Runtime, *, every_read: bool) -> None:
        self._geometry = geometry
        self._code = code
        self._members = members
        self._runtime = runtime
        self._every_read = every_read
        self._wanted: deque[_Want] = deque()
        self._under_way = 0
        self._races: list[_Race] = []
        self._is_watching = False
        self._usual_ms = [0.0, 0.0]  # without evidence, with it

    # Reads that travel together ---------------------------------------------------------------------------

    async def fetch(self, run: Run) -> Fetched:
        """The ciphertexts of `run`, CHUNK_SECTORS sectors at most, from k members; with evidence if every read is.

        Raises Unavailable when fewer than k answer, unless the array waits for them; Fork, unless it is one disk's
        Rollback.
        """
        assert run.count <= CHUNK_SECTORS
        want = _Want(run, self._runtime.event())
        self._wanted.append(want)
        if self._under_way < BATCHES_MAX:
            self._under_way += 1
            self._runtime.spawn(self._serve())
        await want.event.wait()
        if want.error is not None:
            raise want.error
        assert want.fetched is not None
        return want.fetched

    async def _serve(self) -> None:
        try:
            while self._wanted:
                wants = self._take()
                try:
                    await self._answer(wants)
                except PerdureError as error:
                    for want in wants:
                        want.error = error
                finally:
                    for want in wants:
                        if want.fetched is None and want.error is None:  # a defect, told of by whoever spawned this
                            want.error = Unavailable("the read was given up")
                        want.event.set()
        finally:
            self._under_way -= 1
            if not self._under_way:  # somebody is left only where this was cancelled, or is a defect
                for want in self._wanted:
                    want.error = Unavailable("the read was given up")
                    want.event.set()
                self._wanted.clear()

    def _take(self) -> list[_Want]:
        taken = [self._wanted.popleft()]
        count = taken[0].run.count
        while self._wanted and count + self._wanted[0].run.count <= CHUNK_SECTORS:
            taken.append(self._wanted.popleft())
            count += taken[-1].run.count
        return taken

    async def _answer(self, wants: list[_Want]) -> None:
        runs = [want.run for want in wants]
        columns = await self.columns(runs, self._geometry.k, evidence=self._every_read)
        rows = self.rows(columns, sum(run.count for run in runs))
        first = 0
        for want in wants:
            want.fetched = Fetched(rows[first : first + want.run.count], columns, first)
            first += want.run.count

    def rows(self, columns: Mapping[int, Buffer], count: int) -> list[memoryview]:
        """The ciphertexts, 4,096 bytes each, from k columns of `count` fragments."""
        data = self._code.decode(columns)
        width = self._geometry.fragment_bytes
        stacked = np.empty((count, self._geometry.k, width), np.uint8)
        for seat, column in enumerate(data):
            stacked[:, seat] = np.frombuffer(column, np.uint8).reshape(count, width)
        flat = stacked.reshape(-1).data
        step = self._geometry.k * width
        return [flat[at * step : at * step + SECTOR_BYTES] for at in range(count)]

    # One round --------------------------------------------------------------------------------------------

    async def columns(self, runs: Sequence[Run], wanted: int, *, evidence: bool) -> dict[int, Buffer]:
        """By seat, the fragments of `runs` end to end, from `wanted` members; fewer, but k or more, if no more answer.

        Raises Unavailable when fewer than k answer, again and again, and the array does not wait for them; Fork, unless
        it is one disk's Rollback.
        """
        size = self._geometry.fragment_sectors
        places = [Run(self._geometry.fragment_start(run.start), run.count * size) for run in runs]
        return await self.read(places, wanted, evidence=evidence)

    async def read(
        self, places: Sequence[Run], wanted: int, *, evidence: bool, least: int | None = None
    ) -> dict[int, Buffer]:
        """The same of any places, in disk sectors; `least` in the place of k."""
        least = least or self._geometry.k
        columns: dict[int, Buffer] = {}
        tries = 0
        while tries < READ_TRIES or self._members.is_waiting:
            columns |= await self._round(places, wanted - len(columns), columns, evidence=evidence)
            if len(columns) >= least:
                return columns
            tries += 1
            await self._runtime.sleep(READ_RETRY_MS)
        raise Unavailable(
            f"{len(columns)} disks answered a read that needs {least}; nothing older was served. Bring disks back."
        )

    async def _round(
        self, places: Sequence[Run], wanted: int, has: Mapping[int, Buffer], *, evidence: bool
    ) -> dict[int, Buffer]:
        left = deque(pair for pair in self.to_ask() if pair[0] not in has)
        race = _Race(places, wanted, evidence, left, self._runtime.now_ms(), self._runtime.event())
        for _ in range(wanted):
            self._ask_another(race)
        self._races.append(race)
        self._watch()
        try:
            if not race.is_over:
                await race.over.wait()
        finally:
            self._races.remove(race)
        if race.verdict is not None:
            raise race.verdict
        if not race.is_hedged:
            lasted_ms = self._runtime.now_ms() - race.started_ms
            self._usual_ms[evidence] += (lasted_ms - self._usual_ms[evidence]) / 16
        return dict(race.columns)  # not what comes later

    def _ask_another(self, race: _Race) -> None:
        if race.left and not race.is_over:
            seat, session = race.left.popleft()
            race.running[seat] = session, self._runtime.now_ms()
            self._runtime.spawn(self._ask(race, seat, session))

    async def _ask(self, race: _Race, seat: int, session: Session) -> None:
        try:
            race.columns[seat] = await session.read(race.places, evidence=race.evidence)
        except Trouble:
            self.trouble(session)
            self._ask_another(race)
        except Fork as verdict:
            try:
                self.fork(session, verdict)
                self._ask_another(race)
            except Fork:
                race.verdict = verdict
        except BaseException:  # cancelled, with all else that this process does, or a defect
            race.verdict = Unavailable("the read was given up")
            raise
        finally:
            del race.running[seat]
            if race.is_over:
                race.over.set()

    def _watch(self) -> None:
        if not self._is_watching:
            self._is_watching = True
            self._runtime.spawn(self._hedge())

    async def _hedge(self) -> None:
        """While rounds are under way, ask one more member in each that is slow."""
        try:
            while self._races:
                await self._runtime.sleep(HEDGE_TICK_MS)
                for race in self._races:
                    self._hedge_one(race, self._runtime.now_ms())
        finally:
            self._is_watching = False

    def _hedge_one(self, race: _Race, now: int) -> None:
        most_ms = HEDGE_EVIDENCE_MS_MAX if race.evidence else HEDGE_MS_MAX
        slow_ms = min(max(HEDGE_MS_MIN, HEDGE_FACTOR * self._usual_ms[race.evidence]), most_ms)
        hedged = len(race.running) + len(race.columns) - race.wanted
        if not race.left or now - race.started_ms < slow_ms * (1 + hedged):
            return
        for session, asked_ms in race.running.values():
            if now - asked_ms >= slow_ms:
                session.read_slow_ms = now
        race.is_hedged = True
        self._ask_another(race)

    # Whom to ask ------------------------------------------------------------------------------------------

    def to_ask(self) -> list[tuple[int, Session]]:
        """The members in the order in which to ask them; one that was slow or gave trouble lately comes last."""
        members = self._members.to_ask()
        avoided_ms = self._runtime.now_ms() - AVOID_MS
        if all(session.read_slow_ms is None for _, session in members):
            return members

        def is_avoided(pair: tuple[int, Session]) -> bool:
            slow_ms = pair[1].read_slow_ms
            return slow_ms is not None and slow_ms > avoided_ms

        return sorted(members, key=is_avoided)

    def trouble(self, session: Session) -> None:
        """A read went wrong: find out, beside it, whether the disk is still ours."""
        session.read_slow_ms = self._runtime.now_ms()
        self._members.counted(session.instance).read += 1

        async def probe() -> None:
            try:
                await session.probe()
            except PerdureError as verdict:
                self._members.report_lost(session, verdict)

        self._runtime.spawn(probe())

    def fork(self, session: Session, verdict: Fork) -> None:
        """A Rollback is this disk's, and another may answer; anything else ends the mount, and this read."""
        self._members.report_lost(session, verdict)
        if not isinstance(verdict, Rollback):
            raise verdict

"""The commit pipeline: batches become entries, each member gets one EXECUTE, and what all proved to have is applied.

Each EXECUTE does three things at once: it applies the entries that are proved on every member (COPY from the ring
home, TRIM the slot), puts the next entry into the ring, and moves the head; so a durable write costs one round trip.

- An entry is *proved* when every member of the roster in force has given evidence for it or for a later command.
  Only then is it applied, and only when its application is proved is its slot used again and its batch dropped: a
  host that forges plain acknowledgements must not make us overwrite what a FLUSH promised (docs/design.md).
- A FLUSH waits for evidence that was asked for after it came: proof that the writes are there *and* that this main
  program still owns the array. All that wait share one EXECUTE and so one document per disk.
- With acknowledgement chains a FLUSH may rest on links. But links prove nothing to the rule above: a leaked secret must
  cost no more than what was acknowledged since the last evidence, so nothing is overwritten on the strength of one.
- When a member is lost, nothing is acknowledged until the roster without it is in force (rules 4, 5, 9).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from perdure.array import journal, sealing
from perdure.array.cache import Batch, WriteCache
from perdure.array.change import RosterChange
from perdure.array.erasure import Code
from perdure.array.geometry import HEAD_AREA, SLOTS, TRIM_SECTORS_MAX
from perdure.array.journal import Entry, Head
from perdure.array.members import Members
from perdure.array.ports import Buffer, Event
from perdure.array.rounds import Rounds
from perdure.array.session import Session
from perdure.array.tags import TagTable
from perdure.array.world import Opened, World
from perdure.errors import Fenced, Fork, Misuse, PerdureError

IN_FLIGHT_MAX = 8
"""EXECUTEs under way to each disk."""
CODED_AT_ONCE = 16
"""Sectors sealed and coded in one turn: few enough that all of it stays in the processor's cache."""
CHANGE_POLL_MS = 10
UNPROVED_MAX = 4
"""Entries after which evidence is asked for even if nobody flushes, so that the ring never fills up."""
LINKED_MAX = 7
"""The same with chains, where FLUSHes do not bring evidence: entries of two such rounds, and some in flight, fit it."""


@dataclass(slots=True)
class Waiter:
    """Somebody who waits for a FLUSH or for room; `mark` is the cache's when it came."""

    event: Event
    mark: int
    may_link: bool = False
    """Whether links of the disks' chains are enough for it."""
    error: PerdureError | None = None


@dataclass(slots=True, eq=False)
class Execution:
    """One EXECUTE, sent to every member."""

    last: int
    applied: int
    evidence: bool
    """Whether every member was asked for evidence, and not only for a link."""
    waiting: set[bytes]
    waiters: list[Waiter] = field(default_factory=list)


class Committer:
    """Owns the order of everything that is written to the members."""

    def __init__(
        self, opened: Opened, keys: sealing.Keys, members: Members, cache: WriteCache, tags: TagTable, world: World
    ) -> None:
        self.failure: PerdureError | None = None
        self.sent_count = 0
        self._geometry = opened.genesis.geometry
        self._epoch = opened.epoch
        self._keys = keys
        self._members = members
        self._cache = cache
        self._tags = tags
        self._runtime = world.runtime
        self._has_chains = world.has_chains
        self._unproved_max = LINKED_MAX if world.has_chains else UNPROVED_MAX
        self._code = Code(self._geometry.k, self._geometry.n)
        self._last = self._proved = self._applied_sent = self._applied_proved = opened.last
        self._asked = opened.last
        self._owes_evidence = False
        self._entries: dict[int, tuple[Entry, Batch]] = {}
        self._executions: deque[Execution] = deque()
        self._flushes: list[Waiter] = []
        self._rooms: list[Waiter] = []
        self._is_changing = False
        self._holding_count = 0
        self._joiners: dict[int, Session] = {}
        self._quiet: list[Waiter] = []
        self._rounds = Rounds(world.runtime, self.pump)
        self._change = RosterChange(members, self._geometry, opened.epoch, world.runtime)
        members.on_lost = self._start_vote

    # What the engine asks ---------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The number of the last entry sent."""
        return self._last

    @property
    def is_changing(self) -> bool:
        """Whether a roster change is under way: what disks show of the roster may differ from disk to disk."""
        return self._is_changing

    @property
    def is_idle(self) -> bool:
        """Whether all that was written is home, and everything that was sent is proved by evidence."""
        is_home = self._cache.is_clean and not self._executions and self._applied_proved == self._last
        return is_home and not self._owes_evidence

    async def flush(self, *, by_evidence: bool = False) -> None:
        """Return when all writes so far are proved on every member, and that the array is still ours.

        By links, if the disks have chains and it does not have to be `by_evidence`.
        """
        waiter = self._wait_in(self._flushes)
        waiter.may_link = self._has_chains and not by_evidence
        self.pump()
        await self._await(waiter)

    async def room(self) -> None:
        """Return when the cache can take another batch."""
        while self._cache.is_full:
            waiter = self._wait_in(self._rooms)
            self.pump()
            await self._await(waiter)
        self.require_working()

    async def settle(self) -> int:
        """Return when everything written so far is home on every member, provably, and its slots are wiped.

        The number is that of the last entry for which this holds.
        """
        await self.flush(by_evidence=True)
        target = self._proved
        while self._applied_proved < target:
            await self.flush(by_evidence=True)
        return target

    def require_working(self) -> None:
        """Raise what ended this mount, if it has ended."""
        if self.failure is not None:
            raise self.failure

    def _wait_in(self, waiting: list[Waiter]) -> Waiter:
        self.require_working()
        waiter = Waiter(self._runtime.event(), self._cache.mark)
        waiting.append(waiter)
        return waiter

    async def _await(self, waiter: Waiter) -> None:
        await waiter.event.wait()
        if waiter.error is not None:
            raise waiter.error

    def fail(self, error: PerdureError) -> None:
        """End this mount: everyone who waits, and everyone who comes, gets `error`."""
        if self.failure is None:
            self.failure = error
        self._members.least = 0  # nothing is waited for any more
        waiting = [*self._flushes, *self._rooms, *self._quiet]
        waiting += [waiter for execution in self._executions for waiter in execution.waiters]
        self._flushes, self._rooms, self._quiet = [], [], []
        for waiter in waiting:
            waiter.error = self.failure
            waiter.event.set()

    # Sending ----------------------------------------------------------------------------------------------

    def pump(self, *, is_idle: bool = False) -> None:
        """Send all that may be sent now; when idle, what was written is not kept back for a fuller batch."""
        while self.failure is None and not self._is_changing and len(self._executions) < IN_FLIGHT_MAX:
            flushing = self._rounds.may_begin(len(self._flushes))
            has_slot = not self._holding_count and self._last + 1 - SLOTS <= self._applied_proved
            batch = self._cache.take(partial=flushing or is_idle) if has_slot else None
            waiters = self._take_flushes() if flushing else []
            # Without evidence for what was sent, and a round that applies it, slots never become free again.
            must_move = (is_idle or not has_slot) and (self._owes_evidence or self._proved > self._applied_sent)
            if batch is None and not waiters and not must_move:
                return
            unproved = self._last + (batch is not None) - self._asked
            must_prove = must_move or is_idle or not all(waiter.may_link for waiter in waiters)
            self._send(batch, evidence=must_prove or unproved >= self._unproved_max, waiters=waiters)

    def _take_flushes(self) -> list[Waiter]:
        """The FLUSHes for which everything they cover has been taken from the cache."""
        due = [waiter for waiter in self._flushes if self._cache.has_taken(waiter.mark)]
        self._flushes = [waiter for waiter in self._flushes if not self._cache.has_taken(waiter.mark)]
        return due

    def _send(self, batch: Batch | None, *, evidence: bool, waiters: list[Waiter]) -> None:
        ops: list[bytes] = []
        trimmed = 0
        while self._applied_sent < self._proved and trimmed <= TRIM_SECTORS_MAX:
            self._applied_sent += 1
            entry = self._entries[self._applied_sent][0]
            ops += journal.apply_ops(self._geometry, entry)
            trimmed += sum(run.count for run in entry.trims)
        prefix: Buffer = b""
        columns: list[list[Buffer]] = [[] for _ in range(self._geometry.n)]
        if batch is not None:
            prefix, op = self._enter(batch, columns)
            ops.append(op)
        self._owes_evidence = not evidence
        if evidence:
            self._asked = self._last
        ops.append(journal.write(self._geometry.head_start, HEAD_AREA))
        head = Head(self._last, self._applied_sent).encode()
        receivers = [*self._members, *self._joiners.items()]
        waiting = {session.instance for _, session in receivers}
        execution = Execution(self._last, self._applied_sent, evidence, waiting, waiters)
        self._executions.append(execution)
        if waiters:
            self._rounds.begin()
        self.sent_count += 1
        for seat, session in receivers:
            data = (prefix, *columns[seat], head)
            answer = session.execute(ops, data, evidence=evidence or bool(waiters), may_link=not evidence)
            self._runtime.spawn(self._watch(execution, session, answer))

    def _enter(self, batch: Batch, columns: list[list[Buffer]]) -> tuple[bytes, bytes]:
        """Seal and code one batch as the next entry: what all disks get, and the operation; the rest into `columns`."""
        geometry = self._geometry
        self._last += 1
        indices = sorted(batch.writes)
        tags = []
        for start in range(0, len(indices), CODED_AT_ONCE):
            some = indices[start : start + CODED_AT_ONCE]
            sectors = [batch.writes[index] for index in some]
            width = geometry.k * geometry.fragment_bytes
            rows, their_tags = sealing.seal(self._keys, some, sectors, self._last, width, self._runtime.random)
            tags.append(their_tags)
            stacked = rows.reshape(len(some), geometry.k, geometry.fragment_bytes).transpose(1, 0, 2)
            for parts, column in zip(columns, self._code.encode(stacked.tobytes()), strict=True):
                parts.append(column)
        entry = Entry(self._last, self._epoch, tuple(indices), tuple(batch.trims), b"".join(tags))
        self._entries[self._last] = entry, batch
        op = journal.write(geometry.slot_start(self._last), entry.slot_sectors(geometry))
        return entry.encode(self._keys.journal), op

    # Answers ----------------------------------------------------------------------------------------------

    async def _watch(self, execution: Execution, session: Session, answer: Awaitable[None]) -> None:
        try:
            await answer
        except PerdureError as verdict:
            # It is kept for as long as the mount, and its frames hold commands, whose fragments may be erased later.
            verdict.__traceback__ = verdict.__context__ = None
            self._members.report_lost(session, verdict)
            self._joiners = {seat: joiner for seat, joiner in self._joiners.items() if joiner is not session}
        else:
            execution.waiting.discard(session.instance)
        self._settle()

    def _settle(self) -> None:
        """Finish, in order, the executions that every member of the roster in force has answered (rule 8).

        Joiners are waited for too, though they count for nothing, so that none falls behind without bound.
        """
        if self._is_changing or self.failure is not None:
            return
        needed = self._members.roster.members | {joiner.instance for joiner in self._joiners.values()}
        while self._executions and not self._executions[0].waiting & needed:
            self._finish(self._executions.popleft())
        self.pump()
        if self._holding_count and not self._executions and self._applied_proved == self._last:
            self._quiet = _wake(self._quiet)

    def _finish(self, execution: Execution) -> None:
        if execution.evidence:
            self._proved = execution.last
            for number in range(self._applied_proved + 1, execution.applied + 1):
                self._come_home(*self._entries.pop(number))
            self._applied_proved = execution.applied
        if execution.waiters:
            _wake(execution.waiters)
            self._rounds.end(len(execution.waiters), len(self._flushes))
        if not self._cache.is_full:
            self._rooms = _wake(self._rooms)

    def _come_home(self, entry: Entry, batch: Batch) -> None:
        """Every disk has the entry in its homes: reads go there from now on."""
        for run in entry.trims:
            self._tags.clear(run)
        for at, run in journal.runs_of(entry.indices):
            self._tags.put(run.start, entry.tags[at * 64 : (at + run.count) * 64])
        self._cache.evict(batch)

    # Roster changes ---------------------------------------------------------------------------------------

    def _start_vote(self) -> None:
        # A Clone or a Rollback is one disk's; these two say that another main program writes to the array.
        forks = (verdict for verdict in self._members.lost.values() if type(verdict) in (Fenced, Fork))
        fork = next(forks, None)
        if fork is not None:
            self.fail(fork)
        elif not self._is_changing and self.failure is None:
            self._is_changing = True
            self._runtime.spawn(self._carry_out(_nothing_else, self._runtime.event()))

    async def announce(self, seat: int, instance: bytes) -> None:
        """Write down who is about to get fragments of `seat`, before it gets any; until `dismiss`.

        Raises Misuse when another has that seat or joins on it by now, or this one has or joins on another; or what
        ended the mount.
        """
        if seat in self._change.joining or self._members.roster.seats[seat] is not None:
            raise Misuse(f"seat {seat} is taken, or being rebuilt already; nothing was changed")
        if instance in self._members.roster.members or instance in self._change.joining.values():
            raise Misuse("that disk is in use in another seat already; nothing was changed")
        self._change.joining[seat] = instance
        try:
            await self._changing(lambda: self._change.name(seat, instance, self._last, self._applied_proved))
        except BaseException:  # also when whoever asked does not wait for it any more
            self.dismiss(seat, instance)
            raise

    async def _changing(self, change: Callable[[], Awaitable[None]]) -> None:
        """One roster change at a time, and nothing is acknowledged meanwhile."""
        while self._is_changing:
            await self._runtime.sleep(CHANGE_POLL_MS)
        self.require_working()
        self._is_changing = True
        done = self._runtime.event()
        self._runtime.spawn(self._carry_out(change, done))  # to its end, even if nobody waits for it any more
        await done.wait()
        self.require_working()

    async def _carry_out(self, change: Callable[[], Awaitable[None]], done: Event) -> None:
        try:
            await change()
            await self._change.vote_off_the_lost(self._last, self._applied_proved)  # whoever was lost meanwhile
        except PerdureError as error:
            self.fail(error)
        finally:
            self._is_changing = False
            done.set()
        self._settle()

    async def admit(self, seat: int, joiner: Session, ops: list[bytes], data: Callable[[], Sequence[Buffer]]) -> None:
        """From here on `joiner` gets every EXECUTE, after its first: `ops`. At that moment every ring is empty.

        `data` is asked for then, too late for an entry to come between. Raises what ended the mount, or the joiner.
        """
        self._holding_count += 1
        try:
            waiter = self._wait_in(self._quiet)
            self._settle()
            await self._await(waiter)
            self._joiners[seat] = joiner
            welcome = joiner.execute(ops, data(), evidence=True)
        finally:
            self._holding_count -= 1
            self.pump()
        await welcome

    async def adopt(self, seat: int, joiner: Session) -> None:
        """Make the joiner on `seat` a member: it has everything. Raises what ended it, or the mount."""

        async def take_in() -> None:
            while joiner.lost is None and joiner.instance not in self._members.roster.members:
                await self._change.take_in(seat, joiner, self._last, self._applied_proved)
            self.dismiss(seat, joiner.instance)

        await self._changing(take_in)
        if joiner.lost is not None:
            raise joiner.lost

    def dismiss(self, seat: int, instance: bytes) -> None:
        """Whoever was announced for `seat` gets nothing more as a joiner: it is a member now, or has failed."""
        if self._change.joining.get(seat) == instance:
            del self._change.joining[seat]
            self._joiners.pop(seat, None)
            self._settle()  # nobody waits for its answers any more


async def _nothing_else() -> None:
    """The change when there is only somebody to vote off."""


def _wake(waiters: list[Waiter]) -> list[Waiter]:
    """Let all of them go on; returns the empty list."""
    for waiter in waiters:
        waiter.event.set()
    return []

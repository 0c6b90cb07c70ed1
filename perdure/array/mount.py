"""Taking over an array: fence, then read, then decide, propose, activate, and only then apply (docs/design.md, rules).

The numbers in comments are those of the rules. Nothing is believed that evidence at this mount's own epoch does not
show; a disk that cannot show it is a stray, and the array is mounted by the others or not at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from perdure.array import journal
from perdure.array.erasure import Code
from perdure.array.genesis import Genesis
from perdure.array.geometry import GENESIS_AREA, HEAD_AREA, ROSTER_AREA, SLOTS, Geometry, Run
from perdure.array.journal import Entry, EntryHeader, Head
from perdure.array.ports import Channel, results
from perdure.array.roster import Label, Roster, Version, choose_base, require_quorum
from perdure.array.sealing import Keys
from perdure.array.session import Session, Trouble
from perdure.array.world import Opened, Stray, World, new_epoch, persistently
from perdure.disk.wire import DISK_SECTOR_BYTES, NO_EPOCH
from perdure.errors import (
    Blank,
    Clone,
    Corrupt,
    DiskLost,
    Fenced,
    Misuse,
    OldProgram,
    PerdureError,
    Rollback,
    Unavailable,
    too_few,
)


@dataclass(slots=True)
class Member:
    """What one fenced disk of this array says of itself, and what this mount makes of it."""

    session: Session
    label: Label
    head: Head
    headers: dict[int, EntryHeader]
    """The entries in its ring."""


class _Lost(Exception):
    """Disks that could not go through with a mount, and what is wrong with each."""

    def __init__(self, lost: Sequence[tuple[Channel, PerdureError]]) -> None:
        super().__init__()
        self.lost = lost


Require = Callable[[Genesis], None]
"""Raises Misuse for an array that is not what whoever mounts it expects."""


async def mount(
    world: World,
    channels: Sequence[Channel],
    array_id: bytes,
    policy_digest: bytes,
    require: Require = lambda _: None,
) -> Opened:
    """Take over array `array_id`. When a disk dies on the way, or its host spoils it, the rest try again without it.

    `require` sees the genesis record before anything is changed, and before whoever owns the array is fenced.
    Raises Unavailable when fewer than k members can be fenced (also because they belong to another array, or were
    created under another policy), a Fork where evidence shows a clone or a rollback, Fenced when another main program
    mounts at the same time. No acknowledged write is ever left out.
    """
    left, strays = list(channels), list[Stray]()
    while True:
        try:
            return await Mounting(world, array_id, policy_digest, strays).run(left, require)
        except _Lost as attempt:
            for channel, why in attempt.lost:
                left.remove(channel)
                strays.append(Stray(channel.address, why))


class Mounting:
    """One attempt, over the disks that no earlier one has lost; raises _Lost when it loses some."""

    def __init__(self, world: World, array_id: bytes, policy_digest: bytes, strays: Sequence[Stray]) -> None:
        self._world = world
        self._array_id = array_id
        self._policy_digest = policy_digest
        self._keys = Keys.derive(world.authority.private_key, array_id)
        self._strays = list(strays)

    async def run(self, channels: Sequence[Channel], require: Require = lambda _: None) -> Opened:
        """The whole mount, in order."""
        genesis, found, rosters = await self._find(channels)
        require(genesis)
        for seen in rosters:
            self._require_not_older(seen)
        geometry = genesis.geometry
        epoch = new_epoch(self._world.runtime, max(epoch for epoch, _ in found.values()))
        fenced = await self._fence({instance: session for instance, (_, session) in found.items()}, epoch)
        base, present, last = self._decide(await self._survey(fenced, geometry), geometry)
        applied = min(member.head.applied for member in present.values())
        entries = [await self._entry(present, number, geometry) for number in range(applied + 1, last + 1)]
        self._require_not_older(base)
        roster = base.without(base.members - present.keys(), Version(epoch, 0), last, applied)
        roster = replace(roster, release=self._world.release, program=self._world.program)
        proposing = [self._propose(m, present, base, roster, entries, geometry) for m in present.values()]
        await self._together(present, proposing)
        await self._together(present, [self._activate(m, roster, last, geometry) for m in present.values()])
        await self._together(present, [self._apply(m, entries, geometry) for m in present.values()])
        for instance in fenced.keys() - present.keys():
            fenced[instance].channel.close()
        sessions = {instance: member.session for instance, member in present.items()}
        return Opened(genesis, epoch, roster, sessions, last, tuple(self._strays))

    # Finding and fencing ----------------------------------------------------------------------------------

    def _require_not_older(self, seen: Roster) -> None:
        """A host must not bring back a program whose defects a newer one has mended. Looked at before OPEN too."""
        if seen.release > self._world.release:
            raise OldProgram(
                f"release {seen.release} of the main program has mounted this array, and this is release "
                f"{self._world.release}: an older program was put back. Nothing was changed; run the newer one."
            )
        accepted, own = seen.program, self._world.program
        if own.version < accepted.version:
            what = f"version {own.version}: an older one was put back" if own.version else "started without a manifest"
            raise OldProgram(
                f"version {accepted.version} of the signed main program was accepted by this array, and this one is "
                f"{what}. Nothing was changed; run version {accepted.version} or a newer one."
            )
        if own.version == accepted.version and own.manifest != accepted.manifest:
            raise OldProgram(
                f"another manifest of version {own.version} was accepted by this array "
                f"({accepted.manifest.hex()[:16]}..., and this one is {own.manifest.hex()[:16]}...). Nothing was "
                "changed; what differs must have a higher version."
            )

    async def _find(
        self, channels: Sequence[Channel]
    ) -> tuple[Genesis, dict[bytes, tuple[bytes, Session]], list[Roster]]:
        """The disks of this array, by instance, with the epoch that each is at; the roster on each that has one."""
        sessions = [self._world.session(channel) for channel in channels]
        outcomes = await self._world.runtime.gather(*(self._identify(session) for session in sessions))
        found: dict[bytes, tuple[bytes, Session]] = {}
        genesis, rosters = None, list[Roster]()
        for session, outcome in zip(sessions, outcomes, strict=True):
            if self._is_stray(session, outcome):
                continue
            genesis, instance, epoch, roster = outcome
            rosters += [] if roster is None else [roster]
            if instance in found:
                self._is_stray(session, Misuse("two addresses lead to this disk; one is enough"))
            else:
                found[instance] = epoch, session
        if genesis is None:
            raise self._unavailable("None of the disks that were named can be used.")
        return genesis, found, rosters

    async def _identify(self, session: Session) -> tuple[Genesis, bytes, bytes, Roster | None]:
        """HELLO, and a look at genesis and roster before OPEN, so that an array that is not for us is left alone."""
        greeting = await persistently(self._world, session.hello)
        if greeting.epoch == NO_EPOCH:
            raise Blank("it was restarted: it is blank, and what it held is gone")
        runs = [Run(0, GENESIS_AREA), Run(GENESIS_AREA, ROSTER_AREA)]
        data = bytes(await persistently(self._world, lambda: session.peek(greeting, runs)))
        genesis = Genesis.decode(data[: GENESIS_AREA * DISK_SECTOR_BYTES])
        if genesis.array_id != self._array_id:
            raise Misuse(f"it belongs to array {genesis.array_id.hex()}, not to {self._array_id.hex()}; left alone")
        if genesis.policy_digest != self._policy_digest:
            raise Misuse("the evidence policy is not the one that this array was created with; left alone")
        return genesis, greeting.instance, greeting.epoch, Roster.decode(data[GENESIS_AREA * DISK_SECTOR_BYTES :])

    async def _fence(self, sessions: dict[bytes, Session], epoch: bytes) -> dict[bytes, Session]:
        """Rule 1: OPEN everywhere before anything is read that decides."""

        async def open_one(instance: bytes, session: Session) -> None:
            await persistently(self._world, lambda: session.open(instance, epoch))

        opened = [open_one(instance, session) for instance, session in sessions.items()]
        outcomes = await self._world.runtime.gather(*opened)
        for outcome in outcomes:
            if isinstance(outcome, Fenced):
                raise outcome
        pairs = zip(sessions.items(), outcomes, strict=True)
        return {instance: session for (instance, session), outcome in pairs if not self._is_stray(session, outcome)}

    def _is_stray(self, session: Session, outcome: object) -> bool:
        """Set a disk aside that answered with trouble. Anything but our own errors is a defect, and is raised."""
        if isinstance(outcome, PerdureError):
            self._strays.append(Stray(session.channel.address, outcome))
            session.channel.close()
            return True
        if isinstance(outcome, BaseException):
            raise outcome
        return False

    def _unavailable(self, what: str) -> PerdureError:
        return too_few(what, [(stray.address, stray.why) for stray in self._strays])

    # Reading and deciding ---------------------------------------------------------------------------------

    async def _survey(self, fenced: dict[bytes, Session], geometry: Geometry) -> dict[bytes, Member]:
        outcomes = await self._world.runtime.gather(*(self._look(session, geometry) for session in fenced.values()))
        triples = zip(fenced.items(), outcomes, strict=True)
        return {instance: found for (instance, session), found in triples if not self._is_stray(session, found)}

    async def _look(self, session: Session, geometry: Geometry) -> Member:
        """Label, head and ring of one disk, with evidence at this mount's epoch."""
        runs = [Run(geometry.current_start, ROSTER_AREA), Run(geometry.next_start, ROSTER_AREA)]
        runs += [Run(geometry.head_start, HEAD_AREA), *(Run(geometry.slot_start(slot), 1) for slot in range(SLOTS))]
        data = bytes(await persistently(self._world, lambda: session.read(runs, evidence=True)))
        parts, at = [], 0
        for run in runs:
            parts.append(data[at : at + run.count * DISK_SECTOR_BYTES])
            at += run.count * DISK_SECTOR_BYTES
        head = Head.decode(parts[2])
        numbers = range(head.applied + 1, head.last + 1)
        headers = {n: EntryHeader.decode(parts[3 + n % SLOTS]) for n in numbers[: SLOTS + 1]}
        if len(numbers) > SLOTS or any(header.number != number for number, header in headers.items()):
            raise Corrupt(f"the journal of disk {session.channel.address} is damaged")
        return Member(session, Label(Roster.decode(parts[0]), Roster.decode(parts[1])), head, headers)

    def _decide(self, members: dict[bytes, Member], geometry: Geometry) -> tuple[Roster, dict[bytes, Member], int]:
        """Rules 2, 3 and 6: the base roster, its members that are here, and the last entry that counts."""
        try:
            base = choose_base({instance: member.label for instance, member in members.items()})
            while True:
                in_sync = require_quorum(base, members, geometry.k)
                present = {instance: member for instance, member in members.items() if instance in in_sync}
                last = last_entry(list(present.values()), geometry.k)
                behind = {instance for instance, member in present.items() if _is_behind(member, present, last)}
                if not behind:
                    return base, present, last
                for instance in behind:
                    self._leave_behind(members.pop(instance))
        except Unavailable as error:
            raise self._unavailable(str(error)) from None

    def _leave_behind(self, member: Member) -> None:
        """Honest disks never come to this: entries are applied, and slots used again, only on evidence from all."""
        self._is_stray(member.session, Rollback("it lacks entries that were acknowledged in its name"))

    # Entries ----------------------------------------------------------------------------------------------

    async def _entry(self, present: dict[bytes, Member], number: int, geometry: Geometry) -> Entry:
        """Entry `number` from a member that has yet to apply it."""
        holder = _holders(present, number)[0]
        run = Run(geometry.slot_start(number), holder.headers[number].sectors_before_fragments())
        data = await self._asked(holder.session, [run])
        return Entry.decode(bytes(data), self._keys.journal)

    async def _fragments(
        self, present: dict[bytes, Member], entry: Entry, roster: Roster, seat: int, geometry: Geometry
    ) -> memoryview:
        """The fragments of `entry` that belong on `seat`, coded from those of k members that have them."""
        if not entry.indices:  # it only trims: there is nothing to read, and a disk refuses an empty run
            return memoryview(b"")
        first = geometry.slot_start(entry.number) + entry.slot_sectors(geometry)
        run = Run(
            first - len(entry.indices) * geometry.fragment_sectors, len(entry.indices) * geometry.fragment_sectors
        )
        holders = {m.session.instance: m for m in _holders(present, entry.number)[: geometry.k]}
        reads = [self._asked(m.session, [run]) for m in holders.values()]
        columns = results(await self._world.runtime.gather(*reads))
        code = Code(geometry.k, geometry.n)
        by_seat = {roster.seats.index(instance): column for instance, column in zip(holders, columns, strict=True)}
        return code.encode(b"".join(code.decode(by_seat)))[seat]

    async def _asked(self, session: Session, runs: Sequence[Run]) -> memoryview:
        try:
            return await persistently(self._world, lambda: session.read(runs, evidence=True))
        except (*Trouble, DiskLost) as trouble:
            raise _Lost([(session.channel, trouble)]) from trouble

    # Proposing, activating, applying ----------------------------------------------------------------------

    async def _together(self, present: Mapping[bytes, Member], work: Sequence[Awaitable[None]]) -> None:
        """All members at once; each step is complete only when every one has shown evidence of it."""
        outcomes = await self._world.runtime.gather(*work)
        pairs = zip(present.values(), outcomes, strict=True)
        lost = [(m.session.channel, why) for m, why in pairs if isinstance(why, DiskLost | Clone | Rollback)]
        if lost or any(isinstance(outcome, BaseException) for outcome in outcomes):
            for member in present.values():
                member.session.channel.close()
        if lost:
            raise _Lost(lost)
        results(outcomes)

    async def _propose(
        self,
        member: Member,
        present: dict[bytes, Member],
        base: Roster,
        roster: Roster,
        entries: list[Entry],
        geometry: Geometry,
    ) -> None:
        """Rule 4: the entries that it lacks go into its ring, unseen until its head says so; then `next` and head.

        `current` becomes the base: what stood there was the base or void, and whoever finds the proposal void finds
        its predecessor beside it.
        """
        seat = roster.seats.index(member.session.instance)
        for entry in entries:
            if entry.number > member.head.last:
                fragments = await self._fragments(present, entry, roster, seat, geometry)
                slot = journal.write(geometry.slot_start(entry.number), entry.slot_sectors(geometry))
                whole = (entry.encode(self._keys.journal), fragments)
                await member.session.execute([slot], whole, evidence=False)
        last = max(member.head.last, roster.last)
        ops = [
            journal.write(geometry.current_start, 2 * ROSTER_AREA),
            journal.write(geometry.head_start, HEAD_AREA),
        ]
        data = (base.encode(), roster.encode(), Head(last, member.head.applied).encode())
        await member.session.execute(ops, data, evidence=True)

    async def _activate(self, member: Member, roster: Roster, last: int, geometry: Geometry) -> None:
        """Rule 5: `current` := the proposal, `next` := none, the ring cut to what counts."""
        ops = [
            journal.write(geometry.current_start, ROSTER_AREA),
            journal.trim(geometry.next_start, ROSTER_AREA),
            journal.write(geometry.head_start, HEAD_AREA),
        ]
        # Whatever stands in the other slots counts for nothing: dropped entries, and what an interrupted mount had put
        # there before a head named it. All of it goes, or erased data would live on in a ring.
        kept = {number % SLOTS for number in range(member.head.applied + 1, last + 1)}
        ops += [
            journal.trim(geometry.slot_start(slot), geometry.slot_sectors) for slot in range(SLOTS) if slot not in kept
        ]
        data = (roster.encode(), Head(last, member.head.applied).encode())
        await member.session.execute(ops, data, evidence=True)

    async def _apply(self, member: Member, entries: list[Entry], geometry: Geometry) -> None:
        """Rule 7: the roster is in force and every member has the entries, so they go to their homes."""
        applied = member.head.applied
        for entry in entries:
            if entry.number > applied:
                head = journal.write(geometry.head_start, HEAD_AREA)
                data = (Head(entries[-1].number, entry.number).encode(),)
                ops = [*journal.apply_ops(geometry, entry), head]
                await member.session.execute(ops, data, evidence=entry is entries[-1])


def last_entry(members: Sequence[Member], k: int) -> int:
    """Rule 6: the last entry that at least k members hold, in the ring or applied.

    An entry that was acknowledged is on all of them. Fewer than k holders, or fewer than k with the same content,
    means that it never was.
    """
    last = max(member.head.applied for member in members)
    while True:
        number = last + 1
        contents = [member.headers[number].mac for member in members if number in member.headers]
        if not contents or max(contents.count(mac) for mac in contents) < k:
            return last
        last = number


def _is_behind(member: Member, present: Mapping[bytes, Member], last: int) -> bool:
    """Whether it lacks an entry that another has applied already, or its ring could not take what it lacks."""
    applied = max(other.head.applied for other in present.values())
    return member.head.last < applied or last - member.head.applied > SLOTS


def _holders(present: Mapping[bytes, Member], number: int) -> list[Member]:
    return [member for member in present.values() if number in member.headers]

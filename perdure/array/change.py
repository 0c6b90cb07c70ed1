"""Roster changes while serving: the lost are voted off, a joiner is named and later taken in (rules 4, 5, 9 and 11).

One change only removes, only names or only adds. It is proposed to every member of the new roster, then activated on
every one; between the first activation and the last the new roster is the base for whatever comes next, but only when
all have activated is it in force. Whoever calls this lets nothing be acknowledged meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.array import journal
from perdure.array.geometry import ROSTER_AREA, Geometry
from perdure.array.members import Members
from perdure.array.ports import Buffer, Runtime, results
from perdure.array.roster import Roster, Version
from perdure.array.session import Session
from perdure.errors import LeakedSecret, PerdureError, too_few


class RosterChange:
    """Changes the roster of `members`, in the epoch of this mount."""

    def __init__(self, members: Members, geometry: Geometry, epoch: bytes, runtime: Runtime) -> None:
        self._members = members
        self._geometry = geometry
        self._epoch = epoch
        self._runtime = runtime
        self._counter = members.roster.version.counter
        self.joining: dict[int, bytes] = {}
        """By seat: who is named and gets every entry, but is no member yet."""

    async def vote_off_the_lost(self, last: int, applied: int) -> None:
        """Return when a roster without any lost disk is in force; `last` and `applied` are the journal's position.

        Raises Unavailable when fewer than k disks are left, a Fork if one of them was lost to one.
        """
        while gone := self._members.roster.members & self._members.lost.keys():
            base = self._members.roster
            if len(base.members - gone) < self._geometry.k:
                raise self._too_few(len(base.members - gone))
            await self._change(base, base.without(gone, self._next_version(), last, applied, self.joining.values()))

    async def name(self, seat: int, instance: bytes, last: int, applied: int) -> None:
        """Return when a roster is in force that names who is about to be rebuilt on `seat`."""
        while True:
            base = self._members.roster
            target = base.naming(seat, instance, self._next_version(), last, applied, self.joining.values())
            if await self._change(base, target):
                return
            await self.vote_off_the_lost(last, applied)

    async def take_in(self, seat: int, session: Session, last: int, applied: int) -> None:
        """Return when a roster with this disk is in force, or with it lost again; all it must hold is on it."""
        self._members.add(session)
        self._members.lost.pop(session.instance, None)  # it may have been lost before; that is over
        base = self._members.roster
        await self._change(
            base, base.with_member(seat, session.instance, self._next_version(), last, applied, self.joining.values())
        )
        await self.vote_off_the_lost(last, applied)

    def _next_version(self) -> Version:
        self._counter += 1
        return Version(self._epoch, self._counter)

    async def _change(self, base: Roster, target: Roster) -> bool:
        """PROPOSE, then ACTIVATE; whether it is in force. If one of `target` is lost on the way, the next mends it."""
        place = self._geometry.current_start
        proposing = [journal.write(place, 2 * ROSTER_AREA)]
        if not await self._on_all(target, proposing, (base.encode(), target.encode())):
            return False  # rule 4: the base stays; whoever finds the proposal finds it void
        self._members.roster = target  # rule 5: once a member has activated, the target is the base
        activating = [journal.write(place, ROSTER_AREA), journal.trim(place + ROSTER_AREA, ROSTER_AREA)]
        return await self._on_all(target, activating, (target.encode(),))

    async def _on_all(self, roster: Roster, ops: list[bytes], data: Sequence[Buffer]) -> bool:
        """One step on every member of `roster`, with evidence; False when one was lost meanwhile."""

        async def step(instance: bytes) -> bool:
            try:
                await self._members.sessions[instance].execute(ops, data, evidence=True)
            except PerdureError as verdict:
                self._members.report_lost(self._members.sessions[instance], verdict)
                return False
            return True

        members = (instance for instance in roster.seats if instance is not None)
        return all(results(await self._runtime.gather(*(step(instance) for instance in members))))

    def _too_few(self, count: int) -> PerdureError:
        members = self._members
        safe = "Nothing that was flushed is lost while they keep running, and nothing older is served."
        if any(isinstance(verdict, LeakedSecret) for verdict in members.lost.values()):
            safe = "What FLUSHes covered since the last evidence may be lost; nothing that was proved before is."
        return too_few(
            f"{count} disks are left and {self._geometry.k} are needed: the array stops here. {safe}",
            [
                (members.sessions[instance].channel.address, verdict)
                for instance, verdict in members.lost.items()
                if instance in members.roster.members
            ],
        )

"""Watches a mounted array and notes what changes: disks, the array itself, repairs. It looks at statuses only.

It is woken when a disk's health changes, so that a disk which is silent for a moment is seen too, and looks a few times
a second besides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from perdure.array.session import Proof
from perdure.service.status import ArrayStatus, DiskState, DiskStatus, Repair, RepairState, State, Verb
from perdure.service.telling.damping import Damper
from perdure.service.telling.events import Attached, EventLog, Kind, Level

WATCH_S: Final = 0.25
SCRUBBED: Final = "scrubbed"
"""The state of the event by which a whole scrub has ended."""
_BY_EVIDENCE = (DiskState.ONLINE, DiskState.BLANK, DiskState.CLONE, DiskState.ROLLBACK)
"""States that a disk's own evidence has shown."""
_GOING_ON = {State.ONLINE, State.DEGRADED, State.SUSPENDED}
_FLAP = {DiskState.ONLINE, DiskState.SUSPECT}
_ARRAY = "array"
_LOUD = (State.FORKED, State.FENCED, State.SUSPENDED)


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is worth an event when it changes."""

    state: State
    losses_survived: int | None = None
    gone_count: int | None = None
    """Seats whose disk is not only silent: who can make it change by silence alone cannot change this."""


class Watcher:
    """What was last seen of one array. `proof_of` gives the last evidence of an instance (hexadecimal); `news`
    happens when a disk's health has changed."""

    def __init__(
        self,
        events: EventLog,
        first: ArrayStatus,
        proof_of: Callable[[str], Proof | None],
        news: asyncio.Event,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._events = events
        self._proof_of = proof_of
        self._disks = {disk.seat: disk for disk in first.disks}
        self._standing = _standing(first)
        self._repairs = {repair.id: repair.state for repair in first.repairs}
        self._news = news
        self._damper = Damper(now_s)
        self._told = first.state

    async def run(self, look: Callable[[], ArrayStatus]) -> None:
        """Look, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):  # not `wait_for`, which before 3.12 may swallow a cancellation
                    await self._news.wait()
            self._news.clear()
            self.compare(look())

    def mounted(self, status: ArrayStatus) -> None:
        """Note that the array is served from now on, with the evidence of every disk.

        Evidence against a disk that is gone is noted anew, whole: the ring forgets its oldest first, and a host that
        ends main programs must not use it up.
        """
        level = Level.INFO if status.state is State.ONLINE else Level.WARNING
        message = f"array {status.array_id} is mounted and served at {status.nbd_uri}: {status.state} {status.summary}"
        self._events.note(Kind.ARRAY, level, message, state=status.state, evidence=self._attached(status.disks))
        for disk in status.disks:
            if disk.is_fork:
                self._note_disk(disk, f": {disk.reason}")

    def compare(self, status: ArrayStatus) -> None:
        """Note what has changed since the last time."""
        for disk in status.disks:
            self._compare_disk(disk)
        for repair in status.repairs:
            self._compare_repair(repair)
        if self._is_standing_news(_standing(status)):
            self._note_standing(status)

    def _is_standing_news(self, now: _Standing) -> bool:
        """Whether the array itself has changed so that it is to be told."""
        before, self._standing = self._standing, now
        if now == before:
            return self._damper.is_due(_ARRAY)
        pair = {before.state, now.state}
        if pair <= _GOING_ON and (before.gone_count == now.gone_count or State.SUSPENDED in pair):
            return self._damper.lets_through(_ARRAY, now, is_urgent=now.state is State.SUSPENDED)
        self._damper.tell(_ARRAY, now)
        return True

    def _compare_disk(self, disk: DiskStatus) -> None:
        if self._is_news(disk):
            left_out = self._damper.left_out(disk.seat) if disk.state in _FLAP else ""
            self._note_disk(disk, f": {disk.reason}" if disk.reason else left_out)

    def _is_news(self, disk: DiskStatus) -> bool:
        before, self._disks[disk.seat] = self._disks[disk.seat], disk
        if (before.state, before.instance) == (disk.state, disk.instance):
            return self._damper.is_due(disk.seat)
        if before.instance == disk.instance and {before.state, disk.state} == _FLAP:
            return self._damper.lets_through(disk.seat, disk.state)
        self._damper.tell(disk.seat, disk.state)
        return True

    def _note_disk(self, disk: DiskStatus, why: str) -> None:
        by_operator = disk.state in (DiskState.OFFLINE, DiskState.REBUILDING)
        level = Level.INFO if disk.state is DiskState.ONLINE or by_operator else Level.WARNING
        self._events.note(
            Kind.DISK,
            Level.CRITICAL if disk.is_fork else level,
            f"the disk in seat {disk.seat} ({disk.address}) is {disk.state}{why}",
            seat=disk.seat,
            instance=disk.instance,
            state=disk.state,
            evidence=self._attached([disk]) if disk.state in _BY_EVIDENCE else (),
        )

    def _attached(self, disks: Sequence[DiskStatus]) -> list[Attached]:
        found = [(disk.seat, self._proof_of(disk.instance)) for disk in disks if disk.instance is not None]
        return [Attached(seat, proof) for seat, proof in found if proof is not None]

    def _compare_repair(self, repair: Repair) -> None:
        if self._repairs.get(repair.id) is repair.state:
            return
        self._repairs[repair.id] = repair.state
        what = repair.verb if repair.seat is None else f"{repair.verb} of seat {repair.seat} ({repair.address})"
        is_scrubbed = repair.verb is Verb.SCRUB and repair.state is RepairState.DONE
        level, how = {
            RepairState.WAITING: (Level.INFO, "waits for another to end"),
            RepairState.RUNNING: (Level.INFO, "begins"),
            RepairState.DONE: (Level.INFO, f"is done: {repair.mended_sectors} sectors"),
            RepairState.FAILED: (Level.WARNING, f"has failed: {(repair.error or {}).get('message')}"),
            RepairState.STOPPED: (Level.INFO, "was stopped with its main program"),
        }[repair.state]
        state = SCRUBBED if is_scrubbed else None
        self._events.note(Kind.REPAIR, level, f"{what} {how}", seat=repair.seat, state=state)

    def _note_standing(self, status: ArrayStatus) -> None:
        before, self._told = self._told, status.state
        if status.failure is not None:
            message = f"THE ARRAY HAS STOPPED ({status.state}): {status.failure['message']}"
        elif status.state is State.SUSPENDED:
            message = f"THE ARRAY IS SUSPENDED: fewer than {status.k} disks answer; everything waits for them"
        elif before is State.SUSPENDED:
            message = f"the array is {status.state} again: enough disks answer, and what waited goes on"
        else:
            survived = (
                f"{status.losses_survived} more {'loss is' if status.losses_survived == 1 else 'losses are'} survived"
            )
            message = f"the array is {status.state} {status.summary}: {survived}"
        quiet = Level.INFO if status.state is State.ONLINE else Level.WARNING
        is_loud = status.failure is not None or status.state in _LOUD
        self._events.note(Kind.ARRAY, Level.CRITICAL if is_loud else quiet, message, state=status.state)


def _standing(status: ArrayStatus) -> _Standing:
    """While all waits for disks, it does not matter how many are left."""
    if status.state is State.SUSPENDED:
        return _Standing(status.state)
    gone_count = sum(disk.state not in _FLAP for disk in status.disks)
    return _Standing(status.state, status.losses_survived, gone_count)

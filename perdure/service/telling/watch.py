"""Watches a mounted array and notes what changes: disks, the array itself, repairs. It looks at statuses only.

It is woken when a disk's health changes, so that a disk which is silent for a moment is seen too, and looks a few times
a second besides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from perdure.array.session import Proof
from perdure.service.status import ArrayStatus, DiskState, DiskStatus, Repair, RepairState, State, Verb
from perdure.service.telling.events import Attached, EventLog, Kind, Level

WATCH_S: Final = 0.25
FLAPS_MAX: Final = 12
"""So often in a row a disk may be noted to fall silent or to be back ..."""
REFILL_S: Final = 3600.0
"""... and once more after so long."""
SCRUBBED: Final = "scrubbed"
"""The state of the event by which a whole scrub has ended."""
_BY_EVIDENCE = (DiskState.ONLINE, DiskState.BLANK, DiskState.CLONE, DiskState.ROLLBACK)
"""States that a disk's own evidence has shown."""
_GOING_ON = {State.ONLINE, State.DEGRADED, State.SUSPENDED}
_FLAP = {DiskState.ONLINE, DiskState.SUSPECT}
_LOUD = (State.FORKED, State.FENCED, State.SUSPENDED)


class _Damper:
    """Lets so many changes of a kind through, and one more an hour; counts the rest.

    A host that lets its disk fall silent again and again must not push everything else out of the history.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._left: dict[object, tuple[float, float]] = {}
        self._skipped: dict[object, int] = {}

    def lets_through(self, key: object) -> bool:
        """Whether one more may be noted now."""
        now = self._now_s()
        left, since = self._left.get(key, (float(FLAPS_MAX), now))
        left = min(float(FLAPS_MAX), left + (now - since) / REFILL_S)
        is_let = left >= 1
        self._left[key] = (left - is_let, now)
        if not is_let:
            self._skipped[key] = self._skipped.get(key, 0) + 1
        return is_let

    def left_out(self, key: object) -> str:
        """How many were not, since the last time that this was asked."""
        count = self._skipped.pop(key, 0)
        return f" (after {count} changes that were too many to note)" if count else ""


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
        self._damper = _Damper(now_s)

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
        before, now = self._standing, _standing(status)
        if now != before:
            self._standing = now
            pair = {before[0], now[0]}
            is_flap = pair <= _GOING_ON and (before[1] == now[1] or State.SUSPENDED in pair)
            if not is_flap or self._damper.lets_through(State.SUSPENDED in pair):
                self._note_standing(status, before[0])

    def _compare_disk(self, disk: DiskStatus) -> None:
        before = self._disks[disk.seat]
        self._disks[disk.seat] = disk
        if (before.state, before.instance) == (disk.state, disk.instance):
            return
        is_flap = before.instance == disk.instance and {before.state, disk.state} == _FLAP
        if is_flap and not self._damper.lets_through(disk.seat):
            return
        self._note_disk(
            disk, f": {disk.reason}" if disk.reason else self._damper.left_out(disk.seat) if is_flap else ""
        )

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

    def _note_standing(self, status: ArrayStatus, before: State) -> None:
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


def _standing(status: ArrayStatus) -> tuple[State, int | None]:
    """What is worth an event when it changes; while all waits for disks, it does not matter how many are left."""
    return status.state, None if status.state is State.SUSPENDED else status.losses_survived

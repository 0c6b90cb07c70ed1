"""What is mended without being asked: a spare takes the seat of a disk that is gone, and scrubs come round in time.

A disk that an operator took offline is not replaced: that one will be back. Whether one was is known once the events of
earlier main programs are; until then nothing is begun. Each spare is tried once for each seat by each main program: one
that was partly rebuilt for a seat is good for that seat only. Why one was no good is among the events.
"""

from __future__ import annotations

from typing import Final

from perdure.errors import PerdureError
from perdure.service.control import Request
from perdure.service.observe import IN_USE
from perdure.service.site.config import Config
from perdure.service.status import ArrayStatus, DiskState, DiskStatus, Repair, RepairState, State, Verb
from perdure.service.telling.events import EventLog, Kind, Level
from perdure.service.telling.watch import SCRUBBED
from perdure.service.upkeep.repair import Repairs

RETRY_MS: Final = 3_600_000
"""A scrub that did not come to its end is none, and another is tried after so long: any host can make one fail."""
_LEFT_ALONE = (*IN_USE, DiskState.REBUILDING, DiskState.OFFLINE)


class Automatic:
    """Spares and scrubs of one array."""

    def __init__(self, found: Config, repairs: Repairs, events: EventLog) -> None:
        self.spares = list(found.spares)
        """Addresses that are still to be had, and were not tried."""
        self._config = found
        self._repairs = repairs
        self._events = events
        self._used: dict[int, str] = {}
        """The spare that is being rebuilt, by seat."""
        self._failed: list[str] = []
        """Spares that were no good for one seat, and may be for another."""
        self._tried: set[tuple[int, str]] = set()

    def scrubbed_unix_ms(self) -> int | None:
        """When the last whole scrub ended; None when that is not known."""
        event = self._events.latest(SCRUBBED)
        return None if event is None else event.unix_ms

    def look(self, status: ArrayStatus, now_unix_ms: int) -> None:
        """Begin what is due; to be called a few times a second."""
        if status.failure is not None or not self._events.is_loaded:
            return
        self._follow_up(status)
        in_use = {disk.address for disk in status.disks}  # also since before this mount
        self.spares = [spare for spare in self.spares if spare not in in_use]
        for disk in status.disks:
            if disk.state not in _LEFT_ALONE and self._is_free(disk.seat):
                self._replace(disk)
        if self._is_scrub_due(status, now_unix_ms):
            self._begin(Request(Verb.SCRUB, bytes_per_s_max=self._config.repair.scrub_rate), "a scrub is due")

    def _is_free(self, seat: int) -> bool:
        return seat not in self._used and self._repairs.is_empty(seat)

    def _replace(self, disk: DiskStatus) -> None:
        spare = next((one for one in (*self.spares, *self._failed) if (disk.seat, one) not in self._tried), None)
        if spare is None:
            return
        self._tried.add((disk.seat, spare))
        (self.spares if spare in self.spares else self._failed).remove(spare)
        request = Request(Verb.REPLACE, seat=disk.seat, address=spare, bytes_per_s_max=self._config.repair.replace_rate)
        if self._begin(request, f"the spare at {spare} takes seat {disk.seat}, whose disk is {disk.state}"):
            self._used[disk.seat] = spare

    def _begin(self, request: Request, why: str) -> bool:
        try:
            self._repairs.start(request)
        except PerdureError as error:
            self._events.note(Kind.REPAIR, Level.WARNING, f"{why}, but that cannot be: {error}", seat=request.seat)
            return False
        self._events.note(Kind.REPAIR, Level.INFO, why, seat=request.seat)
        return True

    def _follow_up(self, status: ArrayStatus) -> None:
        """Where a spare has become a member, or was no good, another may be used; the bad one elsewhere."""
        for repair in status.repairs:
            if repair.seat in self._used and repair.state.is_over and repair.address == self._used[repair.seat]:
                spare = self._used.pop(repair.seat)
                if repair.state is RepairState.FAILED:
                    self._failed.append(spare)

    def _is_scrub_due(self, status: ArrayStatus, now_unix_ms: int) -> bool:
        every_s = self._config.repair.scrub_every_s
        if every_s is None or status.state is not State.ONLINE:
            return False
        if any(not repair.state.is_over for repair in status.repairs):
            return False
        scrubs = [repair for repair in status.repairs if repair.verb is Verb.SCRUB]
        ended = [_ended_unix_ms(repair) for repair in scrubs if repair.state is RepairState.DONE]
        tried = [_ended_unix_ms(repair) for repair in scrubs if repair.state is not RepairState.DONE]
        if any(now_unix_ms - at < RETRY_MS for at in tried):
            return False
        began = self._events.began_unix_ms  # where nothing is known of a scrub, since then there was none
        known = self.scrubbed_unix_ms() or (now_unix_ms if began is None else began)
        return now_unix_ms - max([known, *ended]) >= every_s * 1000


def _ended_unix_ms(repair: Repair) -> int:
    return repair.started_unix_ms + repair.duration_ms

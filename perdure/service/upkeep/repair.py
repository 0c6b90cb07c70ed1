"""Repair as work of the main program: it goes on when the command that asked for it is interrupted.

At most one piece of work for each seat, and one scrub; asked for again, a request finds the one that runs. Seats are
rebuilt one after another. Nothing of this is kept over a restart: what a disk has already is found on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from perdure.api import Host
from perdure.array.engine import Array
from perdure.array.geometry import SECTOR_BYTES
from perdure.array.join import Progress
from perdure.disk import address as disk_address
from perdure.errors import Misuse, PerdureError, Unavailable, error_to_json
from perdure.service.control import Request
from perdure.service.site import artefacts, config, template
from perdure.service.site.config import RATE_MIN, Config
from perdure.service.status import Repair, RepairState, Verb
from perdure.service.upkeep.pace import Pace

_POLL_S: Final = 0.05

logger = logging.getLogger("perdure")


@dataclass(slots=True, eq=False)
class _Work:
    """One piece of work, as it runs and after."""

    verb: Verb
    seat: int | None
    address: str
    bytes_per_s_max: int | None
    progress: Progress
    started_ms: int
    started_unix_ms: int
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    pace: Pace = field(default_factory=Pace)
    wrong_before: Mapping[bytes, int] = field(default_factory=dict)
    state: RepairState = RepairState.WAITING
    is_joining: bool = False
    ended_ms: int | None = None
    wrong_by_seat: tuple[int, ...] = ()
    error: Mapping[str, Any] | None = None
    note: str | None = None
    task: asyncio.Task[None] | None = None


class Repairs:
    """What is being mended in one array, and how it last ended."""

    def __init__(self, config: Config, host: Host, array: Array) -> None:
        self.addresses = list(config.addresses)
        """Where the disk of each seat is expected; follows what is written into the configuration."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when a piece of work begins or ends."""
        self._spares = list(config.spares)
        """As the configuration names them now."""
        self._config = config
        self._host = host
        self._array = array
        self._works: dict[int | None, _Work] = {}
        self._one_at_a_time = asyncio.Lock()

    # Asking -----------------------------------------------------------------------------------------------

    def start(self, request: Request, known_as: str | None = None) -> Mapping[str, Any]:
        """Begin what is asked for, or find it running: `{"id", "attached"}`. Raises Misuse, or what ended the mount."""
        self._array.committer.require_working()
        verb, limit = Verb(request.do), request.bytes_per_s_max
        if limit is not None and limit < RATE_MIN:
            raise Misuse(f"A limit of {limit} bytes a second is too low, {RATE_MIN} is the least; nothing was done.")
        running = self._works.get(request.seat)
        if running is not None and not running.state.is_over:
            self._require_same(running, verb, request.address)
            return {"id": running.id, "attached": True}
        address = "" if request.seat is None else self._address(request.seat, request.address)
        runtime, counted = self._host.runtime, self._array.members.errors
        work = _Work(
            verb,
            request.seat,
            address,
            limit,
            Progress(self._array.geometry.sectors),
            runtime.now_ms(),
            runtime.unix_ms(),
            wrong_before={instance: errors.checksum for instance, errors in counted.items()},
        )
        work.id = known_as or work.id
        self._works[request.seat] = work
        work.task = asyncio.ensure_future(self._run(work))
        return {"id": work.id, "attached": False}

    def _require_same(self, running: _Work, verb: Verb, address: str | None) -> None:
        if running.verb is not verb or address not in (None, running.address):
            raise Misuse(
                f"Seat {running.seat} is being rebuilt already, by `perdure {running.verb}` on the disk at "
                f"{running.address}; nothing was changed. `perdure status` shows it."
            )

    def _address(self, seat: int, wanted: str | None) -> str:
        """Where the disk for an empty seat is. Raises Misuse when it cannot be, or the seat is not empty."""
        self._host.require_empty(self._array, seat)
        if wanted is None:
            if seat >= len(self.addresses):
                raise Misuse(f"The configuration has no address for seat {seat}; nothing was changed. Use --address.")
            return self.addresses[seat]
        try:
            disk_address.parse(wanted)
        except ValueError as error:
            raise Misuse(f"{error}; nothing was changed.") from None
        if wanted in self.addresses and self.addresses.index(wanted) != seat:
            raise Misuse(
                f"{wanted} is the address of seat {self.addresses.index(wanted)} in the configuration; nothing was "
                "changed. A fresh disk needs one of its own."
            )
        return wanted

    # Working ----------------------------------------------------------------------------------------------

    async def _run(self, work: _Work) -> None:
        what = str(work.verb) if work.seat is None else f"{work.verb} of seat {work.seat} ({work.address})"
        logger.info("%s begins", what)
        state = RepairState.STOPPED
        try:
            await self._scrub(work) if work.seat is None else await self._join(work, work.seat)
            state = RepairState.DONE
            logger.info("%s is done: %d sectors", what, work.progress.mended)
        except PerdureError as error:
            state = RepairState.FAILED
            cause = await self._cause(error)
            work.error = {**error_to_json(cause), "message": self._sentence(work, cause)}
            logger.error("%s has failed: %s", what, cause)  # noqa: TRY400  (no defect, so no traceback)
        except Exception:
            state = RepairState.FAILED
            work.error = error_to_json(PerdureError("This is a defect in Perdure; the main program's log has more."))
            logger.critical("a defect in Perdure: %s has failed", what, exc_info=True)
        finally:
            work.state, work.ended_ms = state, self._host.runtime.now_ms()
            self.on_change()

    async def _cause(self, error: PerdureError) -> PerdureError:
        """What ended the mount, if it has ended, which a FLUSH finds out: that is what one must know. Else `error`."""
        with suppress(PerdureError):
            if isinstance(error, Unavailable):
                await self._array.flush()
        return self._array.committer.failure or error

    async def _scrub(self, work: _Work) -> None:
        work.state = RepairState.RUNNING
        self.on_change()
        try:
            await self._array.scrub(work.progress, sectors_per_s=_sectors(work))
        finally:
            work.wrong_by_seat = self._wrong_by_seat(work)

    async def _join(self, work: _Work, seat: int) -> None:
        async with self._one_at_a_time:
            runtime = self._host.runtime
            work.started_ms, work.started_unix_ms = runtime.now_ms(), runtime.unix_ms()
            work.state, work.is_joining = RepairState.RUNNING, True
            self.on_change()
            join = self._host.replace if work.verb is Verb.REPLACE else self._host.rejoin
            await join(self._array, seat, work.address, work.progress, sectors_per_s=_sectors(work))
        try:
            self._keep_address(seat, work.address)
        except PerdureError as error:
            work.note = str(error)
            logger.warning("%s", error)

    def keep_found(self) -> None:
        """Write down which spares are members already: who made them so may have ended before it could."""
        for seat, session in self._array.members:
            if session.channel.address in self._spares:
                try:
                    self._keep_address(seat, session.channel.address)
                except PerdureError as error:
                    logger.warning("%s", error)

    def _keep_address(self, seat: int, address: str) -> None:
        """Write a new address into the configuration, whole or not at all."""
        if seat < len(self.addresses):
            if self.addresses[seat] == address:
                return
            self.addresses[seat] = address
        path = self._config.path
        text = artefacts.read_bounded(path, "configuration").decode()
        text = template.with_address(text, seat, address)
        if address in self._spares:
            text = template.without_spare(text, self._spares.index(address))
            self._spares.remove(address)
        config.parse(text.encode(), path)
        artefacts.write_atomic(path, text.encode())

    def _wrong_by_seat(self, work: _Work) -> tuple[int, ...]:
        """How many wrong fragments and tags each seat's disk has shown since the work began."""
        counts = [0] * self._array.geometry.n
        for seat, session in self._array.members:
            now = self._array.members.counted(session.instance).checksum
            counts[seat] = max(0, now - work.wrong_before.get(session.instance, 0))  # counters may be cleared
        return tuple(counts)

    def _sentence(self, work: _Work, error: PerdureError) -> str:
        text = str(error)
        if not text[:1].islower() or self._array.committer.failure is not None:
            return text
        end = "" if text.endswith(".") else "."
        if work.seat is None:
            return f"The scrub did not come to its end: {text}{end}"
        return f"Seat {work.seat} stays empty: {text}{end} The array goes on without it."

    # Looking ----------------------------------------------------------------------------------------------

    def note(self) -> None:
        """Take a sample of what is done, for the pace; to be called a few times a second."""
        for work in self._works.values():
            if work.state is RepairState.RUNNING:
                work.pace.note(self._host.runtime.now_ms(), work.progress.done)

    def look(self) -> tuple[Repair, ...]:
        """All of it, scrubs last."""
        works = sorted(self._works.values(), key=lambda work: (work.seat is None, work.seat))
        return tuple(self._seen(work) for work in works)

    def _seen(self, work: _Work) -> Repair:
        ended_ms = self._host.runtime.now_ms() if work.ended_ms is None else work.ended_ms
        speed, progress = work.pace.per_s(), work.progress
        is_running = work.state is RepairState.RUNNING
        return Repair(
            id=work.id,
            verb=work.verb,
            seat=work.seat,
            address=work.address or None,
            state=work.state,
            total_bytes=progress.total * SECTOR_BYTES,
            done_bytes=progress.done * SECTOR_BYTES,
            mended_sectors=progress.mended,
            bytes_per_s_max=work.bytes_per_s_max,
            bytes_per_s=int(speed * SECTOR_BYTES) if speed and is_running else None,
            left_s=work.pace.left_s(progress.total - progress.done) if is_running else None,
            started_unix_ms=work.started_unix_ms,
            duration_ms=ended_ms - work.started_ms,
            wrong_by_seat=work.wrong_by_seat,
            error=work.error,
            note=work.note,
        )

    def is_empty(self, seat: int) -> bool:
        """Whether nobody holds the seat: a disk that was given up does until it is voted off."""
        return self._array.members.roster.seats[seat] is None

    def forget(self) -> None:
        """Say nothing more of what has ended."""
        self._works = {seat: work for seat, work in self._works.items() if not work.state.is_over}

    # The end ----------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Cancel what runs, so that the array can be closed. A disk that is about to be a member becomes one first.

        A roster change must not be cut in two: the engine makes one before a disk gets its first sector, and one when
        it has its last. Both take no longer than a disk may be silent.
        """
        for work in self._works.values():
            while not work.state.is_over and not self._can_be_cancelled(work):
                await asyncio.sleep(_POLL_S)
            if work.task is not None:
                work.task.cancel()
        tasks = [work.task for work in self._works.values() if work.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        for work in self._works.values():
            if not work.state.is_over:  # cancelled before its first step
                work.state, work.ended_ms = RepairState.STOPPED, self._host.runtime.now_ms()

    def unfinished(self) -> list[dict[str, Any]]:
        """What `stop` has cut short, as control requests with the `id` that each is known by."""
        return [
            {
                "id": work.id,
                "do": str(work.verb),
                "seat": work.seat,
                "address": work.address or None,
                "bytes_per_s_max": work.bytes_per_s_max,
            }
            for work in self._works.values()
            if work.state is RepairState.STOPPED
        ]

    def go_on(self, unfinished: Sequence[Mapping[str, Any]]) -> None:
        """Begin again what was `unfinished`, in this program or in the one before it; log what cannot begin."""
        for work in unfinished:
            request = {name: value for name, value in work.items() if name != "id"}
            try:
                self.start(Request(**request), work["id"])
            except PerdureError as error:
                logger.warning("%s does not go on: %s", work["do"], error)

    def _can_be_cancelled(self, work: _Work) -> bool:
        return not work.is_joining or 0 < work.progress.done < work.progress.total


def _sectors(work: _Work) -> int:
    """The limit as the engine takes it, where 0 is none."""
    return (work.bytes_per_s_max or 0) // SECTOR_BYTES

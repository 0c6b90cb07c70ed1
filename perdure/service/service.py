"""A mounted array with its faces: NBD, the control socket's requests, the page, events, and what mends itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from perdure.api import Host
from perdure.array.engine import Array
from perdure.array.history import History
from perdure.array.session import Proof
from perdure.errors import Misuse, PerdureError, Unavailable
from perdure.nbd.server import NbdServer
from perdure.service.control import ControlServer, Request
from perdure.service.handover import Handover
from perdure.service.metered import Metered
from perdure.service.observe import Surroundings, observe
from perdure.service.site import artefacts
from perdure.service.site.config import Config
from perdure.service.status import ArrayStatus, State, Verb
from perdure.service.telling import http
from perdure.service.telling.events import ENDED, EventLog, Kind, Level
from perdure.service.telling.notify import Notifier
from perdure.service.telling.unkept import Unkept
from perdure.service.telling.verdicts import Verdicts
from perdure.service.telling.views import Views
from perdure.service.telling.watch import Watcher
from perdure.service.telling.webhook import Webhook
from perdure.service.upgrade import Parts, Upgrade
from perdure.service.upkeep.automatic import Automatic
from perdure.service.upkeep.erasing import Erasing
from perdure.service.upkeep.repair import Repairs
from perdure.service.upkeep.verification import verify

RECALL_S_MAX: Final = 10.0
"""How long commands wait for the history to be read, which takes for ever where disks fall silent now."""

logger = logging.getLogger("perdure")


class Service:
    """A mounted array with its faces. It watches from `watch` until `stop`."""

    def __init__(
        self,
        config: Config,
        host: Host,
        array: Array,
        requests: Metered,
        nbd: NbdServer,
        control: ControlServer,
        stopping: asyncio.Event,
        news: asyncio.Event,
        notifier: Notifier,
        lock: int,
    ) -> None:
        self.array = array
        self._config = config
        self._host = host
        self._nbd = nbd
        self._requests = requests
        self._started_ms = host.runtime.now_ms()
        webhook = None if config.tell.webhook is None else Webhook(config.tell.webhook)
        self._verdicts = Verdicts()
        host.require_trusted = lambda instance, seat: self._verdicts.require_no_fork(instance.hex(), seat)
        unkept = Unkept(config.directory / artefacts.UNKEPT_FILE, array.array_id.hex())
        self._events = EventLog(
            History(array), array.opened.epoch, unkept, webhook, host.runtime.unix_ms, self._verdicts.hear
        )
        self._repairs = Repairs(config, host, array)
        self._repairs.on_change = news.set
        self._repairs.keep_found()
        self._automatic = Automatic(config, self._repairs, self._events)
        self._erasing = Erasing(array)
        self._stopping = stopping
        self._stopped: asyncio.Future[PerdureError | None] = asyncio.get_running_loop().create_future()
        self._notifier = notifier
        self._http: http.HttpServer | None = None
        self._http_error: str | None = None
        parts = Parts(config, array, nbd, control, self._repairs, self._erasing, self._events, notifier, lock)
        self.upgrade = Upgrade(parts, stopping, self.handle)
        self._news = news

    def follow(self, before: Handover) -> None:
        """Go on with what the program before this one, in the same process, was doing."""
        self.upgrade.upgrades = before.upgrades
        self._events.goes_on = True
        self._repairs.go_on(before.repairs)

    async def recall(self) -> None:
        """Return when it is known what the events say of disks that are gone; after some seconds, also without."""
        with suppress(TimeoutError):
            async with asyncio.timeout(RECALL_S_MAX):
                await self._events.loaded()

    def watch(self) -> None:
        """Note that the array is served, and all that changes from now on."""
        first = self.status()
        self._watcher = Watcher(self._events, first, self._proof_of, self._news)
        self._watcher.mounted(first)
        self._watching = asyncio.ensure_future(self._watcher.run(self._look))

    async def show(self, place: str | None) -> None:
        """Serve the page and the metrics at HOST:PORT. The array serves without them too, so a failure is only said:
        in the log and in the status."""
        if place is None:
            return
        try:
            self._http = await http.listen(place, Views(self.status, self._events.since))
        except Misuse as error:
            logger.error("%s", error)  # noqa: TRY400  (no defect, so no traceback)
            self._http_error = str(error)
            return
        logger.info("the page is at %s", self._http.url)

    def status(self) -> ArrayStatus:
        """The array as it is now."""
        repairs, runtime = self._repairs, self._host.runtime
        around = Surroundings(
            name=self._config.directory.name,
            zones=dict(zip(repairs.addresses, self._config.zones, strict=False)),
            meters={channel.address: channel.meter for channel in self._host.channels},
            uptime_ms=runtime.now_ms() - self._started_ms,
            requests=self._requests.to_json(),
            evidence=self._host.verifier.meter.to_json(),
            spares=tuple(self._automatic.spares),
            events_last=self._events.last,
            scrubbed_unix_ms=self._automatic.scrubbed_unix_ms(),
            verdicts=self._verdicts.by_instance,
        )
        seen = observe(self.array, repairs.addresses, runtime.now_ms(), self._nbd.uri, repairs.look(), around)
        url = None if self._http is None else self._http.url
        return replace(
            seen,
            upgrades=self.upgrade.upgrades,
            upgrade_error=self.upgrade.error,
            http_url=url,
            http_error=self._http_error,
        )

    def _look(self) -> ArrayStatus:
        """The same for the watcher; what is due is begun."""
        self._repairs.note()
        status = self.status()
        if not self._stopping.is_set() and not self.upgrade.is_under_way:
            self._notifier.serving(_one_line(status))
            self._automatic.look(status, self._host.runtime.unix_ms())
        return status

    def _proof_of(self, instance: str) -> Proof | None:
        session = self.array.members.sessions.get(bytes.fromhex(instance))
        if session is not None:
            return session.proof
        before = self._verdicts.by_instance.get(instance)
        return None if before is None else before.proof

    # Requests ---------------------------------------------------------------------------------------------

    async def handle(self, request: Request) -> Mapping[str, Any]:
        """One control request. `stop` answers when all is home, `erase` when it is witnessed; or what prevented it."""
        match request.do:
            case "status":
                return self.status().to_json()
            case "events":
                events = [event.to_json() for event in self._events.since(request.since or 0)]
                return {"events": events, "not_kept": self._events.not_kept}
            case "event":
                return await self._event(request.number or 0)
            case "stop":
                return await self._stop_asked()
        if self._stopping.is_set():
            raise Unavailable("The main program is being stopped; nothing was done. Ask again once it serves.")
        return await self._work(request)

    async def _event(self, number: int) -> Mapping[str, Any]:
        event, attached = await self._events.find(number)
        return {**event.to_json(), "evidence": [one.to_json() for one in attached]}

    async def _stop_asked(self) -> Mapping[str, Any]:
        logger.info("told to stop")
        self._stopping.set()
        error = await asyncio.shield(self._stopped)
        if error is not None:
            raise error
        return {"stopped": True}

    async def _work(self, request: Request) -> Mapping[str, Any]:
        if request.do == "upgrade":
            return await self.upgrade.begin()
        if self.upgrade.is_going:
            raise Unavailable("The main program is being upgraded; nothing was done. Ask again once it serves.")
        if request.do == "verify":
            return await verify(self.array, self._host.runtime)
        where = "" if request.seat is None else f" of seat {request.seat}"
        self._note_command(f"asked for: {request.do}{where}", request)  # now: it may end this program, or take long
        try:
            return await self._do(request)
        except PerdureError as error:
            what = "erase gave no receipt" if request.do == "erase" else f"refused: {request.do}{where}"
            self._note_command(f"{what}: {error}", request)
            raise

    def _note_command(self, message: str, request: Request) -> None:
        self._events.note(Kind.COMMAND, Level.INFO, message, seat=request.seat)

    async def _do(self, request: Request) -> Mapping[str, Any]:
        match request.do:
            case "offline":
                return await self._offline(request.seat)
            case "clear":
                return self._clear(request.seat)
            case "erase":
                return await self._erase(request)
        if request.do == Verb.REJOIN:
            self._require_no_fork(request.seat)
        return self._repairs.start(request)

    def _require_no_fork(self, seat: int | None) -> None:
        for disk in self.status().disks:
            if disk.seat == seat and disk.instance is not None:
                self._verdicts.require_no_fork(disk.instance, disk.seat)

    async def _offline(self, seat: int | None) -> Mapping[str, Any]:
        assert seat is not None
        try:
            await self.array.take_offline(seat)
        except Misuse as error:
            raise Misuse(f"The disk cannot be taken offline: {error}.") from None
        return {"seat": seat, "offline": True}

    def _clear(self, seat: int | None) -> Mapping[str, Any]:
        count = self.array.geometry.n
        if seat is not None and not 0 <= seat < count:
            raise Misuse(f"There is no seat {seat}: the array has seats 0 to {count - 1}; nothing was changed.")
        for at, instance in enumerate(self.array.members.roster.seats):
            if instance is not None and seat in (None, at):
                self.array.members.errors.pop(instance, None)
        if seat is None:
            self._repairs.forget()
        else:
            self._pardon(seat)
        return {"cleared": True}

    def _pardon(self, seat: int) -> None:
        """Let the disks that are gone from a seat come back, whatever evidence has shown of them; that is an event."""
        for gone in self.array.members.roster.departed:
            if gone.seat == seat:
                self._verdicts.clear(gone.instance.hex())
        self._watcher.compare(self.status())

    async def _erase(self, request: Request) -> Mapping[str, Any]:
        done = await self._erasing.erase(request)
        message = f"erased {request.length} bytes from {request.offset}; receipt in {request.receipt}"
        self._events.note(Kind.ERASE, Level.INFO, message)
        return done

    # The end ----------------------------------------------------------------------------------------------

    async def stop(self) -> int:
        """Let repairs be, answer what NBD clients asked, flush, bring all home, let go; return the exit code."""
        error = await self._close()
        self._stopped.set_result(error)
        if error is None:
            logger.info("stopped; everything written is on the disks")
            return 0
        logger.error("stopped, but not cleanly: %s", error)
        return error.exit_code

    async def _close(self) -> PerdureError | None:
        await self.upgrade.stop()
        self.array.give_in()
        if self._http is not None:
            await self._http.close()
        await self._repairs.stop()
        await self._erasing.stop()
        await self._nbd.close()
        self._watcher.compare(self.status())
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        self._events.note(Kind.ARRAY, Level.INFO, "the main program stops", state=ENDED)
        await self._events.settle()
        await self._events.stop()
        if self.array.committer.failure is None:
            try:
                await self.array.close()
            except PerdureError as error:
                return error
        else:
            self.array.abandon()
        return self.array.committer.failure


def _one_line(status: ArrayStatus) -> str:
    """For `systemctl status`."""
    count = status.losses_survived
    state = "" if status.state is State.ONLINE else f", {status.state}"
    return f"{status.summary} {count} more {'loss' if count == 1 else 'losses'}{state}"

"""A mounted array with its faces: NBD, the control socket's requests, the page, events, and what mends itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

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
from perdure.service.site.config import Config
from perdure.service.status import ArrayStatus, State
from perdure.service.telling import http
from perdure.service.telling.events import EventLog, Kind, Level
from perdure.service.telling.notify import Notifier
from perdure.service.telling.views import Views
from perdure.service.telling.watch import Watcher
from perdure.service.telling.webhook import Webhook
from perdure.service.upgrade import Parts, Upgrade
from perdure.service.upkeep.automatic import Automatic
from perdure.service.upkeep.erasing import Erasing
from perdure.service.upkeep.repair import Repairs
from perdure.service.upkeep.verification import verify

logger = logging.getLogger("perdure")


class Service:
    """A mounted array with its faces. Made, it watches until `stop`."""

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
        self._events = EventLog(History(array), webhook, host.runtime.unix_ms)
        self._repairs = Repairs(config, host, array)
        self._repairs.on_change = news.set
        self._automatic = Automatic(config, self._repairs, self._events)
        self._erasing = Erasing(array)
        self._stopping = stopping
        self._stopped: asyncio.Future[PerdureError | None] = asyncio.get_running_loop().create_future()
        self._notifier = notifier
        self._http: http.HttpServer | None = None
        self._http_error: str | None = None
        parts = Parts(config, array, nbd, control, self._repairs, self._erasing, self._events, notifier, lock)
        self.upgrade = Upgrade(parts, stopping, self.handle)
        first = self.status()
        self._watcher = Watcher(self._events, first, self._proof_of, news)
        self._watcher.mounted(first)
        self._watching = asyncio.ensure_future(self._watcher.run(self._look))

    def follow(self, before: Handover) -> None:
        """Go on with what the program before this one, in the same process, was doing."""
        self.upgrade.upgrades = before.upgrades
        self._repairs.go_on(before.repairs)

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
        return None if session is None else session.proof

    # Requests ---------------------------------------------------------------------------------------------

    async def handle(self, request: Request) -> Mapping[str, Any]:
        """One control request. `stop` answers when all is home, `erase` when it is witnessed; or what prevented it."""
        match request.do:
            case "status":
                return self.status().to_json()
            case "events":
                events = [event.to_json() for event in self._events.since(request.since or 0)]
                return {"events": events, "not_kept": self._events.failure}
            case "event":
                return await self._event(request.number or 0)
            case "stop":
                return await self._stop_asked()
        if self._stopping.is_set():
            raise Unavailable("The main program is being stopped; nothing was done. Ask again once it serves.")
        return await self._work(request)

    async def _event(self, number: int) -> Mapping[str, Any]:
        event, attached = await self._events.find(number)
        proofs = [
            {"seat": one.seat, "question": one.proof.question.hex(), "answer": one.proof.answer.hex()}
            for one in attached
        ]
        return {**event.to_json(), "evidence": proofs}

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
        self._events.note(Kind.COMMAND, Level.INFO, f"asked for: {request.do}{where}", seat=request.seat)
        match request.do:
            case "offline":
                return await self._offline(request.seat)
            case "clear":
                return self._clear(request.seat)
            case "erase":
                return await self._erase(request)
        return self._repairs.start(request)

    async def _offline(self, seat: int | None) -> Mapping[str, Any]:
        assert seat is not None
        try:
            await self.array.take_offline(seat)
        except Misuse as error:
            raise Misuse(f"The disk cannot be taken offline: {error}.") from None
        return {"seat": seat, "offline": True}

    def _clear(self, seat: int | None) -> Mapping[str, Any]:
        for at, instance in enumerate(self.array.members.roster.seats):
            if instance is not None and seat in (None, at):
                self.array.members.errors.pop(instance, None)
        if seat is None:
            self._repairs.forget()
        return {"cleared": True}

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
        self._events.note(Kind.ARRAY, Level.INFO, "the main program stops", state="exported")
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

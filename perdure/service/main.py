"""The main program as a service: mount, serve NBD, answer on the control socket, until it is told to stop.

When the array fails while it runs (fenced, too few disks, a fork), the service stays: NBD requests fail, `status`
says why, the log says so loudly. It never mounts again by itself: that is a decision for whoever runs it. The log
goes to standard error, one line an event; no key is ever in it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import uvloop

from perdure.api import Host, Settings
from perdure.array.engine import Array
from perdure.array.history import History
from perdure.array.session import Proof
from perdure.errors import Misuse, PerdureError, Unavailable
from perdure.evidence.collateral import NONE
from perdure.nbd.server import NbdServer
from perdure.nbd.server import serve as serve_nbd
from perdure.service import artefacts, http, processes
from perdure.service.automatic import Automatic
from perdure.service.collateral import CollateralFolder
from perdure.service.config import Acknowledgements, Attest, Config
from perdure.service.control import ControlServer, Request
from perdure.service.erasing import Erasing
from perdure.service.events import EventLog, Kind, Level
from perdure.service.metered import Metered
from perdure.service.observe import Surroundings, observe
from perdure.service.repair import Repairs
from perdure.service.status import ArrayStatus
from perdure.service.verification import verify
from perdure.service.views import Views
from perdure.service.watch import Watcher
from perdure.service.webhook import Webhook

logger = logging.getLogger("perdure")
_T = TypeVar("_T")
OnReady = Callable[[ArrayStatus], None]


def settings_of(config: Config) -> Settings:
    """What the array's code needs, with the key and the policy read. Raises Misuse."""
    return Settings(
        addresses=config.addresses,
        private_key=artefacts.read_key(config.array.key_file).private_key,
        policy=artefacts.read_policy(config.array.policy_file),
        dead_after_ms=config.serve.dead_after_ms,
        answer_ms_max=config.serve.answer_ms_max,
        zones=dict(zip(config.addresses, config.zones, strict=False)),
        collateral=(lambda: NONE) if config.collateral is None else CollateralFolder(config.collateral),
        attest_every_read=config.serve.attest is Attest.EVERY_READ,
        acknowledgement_chains=config.serve.acknowledgements is Acknowledgements.CHAINS,
    )


def require_id(config: Config) -> bytes:
    """The id of the array to mount. Raises Misuse when there is none, or `array.json` is about another array."""
    wanted, record = config.array.array_id, artefacts.read_record(config.directory)
    if wanted is None:
        raise Misuse(
            f"{config.path} names no array: `array.id` is missing; nothing was started. Write the id that `perdure "
            "create` printed there, or create an array first."
        )
    if record is not None and record.array_id != wanted.hex():
        raise Misuse(
            f"{config.path} names array {wanted.hex()}, but {artefacts.ARRAY_FILE} beside it is about "
            f"{record.array_id}; nothing was started. Correct whichever is wrong: the id decides which data you see."
        )
    return wanted


def run(config: Config, on_ready: OnReady) -> int:
    """Serve until SIGTERM, SIGINT or a `stop` request; return the exit code. Raises PerdureError if it cannot start.

    `on_ready` is called once, when clients can connect. Only one main program runs for one directory.
    """
    busy = f"A main program runs in {config.directory} already; nothing was started. `perdure status` shows it."
    with processes.locked(config.directory, name=artefacts.MAIN_LOCK_FILE, wait_s=0, busy=busy):
        array_id, settings = require_id(config), settings_of(config)
        processes.remember(config.directory / artefacts.MAIN_PROCESS_FILE, os.getpid())
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_main(config, settings, array_id, on_ready))
        finally:
            (config.directory / artefacts.MAIN_PROCESS_FILE).unlink(missing_ok=True)


async def _main(config: Config, settings: Settings, array_id: bytes, on_ready: OnReady) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    control, news = ControlServer(config.serve.control), asyncio.Event()
    try:
        host = Host(settings, on_change=news.set)
        try:
            array = await _unless(stopping, _mount(host, array_id, config))
            if array is None:
                logger.info("stopped before the array was mounted; nothing was changed that the next mount needs")
                return 0
            return await _serve(config, host, array, control, stopping, on_ready, news)
        finally:
            await host.close()
    finally:
        await control.close()


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, _T]) -> _T | None:
    """The result of `work`, or None when the stop comes first; then `work` is cancelled."""
    task, stop = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        stop.cancel()
        await asyncio.gather(task, stop, return_exceptions=True)


async def _mount(host: Host, array_id: bytes, config: Config) -> Array:
    logger.info("mounting array %s from %d addresses", array_id.hex(), len(config.addresses))
    array = await host.mount(array_id)
    shape, wanted = array.geometry, config.array
    if (shape.k, shape.n, shape.size_bytes) != (wanted.threshold, wanted.disks, wanted.size_bytes):
        await array.close()
        raise Misuse(
            f"{config.path} says {wanted.threshold} of {wanted.disks} disks and {wanted.size_bytes} bytes, but the "
            f"array was created with {shape.k} of {shape.n} and {shape.size_bytes}; it is unharmed and closed. Correct "
            "the file: a change there does not change an array."
        )
    for stray in array.opened.strays:
        logger.warning("not used: %s: %s", stray.address, stray.why)
    return array


async def _serve(
    config: Config,
    host: Host,
    array: Array,
    control: ControlServer,
    stopping: asyncio.Event,
    on_ready: OnReady,
    news: asyncio.Event,
) -> int:
    requests = Metered(array)
    try:
        nbd = await serve_nbd(requests, address=config.serve.listen)
    except PerdureError:
        await array.close()
        raise
    service = Service(config, host, array, nbd, requests, stopping, news)
    await control.listen(service.handle)
    logger.info("serving %s", nbd.uri)
    await service.show(config.serve.http)
    if array.has_chains:
        logger.warning("FLUSHes rest on acknowledgement chains: weaker than evidence, as `perdure status` says")
    on_ready(service.status())
    await stopping.wait()
    return await service.stop()


class Service:
    """A mounted array with its faces. Made, it watches until `stop`."""

    def __init__(
        self,
        config: Config,
        host: Host,
        array: Array,
        nbd: NbdServer,
        requests: Metered,
        stopping: asyncio.Event,
        news: asyncio.Event,
    ) -> None:
        self._config = config
        self._host = host
        self._array = array
        self._nbd = nbd
        self._requests = requests
        self._started_ms = host.runtime.now_ms()
        webhook = None if config.tell.webhook is None else Webhook(config.tell.webhook)
        self._events = EventLog(History(array), webhook, host.runtime.unix_ms)
        self._repairs = Repairs(config, host, array)
        self._automatic = Automatic(config, self._repairs, self._events)
        self._erasing = Erasing(array)
        self._stopping = stopping
        self._stopped: asyncio.Future[PerdureError | None] = asyncio.get_running_loop().create_future()
        first = self.status()
        self._watcher = Watcher(self._events, first, self._proof_of, news)
        self._watcher.mounted(first)
        self._watching = asyncio.ensure_future(self._watcher.run(self._look))
        self._http: http.HttpServer | None = None

    async def show(self, place: str | None) -> None:
        """Serve the page and the metrics at HOST:PORT. The array serves without them too, so a failure is only said."""
        if place is None:
            return
        try:
            self._http = await http.listen(place, Views(self.status, self._events.since))
        except Misuse as error:
            logger.error("%s", error)  # noqa: TRY400  (no defect, so no traceback)
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
        return observe(self._array, repairs.addresses, runtime.now_ms(), self._nbd.uri, repairs.look(), around)

    def _look(self) -> ArrayStatus:
        """The same for the watcher; what is due is begun."""
        self._repairs.note()
        status = self.status()
        if not self._stopping.is_set():
            self._automatic.look(status, self._host.runtime.unix_ms())
        return status

    def _proof_of(self, instance: str) -> Proof | None:
        session = self._array.members.sessions.get(bytes.fromhex(instance))
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
        if request.do == "verify":
            return await verify(self._array, self._host.runtime)
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
            await self._array.take_offline(seat)
        except Misuse as error:
            raise Misuse(f"The disk cannot be taken offline: {error}.") from None
        return {"seat": seat, "offline": True}

    def _clear(self, seat: int | None) -> Mapping[str, Any]:
        for at, instance in enumerate(self._array.members.roster.seats):
            if instance is not None and seat in (None, at):
                self._array.members.errors.pop(instance, None)
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
        if self._array.committer.failure is None:
            try:
                await self._array.close()
            except PerdureError as error:
                return error
        else:
            self._array.abandon()
        return self._array.committer.failure

"""The main program as a service: mount, serve NBD, answer on the control socket, until it is told to stop.

When the array fails while it runs (fenced, too few disks, a fork), the service stays: NBD requests fail, `status`
says why, the log says so loudly. It never mounts again by itself: that is a decision for whoever runs it. The log
goes to standard error, one line an event; no key is ever in it.

SIGHUP, and the request `upgrade`, put the program that is installed now in the place of this one (`service.upgrade`).
A program that comes after another mounts patiently, since clients wait for it. Where standard input is a terminal,
SIGHUP means that the terminal is gone, and stops the program.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

import uvloop

from perdure.api import Host, Settings
from perdure.array.engine import Array
from perdure.array.genesis import Genesis
from perdure.errors import Fork, Misuse, PerdureError, Unavailable
from perdure.evidence.collateral import NONE
from perdure.nbd.server import resume as resume_nbd
from perdure.nbd.server import serve as serve_nbd
from perdure.service.collateral import CollateralFolder
from perdure.service.control import ControlServer, Request
from perdure.service.handover import Handover
from perdure.service.metered import Metered
from perdure.service.observe import is_waiting
from perdure.service.service import Service
from perdure.service.site import artefacts, processes
from perdure.service.site.config import Acknowledgements, Attest, Config, Sealing, WhenTooFew
from perdure.service.status import ArrayStatus
from perdure.service.telling.notify import Notifier

RETRY_S: Final = 1.0
"""How long a program that comes after another waits before it tries to mount again."""

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
        freezes=config.serve.when_too_few_disks is WhenTooFew.FREEZE,
        program=config.array.program,
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


def run(config: Config, on_ready: OnReady, inherited: Handover | None = None) -> int:
    """Serve until SIGTERM, SIGINT or a `stop` request; return the exit code. Raises PerdureError if it cannot start.

    `on_ready` is called once, when clients can connect. Only one main program runs for one directory. `inherited` is
    what the program before this one has left in the same process.
    """
    busy = f"A main program runs in {config.directory} already; nothing was started. `perdure status` shows it."
    if inherited is not None:
        lock = processes.kept(inherited.lock)
    else:
        lock = processes.locked(config.directory, name=artefacts.MAIN_LOCK_FILE, wait_s=0, busy=busy)
    with lock as lock_fd:
        array_id, settings = require_id(config), mount_settings_of(config)
        processes.remember(config.directory / artefacts.MAIN_PROCESS_FILE, os.getpid())
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_Main(config, settings, array_id, on_ready, lock_fd, inherited).run())
        finally:
            (config.directory / artefacts.MAIN_PROCESS_FILE).unlink(missing_ok=True)


def mount_settings_of(config: Config) -> Settings:
    """The same for a mount, which looks for members at the spares' addresses too. Raises Misuse.

    A main program may have ended after a spare had become a member, and before it could write so down.
    """
    return replace(settings_of(config), addresses=(*config.addresses, *config.spares))


class _Main:
    """One run of the main program."""

    def __init__(
        self,
        config: Config,
        settings: Settings,
        array_id: bytes,
        on_ready: OnReady,
        lock: int,
        inherited: Handover | None,
    ) -> None:
        self._config = config
        self._settings = settings
        self._array_id = array_id
        self._on_ready = on_ready
        self._lock = lock
        self._inherited = inherited
        self._stopping = asyncio.Event()
        self._notifier = Notifier(os.environ)
        self._service: Service | None = None
        self._news = asyncio.Event()
        """Happens when a disk's health has changed."""

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._stopping.set if os.isatty(0) else self._upgrade)
        feeder = asyncio.ensure_future(self._feed_watchdog())
        listening = None if self._inherited is None else self._inherited.control
        control = ControlServer(self._config.serve.control, listening)
        try:
            mounted = await self._mounted(control)
            if mounted is None:
                logger.info("stopped before the array was mounted; nothing was changed that the next mount needs")
                return 0
            host, array = mounted
            try:
                return await self._serve(host, array, control)
            finally:
                await host.close()
        finally:
            feeder.cancel()
            self._notifier.stopping()
            await control.close()

    def _upgrade(self) -> None:
        if self._service is not None:  # else there is no array yet, and nothing that could be settled
            self._service.upgrade.on_signal()

    async def _mounted(self, control: ControlServer) -> tuple[Host, Array] | None:
        """A mounted array, or None when the stop comes first. After another program it is tried again and again."""
        while True:
            host = Host(self._settings, on_change=self._news.set)
            try:
                array = await _unless(self._stopping, _mount(host, self._array_id, self._config))
            except PerdureError as error:
                await host.close()
                if self._inherited is None or error.exit_code == Fork.exit_code or isinstance(error, Misuse):
                    raise
                await self._wait_to_retry(control, error)
                continue
            except BaseException:
                await host.close()
                raise
            if array is None:
                await host.close()
                return None
            return host, array

    async def _wait_to_retry(self, control: ControlServer, error: PerdureError) -> None:
        logger.critical("UPGRADED, BUT THE ARRAY CANNOT BE MOUNTED YET, AND CLIENTS WAIT; trying again: %s", error)
        self._notifier.waiting(f"upgraded; clients wait, the array cannot be mounted yet: {error}")

        async def answer(request: Request) -> Mapping[str, Any]:
            if request.do == "stop":
                self._stopping.set()
                return {"stopped": True}
            raise Unavailable(
                f"The main program was upgraded and cannot mount the array yet; clients wait, nothing that was flushed "
                f"is lost, and it tries again until it is told to stop. What is wrong: {error}"
            )

        await control.listen(answer)
        await _unless(self._stopping, asyncio.sleep(RETRY_S))

    async def _feed_watchdog(self) -> None:
        """As long as this loop turns, and the engine with it: one that has failed, and says so, need not."""
        period_s, before = self._notifier.watchdog_s, -1
        while period_s is not None:
            await asyncio.sleep(period_s)
            array = None if self._service is None else self._service.array
            ticks = 0 if array is None else array.tick_count
            if array is None or array.committer.failure is not None or ticks != before:
                self._notifier.feed()
            before = ticks

    async def _serve(self, host: Host, array: Array, control: ControlServer) -> int:
        inherited, requests = self._inherited, Metered(array)
        try:
            if inherited is None:
                nbd = await serve_nbd(requests, address=self._config.serve.listen)
            else:
                nbd = await resume_nbd(requests, inherited.nbd)
        except PerdureError:
            await array.close()
            raise
        service = self._service = Service(
            self._config, host, array, requests, nbd, control, self._stopping, self._news, self._notifier, self._lock
        )
        if inherited is not None:
            service.follow(inherited)
        await _unless(self._stopping, service.recall())  # before anybody asks or is told how the array stands
        service.watch()
        await control.listen(service.handle)
        logger.info("serving %s", nbd.uri)
        await service.show(self._config.serve.http)
        if array.has_chains:
            logger.warning("FLUSHes rest on acknowledgement chains: weaker than evidence, as `perdure status` says")
        self._on_ready(service.status())
        await self._stopping.wait()
        self._notifier.stopping()
        return await service.stop()


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
    array = await host.mount(array_id, lambda genesis: require_as_configured(genesis, config))
    for stray in array.opened.strays:
        if not is_waiting(stray, config.spares):
            logger.warning("not used: %s: %s", stray.address, stray.why)
    return array


def require_as_configured(genesis: Genesis, config: Config) -> None:
    """Raise Misuse where the file says something else of the array: then it is another, or somebody is mistaken."""
    shape, wanted = genesis.geometry, config.array
    if (shape.k, shape.n, shape.size_bytes) != (wanted.threshold, wanted.disks, wanted.size_bytes):
        raise Misuse(
            f"{config.path} says {wanted.threshold} of {wanted.disks} disks and {wanted.size_bytes} bytes, but the "
            f"array was created with {shape.k} of {shape.n} and {shape.size_bytes}; it is unharmed and was not opened. "
            "Correct the file: a change there does not change an array."
        )
    if genesis.is_sealed is not (wanted.sealing is Sealing.PERDURE):
        is_which = "sealed" if genesis.is_sealed else "in the clear: hosts read everything on it"
        raise Misuse(
            f"{config.path} says sealing = {str(wanted.sealing)!r}, but the array is {is_which}; it is unharmed and "
            "was not opened. Correct `array.sealing` in the file if that is what you want: a change there does not "
            "change an array."
        )

"""Upgrades: the program that is installed now takes the place of the one that runs, and clients see only a pause.

The process stays the same (execve), and so do its sockets. In order:

1. *Ask the new program*, as a child, whether it starts, reads this configuration, serves the same array at the same
   place, is not older, and takes a hand-over of this form. If anything is wrong, nothing has been stopped.
2. *Pause*: answer every NBD request that was taken, take no more. Repairs stop, and begin again in the new program.
3. *Settle*: everything written is flushed and home on the disks. So whatever kills either program from here on, even in
   the middle of step 4 or 5, costs what kill -9 always costs: nothing that was flushed.
4. *Execute* with the sockets open (`perdure.service.handover`). If the system refuses, the old program goes on.
5. The new program mounts, patiently, and answers what the clients have sent meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from perdure import RELEASE, __version__
from perdure.array.engine import Array
from perdure.errors import Misuse, PerdureError, Unavailable, error_to_json
from perdure.nbd.server import NbdServer
from perdure.service import handover
from perdure.service.control import ControlServer, Handler
from perdure.service.handover import Handover
from perdure.service.site.config import Config
from perdure.service.telling.events import EventLog
from perdure.service.telling.notify import Notifier
from perdure.service.upkeep.erasing import Erasing
from perdure.service.upkeep.repair import Repairs

CHECK_S_MAX: Final = 60.0
"""How long the new program may take to say that it starts."""

_DEFECT: Final = PerdureError.__name__

logger = logging.getLogger("perdure")


def credentials(config: Config) -> dict[str, Any]:
    """What a program says of itself before it takes another's place; `array` and `place` must be the same."""
    shape = config.array
    return {
        "program": __version__,
        "release": RELEASE,
        "handover": handover.VERSION,
        "array": [shape.array_id.hex() if shape.array_id else "", shape.threshold, shape.disks, shape.size_bytes],
        "place": [config.serve.listen, str(config.serve.control)],
    }


@dataclass(frozen=True, slots=True)
class Parts:
    """What an upgrade stops, and hands over or lets go on."""

    config: Config
    array: Array
    nbd: NbdServer
    control: ControlServer
    repairs: Repairs
    erasing: Erasing
    events: EventLog
    notifier: Notifier
    lock: int
    """The descriptor of the directory's lock."""


class Upgrade:
    """The upgrades of one running program."""

    def __init__(self, parts: Parts, stopping: asyncio.Event, handler: Handler) -> None:
        self.upgrades = 0
        """Those that this process has seen before."""
        self.error: Mapping[str, Any] | None = None
        """Why the last one was not carried out, as JSON."""
        self._parts = parts
        self._stopping = stopping
        self._handler = handler
        self._checking: asyncio.Future[Mapping[str, Any]] | None = None
        self._going: asyncio.Future[None] | None = None
        self._signalled: asyncio.Future[None] | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether one was asked for and has not failed."""
        return self._checking is not None

    @property
    def is_going(self) -> bool:
        """Whether the new program has been found good, and this one is about to end."""
        return self._going is not None

    # Beginning --------------------------------------------------------------------------------------------

    def on_signal(self) -> None:
        """Begin, and log what keeps it from beginning."""

        async def begin() -> None:
            try:
                await self.begin()
            except PerdureError as error:
                logger.error("not upgraded: %s", error)  # noqa: TRY400  (no defect)

        self._signalled = asyncio.ensure_future(begin())

    async def begin(self) -> Mapping[str, Any]:
        """Ask the new program; the upgrade then goes on by itself. What is to be expected, or PerdureError.

        While one is under way, this is about that one.
        """
        if self._checking is None:
            self._checking = asyncio.ensure_future(self._check())
            self._checking.add_done_callback(self._checked)
        return await asyncio.shield(self._checking)

    def _checked(self, checking: asyncio.Future[Mapping[str, Any]]) -> None:
        if checking.cancelled() or checking.exception() is not None:
            self._checking = None
        else:
            self._going = asyncio.ensure_future(self._carry_out())

    async def _check(self) -> Mapping[str, Any]:
        self.error = None
        self._parts.notifier.reloading()
        self._parts.array.committer.require_working()
        if self._parts.array.is_suspended:
            raise Unavailable(
                "Too few disks answer, and what was written cannot be brought home: nothing was stopped. Ask again "
                "once they are back."
            )
        logger.info("asked to upgrade; asking the program that is installed now")
        found = await asyncio.to_thread(_ask_new_program)
        own = credentials(self._parts.config)
        for name, what in (("array", "array"), ("place", "`serve.listen` or `serve.control`")):
            if found[name] != own[name]:
                raise Misuse(
                    f"{self._parts.config.path} names another {what} now: {found[name]} and not {own[name]}. Nothing "
                    "was stopped; an upgrade changes neither. Stop and start for that."
                )
        if found["release"] < RELEASE or found["handover"] != handover.VERSION:
            raise Misuse(
                f"The program that is installed now, {found['program']} (release {found['release']}), cannot take over "
                f"from {__version__} (release {RELEASE}) while it runs; nothing was stopped. Stop and start for that."
            )
        return {"upgrades": self.upgrades + 1, "program": found["program"], "release": found["release"]}

    # Carrying out -----------------------------------------------------------------------------------------

    async def _carry_out(self) -> None:
        parts = self._parts
        try:
            await parts.erasing.finish()
            await parts.repairs.stop()
            await parts.events.settle()  # here, since somebody else's webhook must not make clients wait
            logger.info("upgrading: NBD clients wait from here on")
            await parts.nbd.pause()
            await parts.control.pause()
            await parts.events.kept()
            await parts.array.committer.settle()
            if not self._stopping.is_set():
                self._execute()
        except Exception as error:  # whatever it is, clients must not wait for ever
            self.error = error_to_json(_told(error))
            logger.critical("not upgraded, this program goes on: %s", error, exc_info=self.error["class"] == _DEFECT)
        await self._go_on()

    async def _go_on(self) -> None:
        """It was not to be: everything as before."""
        parts = self._parts
        await parts.control.listen(self._handler)
        if not self._stopping.is_set():
            await parts.nbd.resume()
            parts.repairs.go_on(parts.repairs.unfinished())
        self._checking = self._going = None

    def _execute(self) -> None:
        """Become the new program; return only by raising OSError, with nothing changed."""
        parts = self._parts
        with ExitStack() as undo:  # whatever raises, and wherever: nothing stays open, and nothing inheritable
            control = parts.control.carried()
            undo.callback(os.close, control)
            nbd = parts.nbd.carried()
            for fd in nbd.descriptors:
                undo.callback(os.close, fd)
            left = Handover(parts.lock, control, nbd, self.upgrades + 1, parts.repairs.unfinished())
            memory = left.write()
            undo.callback(os.close, memory)
            environment = {**os.environ, **parts.notifier.variables, handover.VARIABLE: str(memory)}
            before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # or another one would end the new program early
            undo.callback(signal.signal, signal.SIGHUP, before)
            undo.callback(os.set_inheritable, parts.lock, False)
            for fd in (memory, *left.descriptors):
                os.set_inheritable(fd, True)
            logger.info("upgrading: executing %s", sys.executable)
            os.execve(sys.executable, _command(), environment)  # noqa: S606  (our own program, whatever it is by now)

    async def stop(self) -> None:
        """Let go of an upgrade under way."""
        for work in (self._checking, self._going):
            if work is not None:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)


def _told(error: Exception) -> PerdureError:
    if isinstance(error, PerdureError):
        return error
    if isinstance(error, OSError):
        return Unavailable(f"The system refused to execute the new program ({error}); this one goes on.")
    return PerdureError("This is a defect in Perdure; the main program goes on, and its log has more.")


def _command() -> list[str]:
    return [sys.executable, *sys.orig_argv[1:]]


def _ask_new_program() -> dict[str, Any]:
    """The credentials of the program that is installed now, which it prints under `--check`. Raises Misuse."""
    began = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603  (our own program)
            [*_command(), "--check"], capture_output=True, text=True, timeout=CHECK_S_MAX, check=False
        )
        said = done.stderr.strip().splitlines()
        if done.returncode == 0:
            logger.info("the new program starts; that took %.1f s", time.monotonic() - began)
            return dict(json.loads(done.stdout))
        why = said[-1].removeprefix("perdure: ") if said else f"it ended with {done.returncode}"
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        why = str(error)
    raise Misuse(f"The program that is installed now does not start; nothing was stopped, this one goes on: {why}")

"""Requests that wait together share one commit, so one round of evidence. Shell: a queue and a thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import apsw

from perdure.errors import PerdureError
from perdure.kv.database import Database
from perdure.vss.service import Work

WORKS_MAX: Final = 32
"""In one turn: a commit of all of them is no larger than the largest requests together."""


@dataclass(eq=False)
class _Waiting:
    """One request, and the reply for it."""

    work: Work
    done: asyncio.Future[bytes]
    body: bytes = field(default=b"", repr=False)

    def __call__(self, connection: apsw.Connection) -> None:
        self.body = self.work(connection)


class Turns:
    """Serves a database to one event loop; `do` may be awaited by many at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, "database")
        self._waiting: list[_Waiting] = []
        self._running: asyncio.Task[None] | None = None

    async def do(self, work: Work) -> bytes:
        """What `work` returns, once it is durable and proved; see `Database.do`, which says what is raised."""
        waiting = _Waiting(work, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await waiting.done

    @property
    def has_ended(self) -> bool:
        """Whether the database failed, so that everything does."""
        return self._database.failure is not None

    async def close(self) -> None:
        """Return when the last turn has ended; what still waits is done too."""
        if self._running is not None:
            await self._running
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            turn, self._waiting = self._waiting[:WORKS_MAX], self._waiting[WORKS_MAX:]
            try:
                errors = await loop.run_in_executor(self._thread, self._database.turn, turn)
            except PerdureError as error:
                errors = [error] * len(turn)
            for waiting, why in zip(turn, errors, strict=True):
                _tell(waiting, why)
        self._running = None


def _tell(waiting: _Waiting, error: PerdureError | None) -> None:
    if waiting.done.cancelled():  # whoever asked has gone
        return
    if error is None:
        waiting.done.set_result(waiting.body)
    else:
        waiting.done.set_exception(error)

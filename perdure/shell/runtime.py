"""Time, randomness and concurrency for the array core, from asyncio and the operating system."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Coroutine
from typing import Any

_LOG = logging.getLogger(__name__)


class AsyncioEvent:
    """Happens once. As asyncio's, less what only an event that can be cleared needs: one is made for every request."""

    __slots__ = ("_has_happened", "_waiting")

    def __init__(self) -> None:
        self._has_happened = False
        self._waiting: list[asyncio.Future[None]] = []

    def set(self) -> None:
        """Let it happen."""
        self._has_happened = True
        for future in self._waiting:
            if not future.done():  # else whoever waited was cancelled
                future.set_result(None)
        self._waiting.clear()

    async def wait(self) -> None:
        """Return when it has happened."""
        if not self._has_happened:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future


class AsyncioRuntime:
    """A `Runtime` (perdure.array.ports)."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def now_ms(self) -> int:
        """Milliseconds on a clock that never goes back."""
        return time.monotonic_ns() // 1_000_000

    def unix_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def random(self, count: int) -> bytes:
        """Bytes from the operating system's generator."""
        return os.urandom(count)

    async def sleep(self, ms: float) -> None:
        """Return after `ms` milliseconds."""
        await asyncio.sleep(ms / 1000)

    def event(self) -> AsyncioEvent:
        """A new event."""
        return AsyncioEvent()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the caller."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def gather(self, *work: Awaitable[Any]) -> list[Any]:
        """All at once; an exception stands in the place of its result."""
        return await asyncio.gather(*work, return_exceptions=True)

    async def stop(self) -> None:
        """Cancel what still runs, and wait until it has ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.critical("a defect in Perdure: background work failed", exc_info=error)

"""Group commit: which FLUSHes share one round of evidence.

A round costs each disk one document and this program one verification for each disk, whoever waits for it, so the
more wait for one round, the more are served. One round is under way at a time, and whoever comes meanwhile waits for
the next. When it ends, those whom it served are likely to come again at once (a database's clients do); so the next
round waits for as many as there were, served and waiting, but no longer than half of what a round takes. Whoever
flushes alone is never kept waiting.
"""

from __future__ import annotations

from collections.abc import Callable

from perdure.array.ports import Runtime

GATHER_MS_MAX = 10


class Rounds:
    """When the next round may begin. `wake` is called when a time that was waited for has come."""

    def __init__(self, runtime: Runtime, wake: Callable[[], None]) -> None:
        self._runtime = runtime
        self._wake = wake
        self._is_under_way = False
        self._expected = 0
        self._begun_ms = 0
        self._until_ms = 0
        self._is_waking = False

    def may_begin(self, waiting: int) -> bool:
        """Whether a round for `waiting` FLUSHes may begin now; if only not yet, `wake` is called in time."""
        if not waiting or self._is_under_way:
            return False
        left_ms = self._until_ms - self._runtime.now_ms()
        if waiting >= self._expected or left_ms <= 0:
            return True
        if not self._is_waking:
            self._is_waking = True
            self._runtime.spawn(self._wait(left_ms))
        return False

    def begin(self) -> None:
        """A round is sent."""
        self._is_under_way = True
        self._begun_ms = self._runtime.now_ms()

    def end(self, served: int, waiting: int) -> None:
        """The round has served so many, and so many wait already."""
        now = self._runtime.now_ms()
        self._is_under_way = False
        self._expected = served + waiting
        self._until_ms = now + min(GATHER_MS_MAX, (now - self._begun_ms) // 2)

    async def _wait(self, ms: int) -> None:
        await self._runtime.sleep(ms)
        self._is_waking = False
        self._wake()

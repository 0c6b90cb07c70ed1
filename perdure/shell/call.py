"""What a thread has done by an event loop in another thread, and waits for, wherever an interrupt (Ctrl-C) hits it.

`concurrent.futures` takes and leaves its locks in Python: an interrupt between two of its steps can leave one taken for
good, and the loop, which needs it to hand over the result, stands still with everything on it. Here either side only
acquires or releases a lock, which an interrupt finds done or not done.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Final, Generic, TypeVar

from perdure.errors import Misuse

_T = TypeVar("_T")
_LOOK_S: Final = 1.0
"""How often to look whether the loop is closed, which ends nothing by itself."""


class Call(Generic[_T]):
    """One coroutine: `start` gives it to the loop, and the thread that did waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T]) -> None:
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[_T] | None = None
        self._decided = threading.Lock()
        """Taken, once, by whoever decides that the work begins, or that it never does."""
        self._ending = threading.Lock()
        """Free when the work has ended and nobody has noticed that yet."""
        self._ending.acquire()

    def start(self) -> None:
        """Let it begin as soon as the loop comes to it. Raises Misuse for a loop that is closed."""
        try:
            self._loop.call_soon_threadsafe(self._begin)
        except RuntimeError:
            self._work.close()
            raise Misuse("the array is closed; nothing was changed") from None

    def wait(self, seconds: float) -> bool:
        """Whether nothing of it happens any more, waiting for that at most so long."""
        return self._has_ended or self._ending.acquire(timeout=seconds) or self._loop.is_closed()

    def result(self) -> _T:
        """What it returns, or raises. Raises Misuse if the loop is closed before that."""
        while not self.wait(_LOOK_S):
            pass
        if self._task is None or not self._task.done():
            raise Misuse("the array was closed meanwhile; whether this was done is not known")
        return self._task.result()

    def end(self) -> None:
        """Return when nothing of it happens any more: it has ended, or had not begun and never will."""
        if self._decided.acquire(blocking=False):
            self._work.close()
            return
        while not self.wait(_LOOK_S):
            pass

    @property
    def _has_ended(self) -> bool:
        return self._task is not None and self._task.done()

    # On the loop ------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._decided.acquire(blocking=False):
            self._task = self._loop.create_task(self._work)
            self._task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[_T]) -> None:
        if not task.cancelled():
            task.exception()  # seen: whoever was interrupted asks for nothing more
        self._ending.release()

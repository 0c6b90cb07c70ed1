"""Virtual time: a scheduler that runs coroutines in an order which only the seed decides.

Implements `perdure.array.ports.Runtime`. Nothing waits for real: when all work waits, time jumps to the next event.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from random import Random
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")
EPOCH_MS = 1_790_000_000_000
"""What the simulated calendar says at the start: in 2026."""


class Stuck(Exception):
    """Everything waits and nothing will ever happen: a deadlock in the code under test."""


class Future(Generic[_T]):
    """A result that is there once; who awaits it is woken in order."""

    __slots__ = ("_loop", "_result", "_waiting", "done", "error")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: list[Callable[[], None]] = []
        self._result: _T | None = None
        self.error: BaseException | None = None
        self.done = False

    def __await__(self) -> Generator[Any, None, _T]:
        if not self.done:
            yield self
        if self.error is not None:
            raise self.error
        return self._result  # type: ignore[return-value]

    def set_result(self, result: _T) -> None:
        """Give the result, unless there is one."""
        self._finish(result, None)

    def set_error(self, error: BaseException) -> None:
        """Give an error instead, unless there is a result."""
        self._finish(None, error)

    def when_done(self, wake: Callable[[], None]) -> None:
        """Call `wake` soon after the result has come."""
        if self.done:
            self._loop.call_soon(wake)
        else:
            self._waiting.append(wake)

    def _finish(self, result: _T | None, error: BaseException | None) -> None:
        if self.done:
            return
        self._result, self.error, self.done = result, error, True
        for wake in self._waiting:
            self._loop.call_soon(wake)


class Event:
    """A `perdure.array.ports.Event`."""

    __slots__ = ("_future",)

    def __init__(self, loop: Loop) -> None:
        self._future: Future[None] = Future(loop)

    def set(self) -> None:
        """Let it happen."""
        self._future.set_result(None)

    async def wait(self) -> None:
        """Return when it has happened."""
        await self._future


class Lock:
    """One at a time, in the order in which they came: `async with`."""

    __slots__ = ("_last", "_loop", "_mine")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._last = self._mine = Event(loop)
        self._last.set()

    async def __aenter__(self) -> None:
        before, self._last = self._last, Event(self._loop)
        mine = self._last
        await before.wait()
        self._mine = mine

    async def __aexit__(self, *_error: object) -> None:
        self._mine.set()


class Task(Future[_T]):
    """A coroutine under way; itself the future of its result. `owner` is the process it dies with."""

    __slots__ = ("_work", "owner")

    def __init__(self, loop: Loop, work: Coroutine[Any, Any, _T], owner: object) -> None:
        super().__init__(loop)
        self._work = work
        self.owner = owner
        loop.tasks[self] = None
        loop.call_soon(self._step)

    def kill(self) -> None:
        """End it where it stands, without a word to anyone: what a crash does."""
        self.done = True
        self._loop.tasks.pop(self, None)
        self.close()

    def close(self) -> None:
        """Let go of the coroutine."""
        self._work.close()

    def _step(self) -> None:
        loop = self._loop
        if self.done:
            return
        if loop.paused and self.owner in loop.paused:
            loop.paused[self.owner].append(self._step)
            return
        previous, loop.owner = loop.owner, self.owner
        try:
            awaited: Future[Any] = self._work.send(None)
        except StopIteration as stop:
            loop.tasks.pop(self, None)
            self.set_result(stop.value)
        except Exception as error:
            loop.tasks.pop(self, None)
            self.set_error(error)
        else:
            awaited.when_done(self._step)
        finally:
            loop.owner = previous


class Loop:
    """The scheduler, the clock and the generator of one simulated world."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)  # noqa: S311 (a simulation must repeat)
        self.owner: object = None
        """Whose code runs now: tasks that it spawns belong to it."""
        self._now_us = 0
        self._order = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._ready: deque[Callable[[], None]] = deque()
        self._spawned: list[Task[Any]] = []
        self.tasks: dict[Task[Any], None] = {}
        """All that are under way, in the order in which they began, so that a kill repeats as well."""
        self.paused: dict[object, list[Callable[[], None]]] = {}
        """Owners whose processes stand still, and what each will do first when it goes on."""

    def __del__(self) -> None:
        for task in list(self.tasks):
            task.close()

    # Runtime port -----------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Virtual milliseconds since the start."""
        return self._now_us // 1000

    @property
    def time_ms(self) -> float:
        """The same with its fraction."""
        return self._now_us / 1000

    def unix_ms(self) -> int:
        """The simulated calendar."""
        return EPOCH_MS + self.now_ms()

    def random(self, count: int) -> bytes:
        """Bytes that the seed decides."""
        return self.rng.randbytes(count)

    async def sleep(self, ms: float) -> None:
        """Return when virtual time has moved on by `ms`."""
        future: Future[None] = Future(self)
        self.call_later(ms, lambda: future.set_result(None))
        await future

    def event(self) -> Event:
        """A new event."""
        return Event(self)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the caller; an error that escapes it ends the run (`check`)."""
        self._spawned.append(Task(self, work, self.owner))

    async def gather(self, *work: Awaitable[Any]) -> list[Any]:
        """All at once; an exception stands in the place of its result."""

        async def outcome(one: Awaitable[object]) -> object:
            try:
                return await one
            except Exception as error:  # handed to the caller, as the port says
                return error

        tasks = [Task(self, outcome(one), self.owner) for one in work]
        return [await task for task in tasks]

    # Running ----------------------------------------------------------------------------------------------

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call at this moment, after all that is to be called at this moment already."""
        self._ready.append(call)

    def call_later(self, ms: float, call: Callable[[], None]) -> None:
        """Call after `ms` of virtual time; calls of one moment happen in the order in which they were made."""
        us = int(ms * 1000)
        if us <= 0:
            self._ready.append(call)
            return
        self._order += 1
        heapq.heappush(self._queue, (self._now_us + us, self._order, call))

    def run(self, work: Coroutine[Any, Any, _T], owner: object = None) -> _T:
        """Run `work` to its end and return its result. Raises Stuck when it can never end."""
        task: Task[_T] = Task(self, work, owner)
        while not task.done:
            self.step()
        self.check()
        for_result = task.__await__()
        try:
            next(for_result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        raise AssertionError("a finished task has a result")

    def step(self) -> None:
        """Do the next thing."""
        if self._ready:
            self._ready.popleft()()
            return
        if not self._queue:
            raise Stuck(f"at {self.now_ms()} ms everything waits for something that will not happen")
        self._now_us, _, call = heapq.heappop(self._queue)
        call()

    def run_for(self, ms: float) -> None:
        """Let `ms` of virtual time pass."""

        async def wait() -> None:
            await self.sleep(ms)

        self.run(wait())

    def pause(self, owner: object) -> None:
        """Let no task of `owner` run until `resume`; time and the network go on."""
        self.paused.setdefault(owner, [])

    def resume(self, owner: object) -> None:
        """Let `owner` go on where it stood."""
        self._ready.extend(self.paused.pop(owner, []))

    def kill(self, owner: object) -> None:
        """End every task of `owner`, as the death of its process does."""
        self.paused.pop(owner, None)
        for task in [task for task in self.tasks if task.owner is owner]:
            task.kill()

    def check(self) -> None:
        """Raise the first error that escaped a spawned task: always a defect."""
        alive = []
        for task in self._spawned:
            if not task.done:
                alive.append(task)
            elif task.error is not None:
                raise task.error
        self._spawned = alive

"""What an interrupt leaves, at every single step at which one can come, and what is left when the loop is closed."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from perdure.api import SyncArray
from perdure.errors import Misuse
from perdure.shell.call import Call


class InThread:
    """A loop in a thread of its own, as an array has it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()


@pytest.fixture
def beside() -> Iterator[InThread]:
    found = InThread()
    yield found
    found.close()


def interrupted_at(step: int, array: SyncArray, steps: list[str]) -> bool:
    """Do something on the array, with an interrupt before instruction `step` of this thread; whether it came."""
    left = step

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        frame.f_trace_opcodes = True
        left -= event == "opcode"
        if left < 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    async def work(_: object) -> None:
        steps.append("begun")
        await asyncio.sleep(0.001)
        steps.append("ended")

    sys.settrace(trace)
    try:
        array.call(work)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return left < 0  # the interpreter swallows one that comes where it clears up


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # where it came before anything was handed over
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_before_any_instruction_finds_what_was_asked_for_ended_or_never_begun(beside: InThread) -> None:
    array = SyncArray(None, None, beside.loop)  # type: ignore[arg-type]  # neither is asked for anything
    for step in range(10_000):
        steps: list[str] = []
        came = interrupted_at(step, array, steps)
        at_once = list(steps)
        following: list[str] = []
        assert not interrupted_at(sys.maxsize, array, following)
        assert following == ["begun", "ended"], "the loop goes on"
        assert steps == at_once, f"it went on behind who was interrupted at step {step}"
        assert at_once in ([], ["begun", "ended"])
        if not came:
            break
    assert step > 100


async def forever() -> None:
    await asyncio.Event().wait()


def test_who_waits_for_a_loop_that_is_closed_is_told_so(beside: InThread) -> None:
    call, told = Call(beside.loop, forever()), []

    def wait() -> None:
        with pytest.raises(Misuse, match="closed meanwhile") as caught:
            call.result()
        told.append(caught)

    call.start()
    Call(beside.loop, asyncio.sleep(0)).start()
    waiting = threading.Thread(target=wait)
    waiting.start()
    beside.close()
    waiting.join()
    assert len(told) == 1
    call.end()
    assert call.wait(0)


def test_a_loop_that_is_closed_already_takes_nothing(beside: InThread) -> None:
    beside.close()
    call = Call(beside.loop, forever())
    with pytest.raises(Misuse, match="closed; nothing was changed"):
        call.start()
    call.end()


def test_what_it_raised_is_raised_where_it_is_waited_for(beside: InThread) -> None:
    async def fail() -> None:
        raise Misuse("not this")

    array = SyncArray(None, None, beside.loop)  # type: ignore[arg-type]
    with pytest.raises(Misuse, match="not this"):
        array.call(lambda _: fail())
